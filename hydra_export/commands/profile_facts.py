"""``hydra-export profile list`` and ``show``: which devices are known, and what of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from rich.console import Group
from rich.table import Table

from hydra_export.commands import Result, table, titled
from hydra_export.device import Cluster
from hydra_export.latency import words
from hydra_export.latency.spread import rounded
from hydra_export.profiles import ResolvedProfile
from hydra_export.text import counted


def summary(resolved: ResolvedProfile) -> dict[str, Any]:
    profile = resolved.profile
    return {
        "id": profile.id,
        "name": profile.name,
        "class": profile.device_class,
        "soc": profile.facts.soc.value if profile.facts.soc else None,
    }


def list_devices(devices: Mapping[str, ResolvedProfile]) -> Result:
    shown = _folding(table("device", "name", "SoC", "times"), 1, 2)
    rows = []
    for name, resolved in sorted(devices.items(), key=lambda pair: (pair[1].profile.device_class, pair[0])):
        profile, num = resolved.profile, len(resolved.profile.latency)
        about = summary(resolved)
        times = f"{num} ({len(resolved.own)} yours)" if resolved.own else str(num or "-")
        shown.add_row(name, profile.name, about["soc"] or "-", times)
        budget = profile.budget.ms if profile.budget else None
        known = {"times": num, "own_times": len(resolved.own), "budget_ms": budget}
        rows.append({**about, **known, "profile": msgspec.to_builtins(profile)})
    note = "times: measured or published for Vision Transformers; a device without any is estimated from other devices"
    return Result({"devices": rows}, titled(counted(len(rows), "device"), shown, note))


def shown_device(resolved: ResolvedProfile) -> Result:
    profile = resolved.profile
    facts = _folding(table("fact", "value", "source"), 1, 2)
    for name in profile.facts.__struct_fields__:
        if fact := getattr(profile.facts, name):
            note = f" ({fact.note})" if fact.note else ""
            facts.add_row(name, _value(fact.value) + note, fact.source)
    for key in ("android_model", "android_soc_model", "ios_machine", "devicetree_model", "cpu_name"):
        if values := getattr(profile.match, key):
            facts.add_row(f"says {key}", ", ".join(values), profile.match.source)
    if profile.budget:
        facts.add_row("budget", f"{profile.budget.ms:g} ms, {profile.budget.reason}", "our choice")
    times = _folding(table("model", "k", "ms", "batch", "threads", "how", "date", "evidence", "source"), 0, 5, 6, 7, 8)
    for record in profile.latency:
        evidence = words.evidence(record.provenance) + (" (yours)" if record in resolved.own else "")
        evidence += f" (unused: {record.suspect})" if record.suspect else ""
        how = f"{record.runtime} {record.precision} {record.unit.upper()}"
        counts = (str(record.k or "-"), rounded(record.ms), str(record.batch), str(record.threads or "-"))
        times.add_row(record.model, *counts, how, record.date, evidence, record.source)
    sources = [f"{key}: {text}" for key, text in profile.sources.items()]
    files = [f"File: {path}" for path in resolved.files]
    title = f"{profile.name} ({profile.id}), {profile.device_class}"
    timed = [times] if profile.latency else ["No Vision Transformer was timed on this device.", ""]
    shown = Group(titled(title, facts), *timed, *sources, *files)
    return Result({"profile": msgspec.to_builtins(profile), "files": [*map(str, resolved.files)]}, shown)


def _folding(shown: Table, *columns: int) -> Table:
    """Its *columns* are text, which takes more lines where the terminal is narrow."""
    for index in columns:
        column = shown.columns[index]
        column.justify, column.no_wrap, column.overflow = "left", False, "fold"
    return shown


def _value(value: Any) -> str:
    match value:
        case (Cluster(), *_):
            return " + ".join(f"{c.cores}x {c.core}" + (f" {c.ghz:g} GHz" if c.ghz else "") for c in value)
        case tuple():
            return " to ".join(f"{end:g}" for end in value)
        case float():
            return f"{value:g}"
    return str(value)
