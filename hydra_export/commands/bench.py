"""``hydra-export bench``: how long do a bundle's artifacts take on this machine?"""

from __future__ import annotations

from pathlib import Path

from hydra_export.commands import Result, kind, percent, size, table, talk, titled


def bench(*, bundle: Path = Path("hydra-bundle"), runs: int = 50, threads: int = 1) -> Result:
    """Time a bundle's artifacts on this machine, interleaved, one image (or the fixed batch) a call.

    Args:
        bundle: The bundle's folder.
        runs: Timed calls per artifact, after a warm-up.
        threads: Threads that the runtime may use.
    """
    from hydra_export.bench import bench as bench_bundle
    from hydra_export.commands.progress import shown_progress
    from hydra_export.errors import BadInput

    for option, value in (("--runs", runs), ("--threads", threads)):
        if not 1 <= value <= 100_000:
            raise BadInput(f"{option} is {value}.", "Give a number from 1 to 100000.")
    with shown_progress(talk()) as progress:
        manifest, timings = bench_bundle(bundle, runs=runs, threads=threads, progress=progress)
    subnetworks = {s.heads: s for s in manifest.model.subnetworks}
    artifacts = {artifact.path: artifact for artifact in manifest.artifacts}
    sizes = {file.path: file.bytes for file in manifest.files}
    unit = f"{threads} thread{'s' if threads > 1 else ''}"
    batch = timings[0].batch
    images = "1 image" if batch == 1 else f"{batch} images"
    title = f"{manifest.model.name} here: {unit}, {images} a call, median of {runs} interleaved runs"
    shown = table("artifact", "k", "top-1 %", "to fetch", "error", "load ms", "ms", "p90")
    rows = []
    for timing in timings:
        subnetwork, artifact = subnetworks[timing.heads], artifacts[timing.path]
        fetched = sum(sizes[path] for path in artifact.files)
        error = artifact.parity[timing.heads].max_abs_error
        shown.add_row(
            kind(artifact),
            str(timing.heads),
            percent(subnetwork.accuracy),
            size(fetched),
            f"{error:.0e}",
            f"{timing.load_ms:.0f}",
            f"{timing.median_ms:.3g}",
            f"{timing.p90_ms:.3g}",
        )
        rows.append(
            {
                "path": timing.path,
                "runtime": timing.runtime,
                "heads": timing.heads,
                "batch": timing.batch,
                "bytes": fetched,
                "load_ms": timing.load_ms,
                "median_ms": timing.median_ms,
                "p90_ms": timing.p90_ms,
                "min_ms": min(timing.runs_ms),
            }
        )
    left_out = sorted({kind(a) for a in manifest.artifacts} - {kind(artifacts[timing.path]) for timing in timings})
    notes = [f"Not timed, as nothing here runs it: {', '.join(left_out)}."] if left_out else []
    document = {"bundle": str(bundle), "runs": runs, "threads": threads, "timings": rows, "not_timed": left_out}
    return Result(document, titled(title, shown, *notes))
