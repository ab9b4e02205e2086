"""``hydra-export predict``: what is on these images, by an artifact of a bundle?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hydra_export.commands import Result, candidates, table, talk, titled
from hydra_export.commands.candidates import one_of

_NPY = b"\x93NUMPY"  # how such files begin
_MOST_BYTES = 2**40

if TYPE_CHECKING:
    from rich.table import Table

    from hydra_export.arrays import Array
    from hydra_export.prediction import Predictions


def predict(
    bundle: Path,
    images: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)],
    *,
    heads: str | None = None,
    cascade: int | None = None,
    top: int = 5,
    out: Path | None = None,
    target: Annotated[str | None, one_of(candidates.targets)] = None,
    artifact: str | None = None,
    limit_memory: int | None = None,
    limit_seconds: float | None = None,
) -> Result:
    """Classify images with an artifact of a bundle that runs here, an exact and fast one if possible.

    For a model without classes, it shows the shape and the Euclidean norm of the features or patch tokens.

    Args:
        bundle: Its folder, or its archive.
        images: Photographs or other images; the bundle's preprocessing is applied.
        heads: Head count (k); by default the largest that the artifact has.
        cascade: Instead of --heads: a cascade that asks small head counts first and is as accurate overall as this one;
            needs a bundle calibrated by hydra-export calibrate.
        top: How many classes to list.
        out: A .npy file for the artifact's outputs, float32, one row per image.
        target: Use an artifact of this format.
        artifact: Use this artifact, given by its path in the bundle.
        limit_memory: Memory limit in MiB of the process that runs the artifact; by default 2 GiB, more with many cores,
            plus three times the largest artifact's weights, or what is free. Linux only.
        limit_seconds: Time limit of the artifact in seconds; by default enough for a slow board.
    """
    import msgspec

    from hydra_export.commands.progress import shown_progress
    from hydra_export.errors import BadInput
    from hydra_export.guard import RunLimits
    from hydra_export.prediction import predict as predicted

    if heads is not None and not (heads.isascii() and heads.isdigit() and 0 < len(heads) < 6):
        raise BadInput(f"`heads` {heads!r} is not a head count.", "Pass one, such as `heads=6`.")
    if out is not None:
        _check_out(out)
    if heads is not None and cascade is not None:
        raise BadInput("`heads` and `cascade` exclude each other.", "Pass one of them.", field="cascade")
    with shown_progress(talk()) as progress:
        answer = predicted(
            bundle,
            images,
            heads=None if heads is None else int(heads),
            as_good_as=cascade,
            top=top,
            target=target,
            artifact=artifact,
            limits=RunLimits(memory_mib=limit_memory, seconds=limit_seconds),
            progress=progress,
        )
    if out is not None:
        _save(out, answer.outputs)
    output = answer.artifact.outputs[0].name
    document = {
        "bundle": str(bundle),
        "artifact": answer.artifact.path,
        "heads": answer.heads[0] if len(answer.heads) == 1 else None,
        "runtime": answer.runtime,
        "output": output,
        "saved": None if out is None else str(out),
        "images": [
            {
                "image": str(one.image),
                "heads": one.heads,
                "classes": msgspec.to_builtins(one.guesses),
                "shape": list(outputs.shape),
                "norm": _norm(outputs),
            }
            for one, outputs in zip(answer.images, answer.outputs, strict=True)
        ],
    }
    what = answer.artifact.path if cascade is None else f"{answer.artifact.kind}: a cascade as good as k = {cascade}"
    title = f"{what}, k = {', '.join(map(str, answer.heads))}, in {answer.runtime}"
    saved = [] if out is None else [f"{out}: float32 {list(answer.outputs.shape)}"]
    return Result(document, titled(title, _shown(answer, output), *saved))


def _shown(answer: Predictions, output: str) -> Table:
    if output == "logits":
        shown = table("image", "class", "probability", *(["k"] if len(answer.heads) > 1 else []))
        shown.columns[1].justify = "left"
        for one in answer.images:
            for index, guess in enumerate(one.guesses):
                image, k = ("", "") if index else (str(one.image), str(one.heads))
                shown.add_row(image, guess.name, f"{guess.probability:.1%}", *([k] if len(answer.heads) > 1 else []))
        return shown
    shown = table("image", output, "norm")
    for one, outputs in zip(answer.images, answer.outputs, strict=True):
        shown.add_row(str(one.image), " x ".join(map(str, outputs.shape)), f"{_norm(outputs):.4g}")
    return shown


def _norm(outputs: Array) -> float:
    """Euclidean, of all of them."""
    import numpy as np

    return float(np.linalg.norm(outputs.astype(np.float64)))


def _check_out(path: Path) -> None:
    from hydra_export import files
    from hydra_export.errors import BadInput, OutputRefused

    if path.suffix != ".npy":
        raise BadInput(f"`out` {path} does not end in .npy.", f"Pass {path.with_suffix('.npy').name}.")
    if path.exists():
        with files.opened(path, _MOST_BYTES) as file:
            if file.read(len(_NPY)) != _NPY:
                raise OutputRefused(f"{path} exists and is not an array.", "Choose another `out`.")


def _save(path: Path, outputs: Array) -> None:
    import numpy as np

    from hydra_export import files

    with files.replaced_file(path) as partial, partial.open("wb") as file:
        np.save(file, outputs.astype(np.float32), allow_pickle=False)
