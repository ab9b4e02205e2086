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
    """Check a bundle: every file listed and hashed, every artifact run on its golden input.

    Args:
        bundle: Its folder, or its archive.
        limit_memory: MiB that the process may take in which artifacts run; by default 2 GiB, more with many cores, and
            three times the weights of the largest artifact, or what is free. Held on Linux alone: macOS has no such
            limits.
        limit_seconds: Seconds that an artifact may take at each head count; by default what a slow board would.
        verify_with: Runtimes that run artifacts beside each target's own, separated by commas; doctor lists them.
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
