"""``hydra-export verify BUNDLE``: is this bundle whole, and does it still compute what it should?"""

from __future__ import annotations

from pathlib import Path

from hydra_export.commands import Result, allowed, experimental, table, talk, titled


def verify(
    bundle: Path,
    *,
    limit_memory: int | None = None,
    limit_seconds: float | None = None,
    verify_with: str | None = None,
) -> Result:
    """Check a bundle: compare every file with its hash, and run every artifact on its golden input.

    Args:
        bundle: Its folder, or its archive.
        limit_memory: Memory limit in MiB of the process that runs artifacts; by default 2 GiB, more with many cores,
            plus three times the largest artifact's weights, or what is free. Linux only: macOS has no such limits.
        limit_seconds: Time limit of an artifact at each head count, in seconds; by default enough for a slow board.
        verify_with: Comma-separated runtimes that run artifacts in addition to each target's own; doctor lists them.
    """
    from hydra_export.commands.choices import listed_names
    from hydra_export.commands.progress import shown_progress
    from hydra_export.verification import verify as verify_bundle

    with shown_progress(talk()) as progress:
        verified = verify_bundle(
            bundle,
            progress,
            limit_memory_mib=limit_memory,
            limit_seconds=limit_seconds,
            verify_with=listed_names("verify_with", verify_with),
        )
    shown = table("artifact", "k", "error", "allowed", "run in")
    for run in verified:
        errors = (f"{run.record.max_abs_error:.1e}", allowed(run.record))
        shown.add_row(run.path, str(run.heads), *errors, ", ".join(run.record.runtimes))
    notes = experimental(run.artifact for run in verified)
    title = f"{bundle} is whole, and every artifact computes its golden outputs"
    artifacts = [
        {
            "path": run.path,
            "heads": run.heads,
            "max_abs_error": run.record.max_abs_error,
            "bound": run.record.bound,
            "runtimes": run.record.runtimes,
        }
        for run in verified
    ]
    return Result({"folder": str(bundle), "artifacts": artifacts}, titled(title, shown, *dict.fromkeys(notes)))
