"""Programs in a bundle that run its artifacts: files of ``data/snippets``, filled with paths, shapes and numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources

from hydra_export import targets
from hydra_export.bundle import ArtifactEntry, Manifest
from hydra_export.target import Card, Program

FOLDER = "snippets"
PIXELS = "golden/pixels.bin"  # uint8 [H, W, C] of the last golden image, for languages that cannot read .npz
PYTHON = "run.py"  # runs the artifacts of every target that has a package for it, by the run-time library
LIBRARY = "hydra_runtime.py"
MODULES = (  # of JavaScript's run-time library, which is the first, and its types
    "hydra_runtime.mjs",
    "hydra_runtime.d.mts",
    "rules.mjs",
    "choice.mjs",
    "bundle.mjs",
    "golden.mjs",
    "sessions.mjs",
    "preprocess.mjs",
    "npz.mjs",
    "sha256.mjs",
)
Best = tuple[int, float]  # position and value of the largest output
_SIDES = ("height", "width", "covered_height", "covered_width")  # of what is kept, and of what is resized to cover
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")  # means itself within quotation marks in every language here


def files(manifest: Manifest, best: Mapping[int, Best]) -> dict[str, str]:
    """By path in the bundle, the text of each that the bundle's targets need; *best* as in ``card.write``."""
    texts = {}
    for target in map(targets.get, dict.fromkeys(entry.target for entry in manifest.artifacts)):
        # These programs take and give floats.
        entries = [e for e in manifest.artifacts if e.target == target.name and e.outputs[0].scale is None]
        shared = [*((PYTHON, LIBRARY) if target.card.python else ()), *(MODULES if target.card.javascript else ())]
        programs = [*(Program(name=name) for name in shared), *target.card.programs]
        for program in programs:
            rows = [_row(program, target.card, entry, k, best[k], manifest) for entry in entries for k in entry.heads]
            texts[f"{FOLDER}/{program.name}"] = _filled(program.name, manifest, rows)
    return texts


def _filled(name: str, manifest: Manifest, rows: Sequence[str]) -> str:
    if name == LIBRARY:
        return (resources.files("hydra_export") / "runtime.py").read_text(encoding="utf-8")
    template = (resources.files("hydra_export.data") / FOLDER / name).read_text(encoding="utf-8")
    data = manifest.model.preprocessing
    values = {
        **{name: str(side) for name, side in zip(_SIDES, (*data.image_shape, *data.covered_shape), strict=True)},
        "channels": str(data.channels),
        "interpolation": data.interpolation,
        "mean": ", ".join(map(_number, data.mean)),
        "std": ", ".join(map(_number, data.std)),
        "output": _quoted(manifest.artifacts[0].outputs[0].name),
        "tokens": _flag(manifest.model.config.pooling == "none"),
        "pixels": PIXELS,
        "artifacts": "\n".join(rows),
    }
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def _row(program: Program, card: Card, entry: ArtifactEntry, heads: int, best: Best, manifest: Manifest) -> str:
    """One line of a program's table of artifacts."""
    return program.row.format(
        path=_quoted(entry.path),
        heads=heads,
        takes_heads=_flag(len(entry.inputs) > 1),
        function=_quoted(f"k{heads}") if entry.graph == "universal" else card.only_function,
        pixels=_flag(entry.input == "image"),
        batch=entry.batch,
        outputs=math.prod(manifest.model.config.output_shape(heads)),
        best=best[0],
        value=_number(best[1]),
    )


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _number(value: float) -> str:
    return repr(float(value))


def _quoted(text: str) -> str:
    if not _PLAIN.fullmatch(text):  # an export refuses names that cannot name files, long before
        raise ValueError(f"{text!r} cannot stand in a program")
    return f'"{text}"'
