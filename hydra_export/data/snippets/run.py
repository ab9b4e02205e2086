"""Runs this bundle's ONNX and TFLite artifacts on the golden images, and compares; or on a photograph.

    python snippets/run.py                            every artifact at every head count
    python snippets/run.py --heads 6                  at one
    python snippets/run.py --artifact onnx/NAME.onnx  one artifact
    python snippets/run.py --image photo.jpg          the best labels of a photograph, instead; needs Pillow

Needs numpy, and onnxruntime for .onnx or ai-edge-litert for .tflite. Exits with 1 where an artifact differs. Apps take
hydra_runtime.py, which stands beside this. SPDX-License-Identifier: Apache-2.0
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import hydra_runtime
import numpy as np

BUNDLE = Path(__file__).resolve().parents[1]


def check(model: hydra_runtime.Model, artifact: dict[str, Any], heads: int, golden: Any) -> bool:
    outputs = np.stack([model.answer(pixels, heads).outputs for pixels in golden["pixels"]])
    rounded = "fp16_" if artifact["precision"] == "fp16" else ""
    expected, torch_fp32 = golden[f"{rounded}logits_k{heads}"], golden[f"{rounded}torch_fp32_logits_k{heads}"]
    flat, wanted = (each.reshape(len(each), -1).astype(float) for each in (outputs, expected))
    error, best = np.abs(outputs - expected).max(), flat.argmax(axis=1)
    # Float32's own noise, as PyTorch shows it on these images, eight times; of int8 the best class decides, of features
    # their direction.
    bound = max(2e-5 * np.abs(expected).max(), 8 * np.abs(torch_fp32 - expected).max())
    agrees = bool((best == wanted.argmax(axis=1)).all())
    if not model.manifest["model"]["config"]["num_classes"]:
        lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(wanted, axis=1)
        agrees = bool(((flat * wanted).sum(axis=1) >= 0.99 * lengths).all())
    passed = agrees if artifact["precision"] in ("int8", "int8-static", "w8a16") else bool(error <= bound)
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
    if chosen.image and not manifest["model"]["config"]["num_classes"]:
        parser.error("this model has no classes to name")
    models = {artifact["path"]: hydra_runtime.load(BUNDLE, artifact=artifact["path"]) for artifact, _ in runs}
    if chosen.image is None:
        with np.load(BUNDLE / "golden" / "golden.npz") as golden:
            passed = [check(models[artifact["path"]], artifact, heads, golden) for artifact, heads in runs]
        return 0 if all(passed) else 1
    for artifact, heads in runs:
        model = models[artifact["path"]]
        best = ", ".join(f"{label} {share:.1%}" for label, share in model.top(model(chosen.image, heads), 3))
        print(f"{artifact['path']}, k = {heads}: {best}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except hydra_runtime.RuntimeFailure as failure:
        print(failure, file=sys.stderr)
        sys.exit(2)
