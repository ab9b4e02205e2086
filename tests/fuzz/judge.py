"""Gives one input to a reader and says what became of it: accepted, refused by an error of ours, or trouble."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
import traceback
import tracemalloc
import warnings
from dataclasses import dataclass
from pathlib import Path

from hydra_export.errors import HydraExportError
from tests.fuzz.reader import Reader

MOST_SECONDS = 1.0  # of the processor: how busy the machine is says nothing of the input
_FREE_BYTES, _BYTES_PER_BYTE = 64 * 2**20, 4  # what a reader may take for an input
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 2**10
_MIB = 2**20


@dataclass(frozen=True)
class Fate:
    """What became of an input.

    Attributes:
        refusal: the class of the error that refused it; empty where it was accepted, or is trouble.
        trouble: what went wrong, empty where nothing did; *kind* is the same for the same cause, so far as can be told.
    """

    refusal: str = ""
    trouble: str = ""
    kind: str = ""


def judge(reader: Reader, path: Path, *, traced: bool = False) -> Fate:
    """What *reader* does with the file at *path*.

    Args:
        traced: counts what Python allocates, which finds memory that is never touched and takes several times as long.
    """
    size, start, peak = path.stat().st_size, time.process_time(), _peak_bytes()
    refusal, trouble, kind = "", "", ""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        if traced:
            tracemalloc.start()
        try:
            reader.read(path)
        except HydraExportError as error:
            refusal = type(error).__name__
        except Exception as error:  # noqa: BLE001 (what else it raises is the question)
            trouble, kind = "".join(traceback.format_exception(error)), _kind(error)
        finally:
            allocated = tracemalloc.get_traced_memory()[1] if traced else 0
            tracemalloc.stop()
    seconds, taken = time.process_time() - start, max(_peak_bytes() - peak, allocated)
    if trouble:
        return Fate(trouble=trouble, kind=kind)
    if heard:
        return Fate(trouble=f"it warns: {heard[0].message}", kind=f"warning {heard[0].category.__name__}")
    if taken > _FREE_BYTES + _BYTES_PER_BYTE * size and taken > reader.needs(path.read_bytes()) + _FREE_BYTES:
        forget_peak()
        return Fate(
            trouble=f"it takes {taken / _MIB:.0f} MiB for {size:,} bytes ({refusal or 'accepted'})", kind="memory"
        )
    if seconds > MOST_SECONDS * (5 if traced else 1):
        return Fate(trouble=f"it takes {seconds:.1f} s for {size:,} bytes ({refusal or 'accepted'})", kind="time")
    return Fate(refusal=refusal)


def forget_peak() -> None:
    """Lets the most memory that this process ever had be what it has now, where the system can: else one is hidden
    by a larger one before it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES


def _kind(error: BaseException) -> str:
    """The error's class and the last line of ours that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "hydra_export" in Path(frame.filename).parts] or frames[-1:]
    return f"{type(error).__name__} in {Path(ours[-1].filename).name}:{ours[-1].name}"
