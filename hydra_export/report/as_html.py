"""The report as one HTML page that asks for nothing else: style and charts are in it, and there is no script."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from hydra_export.report import summary
from hydra_export.report.change_section import changed
from hydra_export.report.device_section import devices
from hydra_export.report.findings import Findings
from hydra_export.report.markup import Markup, tag
from hydra_export.report.sections import accuracy, card, measured, parity, sizes

MARK = '<meta name="generator" content="hydra-export report">'
_TITLES = {
    "changes": "What changed",
    "accuracy": "Accuracy",
    "size": "Size",
    "parity": "Parity",
    "latency": "Measured latency",
    "devices": "Devices",
    "model": "Model card",
}


def page(findings: Findings) -> str:
    """The whole document."""
    style = resources.files("hydra_export.report").joinpath("page.css").read_text(encoding="utf-8")
    title = f"{findings.model.name}: report of a bundle"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style)),
        Markup(MARK),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        Markup(f"<style>{style}</style>"),
    )
    shown = _sections(findings)
    links = (tag("li", tag("a", _TITLES[name], href=f"#{name}")) for name in shown)
    body = tag(
        "body",
        tag("a", "Skip to the report", href="#report", class_="skip"),
        _header(findings),
        tag("nav", tag("ul", links), aria_label="Sections"),
        tag("main", shown.values(), id="report", tabindex=-1),
        tag("footer", tag("p", f"Written by hydra-export report from the manifest of {findings.bundle}.")),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _policy(style: str) -> str:
    """Nothing may be loaded, sent or run; of styles, only the one that is here."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def _sections(findings: Findings) -> dict[str, Markup]:
    shown = {"changes": changed(findings.changes)} if findings.changes is not None else {}
    return shown | {
        "accuracy": accuracy(findings),
        "size": sizes(findings),
        "parity": parity(findings),
        "latency": measured(findings),
        "devices": devices(findings),
        "model": card(findings),
    }


def _header(findings: Findings) -> Markup:
    config = findings.model.config
    kind = "plain ViT" if findings.model.is_plain else "HydraViT"
    cut = ", ".join(str(entry.heads) for entry in findings.subnetworks)
    whole = [entry.heads for entry in findings.subnetworks] == [config.heads]
    about = (
        f"A {kind} of {config.heads} heads{'' if whole else f', cut to {cut}'}: "
        "each artifact was run and compared with the PyTorch model."
    )
    facts = summary.glance(findings)
    bad = {"Warnings", "Regressions"} if findings.changes and findings.changes.regressions else {"Warnings"}
    listed = (
        tag("div", tag("dt", term), tag("dd", said, class_="bad" if term in bad else None))
        for term, said in facts.items()
    )
    return tag("header", tag("h1", findings.model.name), tag("p", about), tag("dl", listed, class_="glance"))
