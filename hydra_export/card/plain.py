"""Labels and preprocessing as plain files, so that an app reads them without a parser of ours."""

from __future__ import annotations

import json
import re
from typing import Any

from hydra_export import targets
from hydra_export.bundle import ArtifactEntry, Manifest
from hydra_export.preprocess import Preprocessing
from hydra_export.text import kept

LABELS = "labels.txt"
PREPROCESSING = "preprocessing.json"
_NUMBERS = re.compile(r"\[\s+([^\[\]{}]+?)\s+\]")


def files(manifest: Manifest) -> dict[str, str]:
    """By path in the bundle, the text of each."""
    texts = {PREPROCESSING: _on_one_line(json.dumps(_preprocessing(manifest), indent=2)) + "\n"}
    if manifest.model.labels:
        # One a line, in the order of the outputs: a line break within a label would shift all that follow.
        texts[LABELS] = "".join(f"{kept(label)}\n" for label in manifest.model.labels)
    return texts


def _preprocessing(manifest: Manifest) -> dict[str, Any]:
    """In the order of the steps; each with one sentence, and with all of its numbers."""
    data = manifest.model.preprocessing
    height, width = data.image_shape
    return {
        "orientation": {
            "exif": True,
            "means": "The image is turned and mirrored as its EXIF orientation says, before anything else.",
        },
        "colors": "RGB" if data.channels == 3 else "grey",
        "pixels": _pixels(data),
        "resize": {
            **_resized_to(data),
            "interpolation": data.interpolation,
            "antialias": data.interpolation != "nearest",
            "kernel": _KERNELS[data.interpolation],
            "passes": ["width", "height"],
            "means": _RESIZED,
        },
        "center_crop": {
            "width": width,
            "height": height,
            "left": f"round_half_to_even((width - {width}) / 2)",
            "top": f"round_half_to_even((height - {height}) / 2)",
            "means": "The centre is kept; an offset that ends in .5 is rounded to the even number.",
        },
        "normalise": {
            "formula": "(pixel / 255 - mean) / std",
            "mean": data.mean,
            "std": data.std,
            "means": "In float32 each channel is divided by 255, less its mean, divided by its std.",
        },
        "inputs": list({str(form): form for form in map(_input, manifest.artifacts)}.values()),
    }


def _resized_to(data: Preprocessing) -> dict[str, Any]:
    height, width = data.covered_shape
    if data.is_square:
        return {"shorter_side": height, "longer_side": f"floor({height} * longer / shorter)"}
    sides = {side: f"round_half_to_even({side} / ratio)" for side in ("width", "height")}
    return {"covers": {"width": width, "height": height}, "ratio": f"min(height / {height}, width / {width})", **sides}


_KERNELS = {
    "nearest": "floor((i + 0.5) * old / new)",
    "bilinear": "1 - |x| for |x| < 1",
    "bicubic": "1.5 |x|^3 - 2.5 x^2 + 1 for |x| < 1, -0.5 |x|^3 + 2.5 x^2 - 4 |x| + 2 for |x| < 2",
}
_RESIZED = (
    "As Pillow resizes: pixel i of the new side is the mean of the old pixels j, weighted by the kernel of "
    "x = (j + 0.5 - (i + 0.5) * old / new) / max(1, old / new), with weights that sum to 1, each rounded to a "
    "multiple of 2^-22; first along the width, then along the height, each rounded to 0-255. Pillow 13 begins with "
    "the height where an image is more than twice as high as wide and becomes smaller."
)


def _pixels(data: Preprocessing) -> dict[str, Any]:
    means = "8 bits per channel; alpha is dropped, not blended, and of an animation the first frame is taken."
    if data.channels == 3:
        return {"channels": ["red", "green", "blue"], "bits": 8, "alpha": "dropped", "means": means}
    formula = "(19595 * red + 38470 * green + 7471 * blue + 32768) >> 16"
    means = f"{means} Colours become grey before the image is resized (ITU-R 601-2, as Pillow's mode L)."
    return {"channels": ["grey"], "bits": 8, "alpha": "dropped", "grey": formula, "means": means}


def _input(entry: ArtifactEntry) -> dict[str, Any]:
    image = entry.inputs[0]
    return {
        "target": entry.target,
        "name": image.name,
        "dtype": image.dtype,
        "shape": image.shape,
        "layout": targets.get(entry.target).layouts[entry.input],
        "values": "pixels in 0-255" if entry.input == "image" else "normalised",
    }


def _on_one_line(text: str) -> str:
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
