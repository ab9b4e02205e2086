"""``hydra-export bench``: how long do a bundle's artifacts take on this machine, or on a board?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App

from hydra_export.commands import Flag, Result, candidates, examples, filled, size, talk, titled
from hydra_export.commands.candidates import one_of, some_of
from hydra_export.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from hydra_export.bench import Report, Timing
    from hydra_export.bundle import Manifest

app = App(
    name="bench",
    help_epilogue=examples(
        "hydra-export bench hydra-bundle --threads 1,4",
        "hydra-export bench --save",
    ),
)


@app.default
def bench(
    bundle: Path = Path("hydra-bundle"),
    *,
    runs: int = 50,
    threads: str = "1",
    runtime: Annotated[str | None, some_of(candidates.bench_runtimes)] = None,
    save: Flag = False,
    device: Annotated[str | None, one_of(candidates.devices)] = None,
    profiles: Path | None = None,
    out: Path | None = None,
    limit_memory: int | None = None,
    limit_seconds: float | None = None,
) -> Result:
    """Time a bundle's artifacts on this machine, each in its own process; the processes take turns.

    Args:
        bundle: The bundle's folder.
        runs: Timed calls for each artifact, head count, runtime and thread count, after a warm-up.
        threads: Threads of the runtime; comma-separated numbers are tried one after the other.
        runtime: Comma-separated runtimes; by default all that are installed.
        save: Save the times in your profile of this device; "profile" then uses them.
        device: With --save: this device's name, if it is not recognised.
        profiles: With --save: the folder of your own profiles, instead of the default one.
        out: A file for the JSON result, for bench compare and report --bench.
        limit_memory: Memory limit in MiB of each artifact's process; by default 2 GiB, more with many cores, plus three
            times the artifact's weights, or what is free. Linux only: macOS has no such limits.
        limit_seconds: Time limit in seconds to load an artifact, and for its first call; by default enough for a slow
            board.
    """
    from hydra_export import bench as measuring
    from hydra_export import bundle as bundles
    from hydra_export.commands.progress import shown_progress
    from hydra_export.errors import BadInput
    from hydra_export.guard import RunLimits

    if not 1 <= runs <= 100_000:
        raise BadInput(f"`runs` is {runs}.", "Use a number from 1 to 100000.")
    counts, limits = _threads(threads), RunLimits(memory_mib=limit_memory, seconds=limit_seconds)
    for argument, value in (("device", device), ("profiles", profiles)):
        if value is not None and not save:
            raise BadInput(f"`{argument}` only works with `save`.", "Add `save`, or leave it out.")
    if out is not None:
        _check_out(out)
    manifest = bundles.read(bundle)
    if device is not None:
        from hydra_export import profiles as registry

        registry.get(device, profiles)
    chosen = [name.strip() for name in runtime.split(",")] if runtime is not None else []
    with shown_progress(talk()) as progress:
        report = measuring.bench(bundle, runs=runs, threads=counts, runtimes=chosen, progress=progress, limits=limits)
    left_out = sorted({artifact.kind for artifact in measuring.not_timed(manifest, report)})
    shown, notes = _table(manifest, report), _notes(report, left_out)
    document = _document(report) | {"bundle": str(bundle), "threads": counts, "not_timed": left_out}
    if save:
        known, path, count = measuring.save(report, profiles, device or "")
        document["saved"] = {"device": known.profile.id, "file": str(path), "records": count}
        notes += [f"Saved {counted(count, 'time')} of {known.profile.name} ({known.profile.id}) in {path}."]
        notes += [f"Now: hydra-export profile --device {known.profile.id} --bundle {bundle}"]
    if out is not None:
        _write(out, document)
    return Result(document, titled(_title(manifest, report, counts), shown, *notes))


@app.command(
    help_epilogue=examples(
        "hydra-export bench compare before.json after.json",
        "hydra-export bench compare before.json after.json --max-regression 5",
    ),
)
def compare(old: Path, new: Path, *, max_regression: float = 10.0) -> Result:
    """Compare two measurements, with 95 % intervals.

    Args:
        old: An earlier result, from bench --out or a board.
        new: A later result of the same model.
        max_regression: Largest slowdown in percent; if anything is slower with 95 % confidence, the exit status is 1.
    """
    from hydra_export import bench as measuring
    from hydra_export.commands.bench_compare import compared
    from hydra_export.errors import BadInput

    if not 0 <= max_regression <= 1000:
        raise BadInput(f"`max_regression` is {max_regression}.", "Use percent from 0 to 1000.")
    before, now = measuring.read(old), measuring.read(new)
    measuring.check_model(before, now.model, old, new)
    return compared(now, before, old, max_regression)


@app.command(
    help_epilogue=examples(
        "hydra-export bench standalone hydra-bundle hydra-bench",
        "hydra-export bench standalone hydra-bundle hydra-bench --heads 3,6",
    ),
)
def standalone(bundle: Path, out: Path, *, heads: str | None = None) -> Result:
    """Write a folder that times a bundle on a board, which needs only numpy and a runtime.

    Args:
        bundle: The bundle's folder.
        out: The folder to write.
        heads: Only these head counts, such as 3,6; by default all.
    """
    from hydra_export import bench as measuring
    from hydra_export import bundle as bundles
    from hydra_export.architecture import parse_heads
    from hydra_export.bench import runtimes

    manifest = bundles.read(bundle)
    model = manifest.model
    wanted = () if heads is None else parse_heads(heads, model.config.heads, model.heads)
    artifacts, total = measuring.write_standalone(bundle, out, heads=wanted)
    needs = {runner["target"]: runner["needs"] for runner in runtimes.known().values()}
    left_out = sorted({a.target for a in manifest.artifacts if not measuring.runs_on_boards(a.target)})
    shown = titled(
        f"{out}: {counted(len(artifacts), 'artifact')}, {size(total)}",
        "",
        f"1. Copy it:           scp -r {out} BOARD:hydra-bench",
        f"2. On the board:      pip install numpy {' '.join(dict.fromkeys(needs[a.target] for a in artifacts))}",
        "                      python3 hydra-bench/bench.py --out bench.json",
        "3. Take it back:      scp BOARD:bench.json .",
        "                      hydra-export profile import bench.json",
        *([f"Left out, because boards do not run it: {', '.join(left_out)}."] if left_out else []),
    )
    files = [artifact.path for artifact in artifacts]
    return Result({"standalone": str(out), "artifacts": files, "left_out": left_out, "bytes": total}, shown)


def _check_out(out: Path) -> None:
    from hydra_export import bench as measuring
    from hydra_export.errors import BadInput, OutputRefused

    if out.exists():
        try:
            measuring.read(out)
        except BadInput as error:
            raise OutputRefused(f"{out} exists and does not contain times.", "Choose another `out`.") from error


def _write(out: Path, document: dict[str, object]) -> None:
    import json

    from hydra_export import files

    with files.replaced_file(out) as partial:
        partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _threads(text: str) -> list[int]:
    from hydra_export.errors import BadInput

    counts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 1024 for part in counts):
        raise BadInput(f"`threads` is {text}.", "Use a number from 1 to 1024, or several: `threads=1,2`.")
    return list(dict.fromkeys(map(int, counts)))


def _title(manifest: Manifest, report: Report, counts: list[int]) -> str:
    batches = sorted({timing.batch for timing in report.timings})
    images = "1 image" if batches == [1] else f"{' or '.join(map(str, batches))} images"
    threads = f"{' or '.join(map(str, counts))} thread{'s' if counts != [1] else ''}"
    return (
        f"{manifest.model.name} on {report.machine.name}: {threads}, {images} per call, {report.runs} runs taking turns"
    )


def _table(manifest: Manifest, report: Report) -> Table:
    """Columns that say the same of all are left out."""
    from hydra_export.latency.spread import rounded

    artifacts = {artifact.path: artifact for artifact in manifest.artifacts}
    runtimes, threads = ({getattr(t, name) for t in report.timings} for name in ("runtime", "threads"))
    columns: dict[str, Callable[[Timing], str] | None] = {
        "artifact": lambda t: artifacts[t.path].kind,
        "k": lambda t: str(t.heads),
        "runtime": (lambda t: t.runtime) if len(runtimes) > 1 else None,
        "threads": (lambda t: str(t.threads)) if len(threads) > 1 else None,
        "ms": lambda t: rounded(t.median_ms),
        "p90": lambda t: rounded(t.p90_ms),
        "p99": lambda t: rounded(t.p99_ms),
        "min": lambda t: rounded(t.min_ms),
        "load ms": lambda t: f"{t.load_ms:.0f}",
        "MiB": lambda t: "-" if t.peak_mib is None else f"{t.peak_mib:.0f}",
        "": (lambda t: "~" if t.noise else "") if any(t.noise for t in report.timings) else None,
    }
    return filled(columns, report.timings)


_NOISE = {
    "scattered": "times are scattered",
    "drifted": "later times differ from earlier ones, as when a chip gets hot",
    "waited": "other processes used the core",
}


def _notes(report: Report, left_out: list[str]) -> list[str]:
    from hydra_export import board

    notes = ["load: without the start of the runtime. MiB: peak of a process that ran only this artifact."]
    found = [told for word, told in _NOISE.items() if any(word in timing.noise for timing in report.timings)]
    notes += [f"~ noisy: {'; '.join(found)}. Repeat it on a quiet machine."] if found else []
    notes += [
        f"{timing.runtime}: logits differ by up to {timing.max_abs_error:.0e}, because it computes in {timing.compute}."
        for timing in _worst_rounding(report)
    ]
    notes += [f"{one.runtime} does not run {one.path}: {_first_line(one.why)}" for one in report.failed]
    in_int8 = any(one.precision in ("int8", "int8-static") for one in report.timings)
    if in_int8 and board.lacks_int8(report.machine.cpu_flags):
        lacking = "no instructions for it (VNNI, AMX, dot products)"
        notes += [f"int8: this processor has {lacking}; processors that have them gain more."]
    return notes + ([f"Not timed, because no installed runtime runs it: {', '.join(left_out)}."] if left_out else [])


def _worst_rounding(report: Report) -> list[Timing]:
    from hydra_export.target import GATED

    rounding: dict[str, Timing] = {}
    for timing in sorted(report.timings, key=lambda t: t.max_abs_error):
        if timing.compute != "fp32" and timing.precision not in GATED:
            rounding[timing.runtime] = timing
    return [*rounding.values()]


def _first_line(text: str) -> str:
    line = text.strip().split("\n")[0]
    return line if len(line) <= 150 else f"{line[:150]} ..."


def _document(report: Report) -> dict[str, object]:
    import msgspec

    document: dict[str, object] = msgspec.to_builtins(report)
    return document
