"""What tools print or write that time one file on a device: the targets read it, each of its own tools."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_export.errors import BadInput

if TYPE_CHECKING:
    from hydra_export.device import NumberFormat, Ops, Statistic
    from hydra_export.target import ComputeUnit

_LONGEST_NUMBER = 40  # letters
_Z_80 = 1.2816  # standard deviations on each side of 80 %


@dataclass(frozen=True)
class Measured:
    """One time, as the *tool* told it; *graph* is the file's name, empty where it does not say."""

    tool: str
    ms: float
    statistic: Statistic
    unit: ComputeUnit
    low: float | None = None
    high: float | None = None
    graph: str = ""
    precision: NumberFormat | None = None
    threads: int | None = None
    peak_memory_mb: float | None = None
    ops: Ops | None = None
    note: str = ""


def positive(value: object, name: str, path: Path) -> float:
    """The number *value*; BadInput naming *name* in *path* where it is none above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise BadInput(f"{path}: {name}: {str(value)[:80]} is not a number above 0.", "Pass the file unchanged.")
    return float(value)


def number(text: str) -> float | str:
    """What *text* says, or the text itself where that is no number."""
    try:
        return float(text) if len(text) < _LONGEST_NUMBER else text
    except ValueError:
        return text


def time_of(found: re.Match[str] | None, name: str, path: Path) -> float:
    """What the first group of *found* says; BadInput naming *name* in *path* where it is no number above 0."""
    return positive(number(found[1]) if found else None, name, path)


def around(ms: float, deviation: float) -> tuple[float, float]:
    """Between which 80 % of the times lie that are *ms* in the middle and have this standard *deviation*."""
    return max(ms - _Z_80 * deviation, ms / 10), ms + _Z_80 * deviation
