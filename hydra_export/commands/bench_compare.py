"""``hydra-export bench compare``: how two measurements of a model differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_export import bench as measuring
from hydra_export.commands import Result, filled, talk, titled
from hydra_export.errors import BadInput, CheckFailed
from hydra_export.latency.spread import rounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from hydra_export.bench import Comparison, Report


def compared(new: Report, old: Report, old_path: Path, limit: float) -> Result:
    """What changed; CheckFailed where something surely takes more than *limit* percent longer."""
    both, added, gone = measuring.compare(new, old)
    if not both:
        raise BadInput(
            f"{old_path} and the later file have no timings in common.", "Time the same runtimes and threads again."
        )
    share = limit / 100
    regressed = [one for one in both if one.regressed(share)]

    def verdict(one: Comparison) -> str:
        return "slower" if one in regressed else one.doubt(share) or ("faster" if one.high < 1 / (1 + share) else "")

    runtimes, threads = ({getattr(one.timing, name) for one in both} for name in ("runtime", "threads"))
    columns: dict[str, Callable[[Comparison], str] | None] = {
        "artifact": lambda one: one.timing.path,
        "k": lambda one: str(one.timing.heads),
        "runtime": (lambda one: one.timing.runtime) if len(runtimes) > 1 else None,
        "threads": (lambda one: str(one.timing.threads)) if len(threads) > 1 else None,
        "was": lambda one: rounded(one.old_ms),
        "is, ms": lambda one: rounded(one.timing.median_ms),
        "ratio": lambda one: f"{one.ratio:.3f}",
        "95 % interval": lambda one: f"{one.low:.3f} to {one.high:.3f}",
        "": verdict if any(map(verdict, both)) else None,
    }
    notes = [f"Only timed later: {len(added)}; only earlier: {len(gone)}."] if added or gone else []
    if old.machine.says != new.machine.says:
        then = next(iter(old.machine.says.values()), ("another machine",))[0]
        notes += [f"The earlier machine was another one: {then}. The ratios compare machines."]
    shown = titled(f"{new.model.name}, {new.date} compared with {old.date}", filled(columns, both), *notes)
    if regressed:
        talk().print(shown)
        worst = max(regressed, key=lambda one: one.ratio)
        raise CheckFailed(
            f"{len(regressed)} of {len(both)} take more than {limit:g} % longer than in {old_path}, "
            f"with 95 % confidence: {worst.timing.path} at k = {worst.timing.heads} in {worst.timing.runtime} by "
            f"{100 * worst.ratio - 100:.1f} %.",
            "Repeat it on a quiet machine, or raise `max_regression`.",
        )
    cells = [_cell(one) for one in both]
    return Result({"compared": {"with": str(old_path), "cells": cells}}, shown)


def _cell(one: Comparison) -> dict[str, Any]:
    timing = one.timing
    return {
        "path": timing.path,
        "heads": timing.heads,
        "runtime": timing.runtime,
        "threads": timing.threads,
        "ratio": one.ratio,
        "low": one.low,
        "high": one.high,
        "of_fastest": one.of_fastest,
        "regressed": False,
    }
