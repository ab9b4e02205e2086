"""Programs in a bundle that run its artifacts: files of ``data/snippets``, filled with paths, shapes and numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib import resources

from hydra_export.bundle import ArtifactEntry, Manifest

FOLDER = "snippets"
PIXELS = "golden/pixels.bin"  # uint8 [H, W, C] of the last golden image, for languages that cannot read .npz
BY_TARGET = {
    "onnx": ("run.py", "run.mjs", "bundle.mjs", "npz.mjs", "preprocess.mjs", "run.cpp", "preprocess.hpp"),
    "tflite": ("run.py", "Run.kt", "Preprocess.kt"),
    "coreml": ("run.swift", "preprocess.swift"),
}
Best = tuple[int, float]  # position and value of the largest output
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")  # means itself within quotation marks in every language here


def files(manifest: Manifest, best: Mapping[int, Best]) -> dict[str, str]:
    """By path in the bundle, the text of each that the bundle's targets need; *best* as in ``card.write``."""
    texts = {}
    for target, names in BY_TARGET.items():
        entries = [entry for entry in manifest.artifacts if entry.target == target]
        for name in names if entries else ():
            texts[f"{FOLDER}/{name}"] = _filled(name, manifest, entries, best)
    return texts


def _filled(name: str, manifest: Manifest, entries: list[ArtifactEntry], best: Mapping[int, Best]) -> str:
    template = (resources.files("hydra_export.data") / FOLDER / name).read_text(encoding="utf-8")
    data, row = manifest.model.preprocessing, _ROWS.get(name)
    values = {
        "size": str(data.image_size),
        "channels": str(data.channels),
        "shorter_side": str(data.shorter_side),
        "interpolation": data.interpolation,
        "mean": ", ".join(map(_number, data.mean)),
        "std": ", ".join(map(_number, data.std)),
        "output": _quoted(manifest.artifacts[0].outputs[0].name),
        "pixels": PIXELS,
    }
    if row:
        values["artifacts"] = "\n".join(row(entry, k, best[k], manifest) for entry, k in _runs(entries))
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def _runs(entries: list[ArtifactEntry]) -> Iterator[tuple[ArtifactEntry, int]]:
    return ((entry, k) for entry in entries for k in entry.heads)


def _cpp(entry: ArtifactEntry, heads: int, best: Best, _manifest: Manifest) -> str:
    chosen, pixels = _flag(len(entry.inputs) > 1), _flag(entry.input == "image")
    return f"    {{{_quoted(entry.path)}, {heads}, {chosen}, {pixels}, {entry.batch}, {best[0]}, {_number(best[1])}}},"


def _kotlin(entry: ArtifactEntry, heads: int, best: Best, manifest: Manifest) -> str:
    signature = f"k{heads}" if entry.graph == "universal" else "serving_default"
    outputs, pixels = manifest.model.config.num_outputs(heads), _flag(entry.input == "image")
    return (
        f"    Artifact({_quoted(entry.path)}, {heads}, {_quoted(signature)}, {pixels}, {entry.batch}, "
        f"{outputs}, {best[0]}, {_number(best[1])}),"
    )


def _swift(entry: ArtifactEntry, heads: int, best: Best, _manifest: Manifest) -> str:
    function = _quoted(f"k{heads}") if entry.graph == "universal" else "nil"
    return (
        f"    Artifact(path: {_quoted(entry.path)}, heads: {heads}, function: {function}, "
        f"pixels: {_flag(entry.input == 'image')}, batch: {entry.batch}, "
        f"best: {best[0]}, value: {_number(best[1])}),"
    )


_ROWS: dict[str, Callable[[ArtifactEntry, int, Best, Manifest], str]] = {
    "run.cpp": _cpp,
    "Run.kt": _kotlin,
    "run.swift": _swift,
}


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _number(value: float) -> str:
    return repr(float(value))


def _quoted(text: str) -> str:
    if not _PLAIN.fullmatch(text):  # an export refuses names that cannot name files, long before
        raise ValueError(f"{text!r} cannot stand in a program")
    return f'"{text}"'
