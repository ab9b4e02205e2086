"""A folder to copy to a board: artifacts, one module that times them, and nothing to install but a runtime."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hydra_export import board, bundle, files
from hydra_export.bench.run import plan
from hydra_export.errors import BadInput, OutputRefused

PROGRAM = "bench.py"
_OWN = {PROGRAM, board.PLAN, "golden", "onnx", "tflite", "coreml", "__pycache__"}


def write_standalone(
    source: Path, out: Path, *, heads: Sequence[int] = (), targets: Sequence[str] = ()
) -> tuple[list[bundle.ArtifactEntry], int]:
    """Writes the folder *out* from the bundle *source*.

    Args:
        heads: only artifacts of these; *targets*: only these.

    Returns:
        the artifacts in it, and its bytes.

    Raises:
        BadInput: nothing is left to time.
        OutputRefused: *out* holds something else than such a folder.
    """
    manifest = bundle.read(source)
    takes = {runtime["target"] for runtime in board.RUNTIMES.values()}
    chosen = [
        artifact
        for artifact in manifest.artifacts
        if artifact.target in (set(targets) or takes) and (not heads or set(artifact.heads) & set(heads))
    ]
    if not chosen:
        held = ", ".join(sorted({f"{a.target} k = {', '.join(map(str, a.heads))}" for a in manifest.artifacts}))
        raise BadInput(f"{source} holds nothing of what was asked for; it holds {held}.", "Export it, or ask for less.")
    _check_replaceable(out)
    wanted = sorted({path for artifact in chosen for path in artifact.files} | {bundle.GOLDEN})
    with files.replaced_folder(out) as folder:
        for path in wanted:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with files.opened(source / path) as original, (folder / path).open("wb") as copy:
                shutil.copyfileobj(original, copy)
        shutil.copyfile(Path(board.__file__), folder / PROGRAM)
        (folder / board.PLAN).write_bytes(msgspec.json.format(msgspec.json.encode(plan(manifest, chosen))) + b"\n")
        return chosen, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _check_replaceable(out: Path) -> None:
    present = {path.name for path in out.iterdir()} if out.is_dir() else {""} if out.exists() else set()
    if board.RESULT in present:
        raise OutputRefused(
            f"{out} holds a result, {board.RESULT}, which would be lost.",
            f"Run: hydra-export profile import {out / board.RESULT}; then move it away, or choose another folder.",
        )
    foreign = present - _OWN
    if foreign or (present and PROGRAM not in present):
        raise OutputRefused(
            f"{out} holds something else than a folder made by bench standalone.", "Choose another, or move it away."
        )
