"""Runs this bundle's ONNX and TFLite artifacts on the golden images, and compares; or on a photograph.

    python snippets/run.py                            every artifact at every head count
    python snippets/run.py --heads 6                  at one
    python snippets/run.py --artifact onnx/NAME.onnx  one artifact
    python snippets/run.py --image photo.jpg          the best labels of a photograph, instead; needs Pillow

Needs numpy, and onnxruntime for .onnx or ai-edge-litert for .tflite. Exits with 1 where an artifact differs.
SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BUNDLE = Path(__file__).resolve().parents[1]
Run = Callable[[Any], Any]  # one batch of images to its outputs


def load_onnx(artifact: dict[str, Any], heads: int) -> Run:
    import onnxruntime as ort

    session = ort.InferenceSession(str(BUNDLE / artifact["path"]))
    takes_heads = len(artifact["inputs"]) > 1
    chosen = {"k": np.array(heads, np.int64)} if takes_heads else {}
    return lambda images: session.run(None, {"image": images, **chosen})[0]


def load_tflite(artifact: dict[str, Any], heads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    signature = f"k{heads}" if artifact["graph"] == "universal" else "serving_default"
    runner = Interpreter(str(BUNDLE / artifact["path"])).get_signature_runner(signature)
    return lambda images: runner(image=images)[artifact["outputs"][0]["name"]]


def runner(artifact: dict[str, Any], heads: int) -> Run:
    """Any number of images, uint8 [n, H, W, C], to the outputs [n, ...] of *artifact*."""
    run = (load_tflite if artifact["target"] == "tflite" else load_onnx)(artifact, heads)
    batch = artifact["inputs"][0]["shape"][0]
    batch = batch if isinstance(batch, int) else 1

    def run_all(pixels: Any) -> Any:
        images = pixels if artifact["input"] == "image" else normalised(pixels, artifact["target"])
        return np.concatenate([run(np.repeat(image[None], batch, axis=0))[:1] for image in images])

    return run_all


def normalised(pixels: Any, target: str) -> Any:
    said = json.loads((BUNDLE / "preprocessing.json").read_text(encoding="utf-8"))["normalise"]
    mean, std = (np.array(said[name], np.float32) for name in ("mean", "std"))
    images = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return images if target == "tflite" else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def photograph(path: str) -> Any:
    """A photograph as the model sees it, uint8 [H, W, C]: the steps of preprocessing.json."""
    from PIL import Image, ImageOps

    said = json.loads((BUNDLE / "preprocessing.json").read_text(encoding="utf-8"))
    kept, resize = said["center_crop"], said["resize"]
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB" if said["colors"] == "RGB" else "L")
    if "shorter_side" in resize:
        width, height = (resize["shorter_side"] * side // min(image.size) for side in image.size)
    else:
        ratio = min(image.height / resize["covers"]["height"], image.width / resize["covers"]["width"])
        width, height = (round(side / ratio) for side in image.size)
    image = image.resize((width, height), Image.Resampling[resize["interpolation"].upper()])
    left, top = round((width - kept["width"]) / 2), round((height - kept["height"]) / 2)
    cropped = image.crop((left, top, left + kept["width"], top + kept["height"]))
    return np.asarray(cropped).reshape(kept["height"], kept["width"], -1)


def classify(artifact: dict[str, Any], heads: int, pixels: Any) -> None:
    logits = runner(artifact, heads)(pixels[None])[0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    labels = BUNDLE / "labels.txt"
    names = (
        labels.read_text(encoding="utf-8").split("\n")
        if labels.exists()
        else [f"class {i}" for i in range(len(logits))]
    )
    best = ", ".join(f"{names[i]} {shares[i]:.1%}" for i in (-logits).argsort(kind="stable")[:3])
    print(f"{artifact['path']}, k = {heads}: {best}")


def check(artifact: dict[str, Any], heads: int, golden: Any) -> bool:
    outputs, rounded = runner(artifact, heads)(golden["pixels"]), "fp16_" if artifact["precision"] == "fp16" else ""
    expected, torch_fp32 = golden[f"{rounded}logits_k{heads}"], golden[f"{rounded}torch_fp32_logits_k{heads}"]
    flat, wanted = (each.reshape(len(each), -1).astype(float) for each in (outputs, expected))
    error, best = np.abs(outputs - expected).max(), flat.argmax(axis=1)
    # Float32's own noise, as PyTorch shows it on these images, eight times; of int8 the best class decides, of patch
    # tokens their direction.
    bound = max(2e-5 * np.abs(expected).max(), 8 * np.abs(torch_fp32 - expected).max())
    agrees = bool((best == wanted.argmax(axis=1)).all())
    if outputs.ndim > 2:
        lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(wanted, axis=1)
        agrees = bool(((flat * wanted).sum(axis=1) >= 0.99 * lengths).all())
    passed = agrees if artifact["precision"] == "int8" else bool(error <= bound)
    print(
        f"{artifact['path']}, k = {heads}: best {best.tolist()}, error {error:.1e}, {'same' if passed else 'DIFFERS'}"
    )
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int)
    parser.add_argument("--artifact")
    parser.add_argument("--image")
    chosen = parser.parse_args()
    manifest = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))
    runs = [
        (artifact, heads)
        for artifact in manifest["artifacts"]
        for heads in artifact["heads"]
        if artifact["target"] in ("onnx", "tflite")
        and chosen.heads in (None, heads)
        and chosen.artifact in (None, artifact["path"])
    ]
    if not runs:
        parser.error("no artifact has these heads; manifest.json lists them")
    if chosen.image is None:
        with np.load(BUNDLE / "golden" / "golden.npz") as golden:
            return 1 if [artifact for artifact, heads in runs if not check(artifact, heads, golden)] else 0
    if not manifest["model"]["config"]["num_classes"]:
        parser.error("this model has no classes to name")
    try:
        pixels = photograph(chosen.image)
    except OSError as error:
        parser.error(f"{chosen.image} cannot be read: {error}")
    for artifact, heads in runs:
        classify(artifact, heads, pixels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
