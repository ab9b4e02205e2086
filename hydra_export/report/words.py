"""Numbers as a person reads them, the same in every form of the report."""

from __future__ import annotations

from collections.abc import Iterable

from hydra_export.latency.words import interval as interval
from hydra_export.latency.words import milliseconds as milliseconds

UNKNOWN = "unknown"
DASH = "\N{EN DASH}"
_MOST_LETTERS = 200
MINUS = "\N{MINUS SIGN}"


def size(count: float) -> str:
    """Bytes, decimal, as file managers and app stores count."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def accuracy(percent: float | None) -> str:
    return UNKNOWN if percent is None else f"{percent:.2f} %"


def points(change: float) -> str:
    """A change of an accuracy, in percentage points."""
    return f"{signed(change, 2)} points"


def signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else f"{MINUS if value < 0 else '+'}{text}"


def share(part: float) -> str:
    """A share of what is allowed, in percent: two digits, and never 0 or 100 % of what is only near."""
    percent = 100 * part
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"


def ratio(change: float) -> str:
    """A factor as a change in percent."""
    return f"{signed(100 * change - 100, 1)} %"


def ratios(low: float, high: float) -> str:
    return f"{ratio(low).removesuffix(' %')} to {ratio(high)}"


def trained(trained: bool | str) -> str:
    return trained if isinstance(trained, str) else "yes" if trained else "no"


def heads(counts: Iterable[int]) -> str:
    return f"k = {', '.join(map(str, sorted(counts)))}"


def enumerated(texts: Iterable[str]) -> str:
    """``a, b and c``."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def clipped(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]} ..."


def counted(number: int, one: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number:,} {one}{'s' * (number != 1)}"
