"""The report as Markdown, for a comment on a pull request: what there is, what changed, what became worse."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hydra_export.report import summary, words
from hydra_export.report.change_section import artifact_row, both, changed_fact
from hydra_export.report.changes import Changes
from hydra_export.report.device_section import choice, chosen_time, fits
from hydra_export.report.facts import by_kind
from hydra_export.report.findings import Findings
from hydra_export.text import in_code, in_markdown

MARK = "<!-- hydra-export report -->"
_MOST_ROWS = 30  # a comment is no table of everything
_SHORT_HASH = 12


def markdown(findings: Findings) -> str:
    """The whole comment; its first line tells later runs which comment is theirs."""
    changes = findings.changes
    parts = [
        MARK,
        f"### {in_markdown(findings.model.name)}",
        *_headline(changes),
        _subnetworks(findings),
        _facts(findings),
    ]
    if changes is not None:
        parts += _changed(changes)
    parts += _devices(findings)
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(changes: Changes | None) -> list[str]:
    if changes is None:
        return []
    if not changes.regressions:
        return [f"**No regression** since {in_code(changes.against)}."]
    listed = "\n".join(f"- {in_markdown(each)}" for each in changes.regressions[:_MOST_ROWS])
    said = words.counted(len(changes.regressions), "regression")
    return [f"**{said}** since {in_code(changes.against)}:", listed]


def _subnetworks(findings: Findings) -> str:
    """A column for each, so that the table stays narrow however many kinds of artifacts there are."""
    was = {each.heads: each for each in findings.changes.accuracies} if findings.changes else {}
    counts = [entry.heads for entry in findings.subnetworks]
    top1 = [
        both(words.accuracy(was[s.heads].before), words.accuracy(was[s.heads].after))
        if s.heads in was
        else words.accuracy(s.accuracy)
        for s in findings.subnetworks
    ]
    rows = [["GMACs", *(f"{s.gmacs:.4g}" for s in findings.subnetworks)], ["top-1", *top1]]
    for kind, own in by_kind(findings.artifacts).items():
        sizes = [next((words.size(p.fetch_bytes) for p in own if k in p.heads), "") for k in counts]
        rows.append([f"{kind}, to fetch", *sizes])
    return _table(["", *(f"k = {k}" for k in counts)], rows)


def _facts(findings: Findings) -> str:
    wanted = ("Warnings", "Parity", "int8", "Measured")
    said = {term: text for term, text in summary.glance(findings).items() if term in wanted}
    return "\n".join(f"- {term}: {in_markdown(text)}" for term, text in said.items())


def _changed(changes: Changes) -> list[str]:
    if changes.nothing:
        return ["Nothing changed: the artifacts, the model and the tools are the same."]
    parts = ["#### What changed"]
    altered = [each for each in changes.artifacts if each.status != "same"]
    if altered:
        rows = [[in_code(row[0]), *map(in_markdown, row[1:])] for row in map(artifact_row, altered)]
        parts += [_table(["artifact", "", "to fetch", "parity, share of allowed", "int8, top-1"], rows, raw=True)]
    sure = [each for each in changes.latencies if each.sure]
    if sure:
        rows = [
            [
                f"{in_code(each.path)}, k = {each.heads}",
                in_markdown(each.runtime),
                words.milliseconds(each.before_ms),
                words.milliseconds(each.after_ms),
                f"{words.ratio(each.ratio)} ({words.ratios(each.low, each.high)})",
            ]
            for each in sure
        ]
        parts += [_table(["artifact", "in", "was", "is", "change, 95 % interval"], rows, raw=True)]
    if len(changes.latencies) > len(sure):
        parts += [f"{words.counted(len(changes.latencies) - len(sure), 'time')} did not surely change."]
    parts += ["Measured on another machine then: the ratios compare machines."] if changes.other_machine else []
    facts = [
        f"- {in_markdown(each.what)}: {in_markdown(_short(changed_fact(each)))}"
        for each in (*changes.facts, *changes.tools)
    ]
    facts += [
        f"- {in_markdown(each.device)}: {both(_choice(each.before), _choice(each.after))}" for each in changes.choices
    ]
    return [*parts, "\n".join(facts)]


def _devices(findings: Findings) -> list[str]:
    if not findings.devices and not findings.chosen:
        return []
    there = {entry.id for entry in findings.chosen}
    rows = [
        [entry.name, "" if entry.heads is None else f"k = {entry.heads}", chosen_time(entry), fits(entry), entry.why]
        for entry in findings.chosen
    ]
    for device in findings.devices:
        if device.id in there:
            continue
        chosen = next((t for t in device.times if t.heads == device.choice), None)
        said = choice(device) if device.times else f"No number: {device.unknown}."
        time, sure = "", ""
        if chosen:
            evidence = chosen.provenance.replace("_", ", ")
            time = f"{words.milliseconds(chosen.ms)} ({words.interval(chosen.low, chosen.high)}, {evidence})"
            sure = chosen.fits
        rows.append([device.name, f"k = {device.choice}" if device.choice else "", time, sure, said])
    return ["#### Devices", _table(["device", "runs", "time", "fits", "why"], rows)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, raw: bool = False) -> str:
    """*raw*: the cells are Markdown already."""
    cells = [row if raw else [in_markdown(cell) for cell in row] for row in rows]
    lines = [_row(map(in_markdown, columns)), _row("---" for _ in columns), *map(_row, cells[:_MOST_ROWS])]
    more = [f"\n{len(rows) - _MOST_ROWS} more rows are in the HTML report."] if len(rows) > _MOST_ROWS else []
    return "\n".join([*lines, *more])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(text: str) -> str:
    """Hashes shortened: a comment is read by people."""
    return re.sub(rf"\b([0-9a-f]{{{_SHORT_HASH}}})[0-9a-f]{{{64 - _SHORT_HASH}}}\b", r"\1", text)


def _choice(heads: int | None) -> str:
    return f"k = {heads}" if heads else "none"
