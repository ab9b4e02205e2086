"""The report as Markdown, for a comment on a pull request: what there is, what changed, what became worse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra_export.latency import Advice
from hydra_export.latency.words import choice, time
from hydra_export.report import summary, words
from hydra_export.report.cascade_section import cascades_table
from hydra_export.report.change_section import NOTHING, tables
from hydra_export.report.changes import Changes
from hydra_export.report.device_section import chosen
from hydra_export.report.findings import Findings
from hydra_export.report.sections import sizes_table, subnetworks_table
from hydra_export.target import GATED
from hydra_export.text import in_code, in_markdown

MARK = "<!-- hydra-export report -->"
_MOST_ITEMS = 30  # a comment is no list of everything
_TERMS = ("Warnings", "Parity", *GATED, "Measured")


def markdown(findings: Findings) -> str:
    """The whole comment; its first line tells later runs which comment is theirs."""
    return "\n\n".join(filter(None, _parts(findings))) + "\n"


def _parts(findings: Findings) -> Iterator[str]:
    changes = findings.changes
    yield from (MARK, f"### {in_markdown(findings.model.name)}")
    if changes is not None:
        yield from _headline(changes)
    yield from (subnetworks_table(findings).markdown(), sizes_table(findings).markdown())
    if findings.calibration is not None and findings.calibration.cascades:
        yield cascades_table(findings.calibration, findings).markdown()
    yield _listed([f"{term}: {text}" for term, text in summary.glance(findings).items() if term in _TERMS])
    if changes is not None and changes.nothing:
        yield f"Nothing changed: {NOTHING}."
    elif changes is not None:
        yield "#### What changed"
        yield from (table.markdown() for table in tables(changes))
    if findings.devices or findings.chosen:
        yield "#### Devices"
        yield from (table.markdown() for table in chosen(findings))
        yield _listed([*map(_advice, findings.devices)])


def _advice(advice: Advice) -> str:
    sentences = choice(advice)
    if advice.heads is not None:
        chosen = advice.estimates[advice.heads]
        sentences.insert(0, f"{time(chosen.ms, chosen.low, chosen.high, chosen.provenance)}.")
    return f"{advice.profile.name}: {' '.join(sentences)}"


def _headline(changes: Changes) -> Iterator[str]:
    since, count = f"since {in_code(changes.against)}", len(changes.regressions)
    yield f"**{words.counted(count, 'regression')}** {since}:" if count else f"**No regression** {since}."
    yield _listed(changes.regressions)


def _listed(texts: Sequence[str]) -> str:
    lines = [f"- {in_markdown(text)}" for text in texts[:_MOST_ITEMS]]
    more = len(texts) - _MOST_ITEMS
    return "\n".join([*lines, f"- {more} more"] if more > 0 else lines)
