"""Runs this bundle's ONNX and TFLite artifacts on the golden images, and compares.

    python snippets/run.py                            every artifact at every head count
    python snippets/run.py --heads 6                  at one
    python snippets/run.py --artifact onnx/NAME.onnx  one artifact

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


def golden_images(golden: Any, artifact: dict[str, Any]) -> Any:
    if artifact["input"] == "image":
        return golden["pixels"]  # uint8 [n, H, W, C]
    normalised = golden["image"]  # float32 [n, C, H, W]: (pixel / 255 - mean) / std, see preprocessing.json
    if artifact["target"] == "tflite":
        return np.ascontiguousarray(normalised.transpose(0, 2, 3, 1))
    return normalised


def check(artifact: dict[str, Any], heads: int, golden: Any) -> bool:
    run = (load_tflite if artifact["target"] == "tflite" else load_onnx)(artifact, heads)
    images, batch = golden_images(golden, artifact), artifact["inputs"][0]["shape"][0]
    batch = batch if isinstance(batch, int) else 1
    logits = np.concatenate([run(np.repeat(image[None], batch, axis=0))[:1] for image in images])
    rounded = "fp16_" if artifact["precision"] == "fp16" else ""
    expected, torch_fp32 = golden[f"{rounded}logits_k{heads}"], golden[f"{rounded}torch_fp32_logits_k{heads}"]
    error, best = np.abs(logits - expected).max(), logits.argmax(axis=1)
    # As far off as PyTorch's own float32 is, four times. The best class decides for int8, whose error has no bound.
    bound = max(1e-5 * np.abs(expected).max(), 4 * np.abs(torch_fp32 - expected).max())
    passed = bool((best == expected.argmax(axis=1)).all() if artifact["precision"] == "int8" else error <= bound)
    print(
        f"{artifact['path']}, k = {heads}: best {best.tolist()}, error {error:.1e}, {'same' if passed else 'DIFFERS'}"
    )
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int)
    parser.add_argument("--artifact")
    chosen = parser.parse_args()
    artifacts = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
    runs = [
        (artifact, heads)
        for artifact in artifacts
        for heads in artifact["heads"]
        if artifact["target"] in ("onnx", "tflite")
        and chosen.heads in (None, heads)
        and chosen.artifact in (None, artifact["path"])
    ]
    if not runs:
        parser.error("no artifact has these heads; manifest.json lists them")
    with np.load(BUNDLE / "golden" / "golden.npz") as golden:
        differing = [artifact for artifact, heads in runs if not check(artifact, heads, golden)]
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
