"""A folder to copy to a board: artifacts, one module that times them, and nothing to install but a runtime."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from hydra_export import board, bundle, files, targets
from hydra_export.bench.run import plan
from hydra_export.errors import BadInput, OutputRefused

PROGRAM = "bench.py"
_MARK = "SOURCES: dict[str, str] = {}"  # in the program


def write_standalone(source: Path, out: Path, *, heads: Sequence[int] = ()) -> tuple[list[bundle.ArtifactEntry], int]:
    """Writes the folder *out* from the bundle *source*, with what boards run of it, or only the artifacts of *heads*.

    Returns:
        the artifacts in it, and its bytes.

    Raises:
        BadInput: nothing is left to time.
        OutputRefused: *out* contains anything but such a folder.
    """
    manifest = bundle.read(source)
    chosen = [
        artifact
        for artifact in manifest.artifacts
        if runs_on_boards(artifact.target) and (not heads or set(artifact.heads) & set(heads))
    ]
    if not chosen:
        contents = ", ".join(sorted({f"{a.target} k = {', '.join(map(str, a.heads))}" for a in manifest.artifacts}))
        taken = ", ".join(name for name in targets.names() if runs_on_boards(name))
        raise BadInput(
            f"{source} contains no such artifact that a board runs; it contains {contents}.",
            f"Boards run {taken}: export these head counts to one of them, or choose other `heads`.",
        )
    _check_replaceable(out)
    wanted = sorted({path for artifact in chosen for path in artifact.files} | {bundle.GOLDEN})
    with files.replaced_folder(out) as folder:
        for path in wanted:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with files.opened(source / path) as original, (folder / path).open("wb") as copy:
                shutil.copyfileobj(original, copy)
        todo = plan(manifest, chosen)
        (folder / PROGRAM).write_text(program(todo.pop("runners")), encoding="utf-8")
        (folder / board.PLAN).write_bytes(msgspec.json.format(msgspec.json.encode(todo)) + b"\n")
        return chosen, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def runs_on_boards(target: str) -> bool:
    """Whether artifacts of *target* are timed on boards."""
    return bool(targets.get(target).runners) and targets.get(target).on_boards


def program(sources: Mapping[str, str]) -> str:
    """The text of ``board`` with those of what runs the artifacts of each target in it."""
    text = Path(board.__file__).read_text(encoding="utf-8")
    assert text.count(_MARK) == 1
    assert not any("'''" in source for source in sources.values())
    filled = "".join(f"    {json.dumps(target)}: r'''{source}''',\n" for target, source in sources.items())
    return text.replace(_MARK, f"SOURCES: dict[str, str] = {{\n{filled}}}")


def _check_replaceable(out: Path) -> None:
    present = {path.name for path in out.iterdir()} if out.is_dir() else {""} if out.exists() else set()
    if board.RESULT in present:
        raise OutputRefused(
            f"{out} contains a result, {board.RESULT}, which would be lost.",
            f"Run: hydra-export profile import {out / board.RESULT}. Then move it, or choose another folder.",
        )
    foreign = present - {PROGRAM, board.PLAN, "golden", *targets.names(), "__pycache__"}
    if foreign or (present and PROGRAM not in present):
        raise OutputRefused(
            f"{out} contains other files than those of bench standalone.", "Choose another folder, or move them."
        )
