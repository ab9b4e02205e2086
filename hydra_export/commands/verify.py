"""``hydra-export verify BUNDLE``: is this bundle whole, and does it still compute what it should?"""

from __future__ import annotations

from pathlib import Path

from hydra_export.commands import Result, allowed, experimental, table, talk, titled


def verify(bundle: Path, /) -> Result:
    """Check a bundle: every file listed and hashed, every artifact run on its golden input.

    Args:
        bundle: Its folder, or its archive.
    """
    from hydra_export.commands.progress import shown_progress
    from hydra_export.verify import verify as verify_bundle

    with shown_progress(talk()) as progress:
        verified = verify_bundle(bundle, progress)
    shown = table("artifact", "k", "error", "allowed", "run in")
    for run in verified:
        errors = (f"{run.record.max_abs_error:.1e}", allowed(run.record))
        shown.add_row(run.path, str(run.heads), *errors, ", ".join(run.record.runtimes))
    notes = experimental(run.artifact for run in verified)
    title = f"{bundle} is whole, and every artifact computes its golden logits"
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
