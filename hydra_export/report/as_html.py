"""The report as one HTML page that asks for nothing else: style and charts are in it, and there is no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import partial
from importlib import resources

from hydra_export.report import summary
from hydra_export.report.cascade_section import calibration
from hydra_export.report.change_section import changed
from hydra_export.report.device_section import devices
from hydra_export.report.findings import Findings
from hydra_export.report.markup import Markup, tag
from hydra_export.report.sections import Section, accuracy, card, measured, parity, sizes

MARK = '<meta name="generator" content="hydra-export report">'


def page(findings: Findings) -> str:
    """The whole document."""
    style = resources.files("hydra_export.report").joinpath("page.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style)),
        Markup(MARK),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{findings.model.name}: report of a bundle"),
        tag("link", rel="icon", href="data:,"),
        Markup(f"<style>{style}</style>"),
    )
    sections = [*_sections(findings)]
    links = (tag("li", tag("a", section.title, href=f"#{section.ident}")) for section in sections)
    body = tag(
        "body",
        tag("a", "Skip to the report", href="#report", class_="skip"),
        _header(findings),
        tag("nav", tag("ul", links), aria_label="Sections"),
        tag("main", (section.html() for section in sections), id="report", tabindex=-1),
        tag(
            "footer",
            tag("p", f"Written by hydra-export report from the manifest of {findings.bundle}."),
            _absent(findings),
        ),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _policy(style: str) -> str:
    """Nothing may be loaded, sent or run; of styles, only the one that is here."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def _sections(findings: Findings) -> Iterator[Section]:
    if findings.changes is not None:
        yield changed(findings.changes)
    yield accuracy(findings)
    yield from calibration(findings)
    yield sizes(findings)
    yield parity(findings)
    if findings.measured:
        yield measured(findings)
    if findings.devices or findings.chosen:
        yield devices(findings)
    yield card(findings)


def _absent(findings: Findings) -> Iterator[Markup]:
    """How to get what this report lacks."""
    code = partial(tag, "code")
    if not findings.measured:
        how = code("hydra-export bench BUNDLE --out bench.json"), code("hydra-export report BUNDLE --bench bench.json")
        yield tag("p", "To add measured times, run ", how[0], " and then ", how[1], ".")
    if not (findings.devices or findings.chosen):
        how = code("hydra-export report BUNDLE --device pixel7,rpi5"), code("hydra-export profile list")
        yield tag("p", "To add what phones and boards run, use ", how[0], ". ", how[1], " lists the devices.")


def _header(findings: Findings) -> Markup:
    config = findings.model.config
    kind = "plain ViT" if findings.model.is_plain else "HydraViT"
    cut = ", ".join(str(entry.heads) for entry in findings.subnetworks)
    whole = [entry.heads for entry in findings.subnetworks] == [config.heads]
    about = (
        f"A {kind} with {config.heads} heads{'' if whole else f', cut to {cut}'}. "
        "Each artifact was run and compared with the PyTorch model."
    )
    bad = {"Warnings", "Regressions"} if findings.changes and findings.changes.regressions else {"Warnings"}
    facts = (
        tag("div", tag("dt", term), tag("dd", text, class_="bad" if term in bad else None))
        for term, text in summary.glance(findings).items()
    )
    return tag("header", tag("h1", findings.model.name), tag("p", about), tag("dl", facts, class_="glance"))
