"""``hydra-export predict``: what is on these images, by an artifact of a bundle?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hydra_export.commands import Result, candidates, table, talk, titled
from hydra_export.commands.candidates import one_of


def predict(
    bundle: Path,
    images: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)],
    *,
    heads: str | None = None,
    top: int = 5,
    target: Annotated[str | None, one_of(candidates.targets)] = None,
    artifact: str | None = None,
    limit_memory: int | None = None,
    limit_seconds: float | None = None,
) -> Result:
    """Name what is on images, with any artifact of a bundle that runs here: an exact and quick one where there is one.

    Args:
        bundle: Its folder, or its archive.
        images: Photographs or other images, which are preprocessed as the bundle says.
        heads: A head count; by default the largest that the artifact has.
        top: How many classes to name.
        target: Only an artifact of this format.
        artifact: This artifact alone, by its path in the bundle.
        limit_memory: MiB that the process may take in which the artifact runs; by default 2 GiB, more with many cores,
            and three times the weights of the largest artifact, or what is free. Held on Linux alone.
        limit_seconds: Seconds that the artifact may take; by default what a slow board would.
    """
    import msgspec

    from hydra_export.commands.progress import shown_progress
    from hydra_export.errors import BadInput
    from hydra_export.guard import RunLimits
    from hydra_export.prediction import predict as predicted

    if heads is not None and not (heads.isascii() and heads.isdigit() and 0 < len(heads) < 6):
        raise BadInput(f"`heads` {heads!r} is not a head count.", "Give one, such as `heads=6`.")
    with shown_progress(talk()) as progress:
        answer = predicted(
            bundle,
            images,
            heads=None if heads is None else int(heads),
            top=top,
            target=target,
            artifact=artifact,
            limits=RunLimits(memory_mib=limit_memory, seconds=limit_seconds),
            progress=progress,
        )
    shown = table("image", "class", "probability")
    shown.columns[1].justify = "left"
    for one in answer.images:
        for index, guess in enumerate(one.guesses):
            shown.add_row("" if index else str(one.image), guess.name, f"{guess.probability:.1%}")
    document = {
        "bundle": str(bundle),
        "artifact": answer.artifact.path,
        "heads": answer.heads,
        "runtime": answer.runtime,
        "images": [{"image": str(one.image), "classes": msgspec.to_builtins(one.guesses)} for one in answer.images],
    }
    return Result(document, titled(f"{answer.artifact.path}, k = {answer.heads}, in {answer.runtime}", shown))
