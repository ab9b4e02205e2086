"""Labels and preprocessing as plain files, so that an app reads them without a parser of ours."""

from __future__ import annotations

import json
import re
from typing import Any

from hydra_export.bundle import ArtifactEntry, Manifest

LABELS = "labels.txt"
PREPROCESSING = "preprocessing.json"
_NUMBERS = re.compile(r"\[\s+([^\[\]{}]+?)\s+\]")


def files(manifest: Manifest) -> dict[str, str]:
    """By path in the bundle, the text of each."""
    texts = {PREPROCESSING: _on_one_line(json.dumps(_preprocessing(manifest), indent=2)) + "\n"}
    if manifest.model.labels:
        # One a line, in the order of the outputs: a line break within a label would shift all that follow.
        texts[LABELS] = "".join(f"{' '.join(label.splitlines())}\n" for label in manifest.model.labels)
    return texts


def _preprocessing(manifest: Manifest) -> dict[str, Any]:
    data = manifest.model.preprocessing
    return {
        "colors": "RGB" if data.channels == 3 else "grey",
        "resize": {"shorter_side": data.shorter_side, "interpolation": data.interpolation},
        "center_crop": {"width": data.image_size, "height": data.image_size},
        "normalise": {"formula": "(pixel / 255 - mean) / std", "mean": data.mean, "std": data.std},
        "inputs": list({str(form): form for form in map(_input, manifest.artifacts)}.values()),
    }


def _input(entry: ArtifactEntry) -> dict[str, Any]:
    image = entry.inputs[0]
    return {
        "target": entry.target,
        "name": image.name,
        "dtype": image.dtype,
        "shape": image.shape,
        "layout": _layout(entry),
        "values": "pixels in 0-255" if entry.input == "image" else "normalised",
    }


def _on_one_line(text: str) -> str:
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def _layout(entry: ArtifactEntry) -> str:
    """The order of an artifact's input: N images, C channels, H height, W width; of Core ML's images its own."""
    if entry.input == "image":
        return "CVPixelBuffer" if entry.target == "coreml" else "NHWC"
    return "NHWC" if entry.target == "tflite" else "NCHW"
