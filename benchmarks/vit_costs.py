"""What a choice of a Vision Transformer costs at run time: ViT-S/16 at 224 pixels with one thing changed.

    python benchmarks/vit_costs.py

Random weights, full width, fp32, one thread, ONNX (opset 17) and TFLite (CompiledModel); medians of interleaved rounds,
over the plain model's in the same round. Three minutes.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the models are the tests' own

import msgspec
import numpy as np
from measuring import environment

from hydra_export import targets
from hydra_export.architecture import HydraConfig, Rotary
from hydra_export.target import ExportSpec
from tests.variants import checkpoint

_ROUNDS = 15
_PLAIN = HydraConfig(heads=6)
_CHANGES = {
    "plain": {},
    "4 register tokens": {"register_tokens": 4},
    "mean of the patches": {"pooling": "avg"},
    "attention pooling": {"class_token": False, "pooling": "attention"},
    "rotary positions": {"rotary": Rotary()},
    "SwiGLU of as many products": {"gated_mlp": True, "activation": "silu", "mlp_ratio": 8 / 3},
    "tanh GELU": {"activation": "gelu_tanh"},
    "quick-GELU": {"activation": "quick_gelu"},
    "norms of queries and keys": {"qk_norm": True},
    "RMSNorm": {"norm": "rms_norm"},
    "all patch tokens": {"pooling": "none", "num_classes": 0},
}


def main() -> None:
    print(environment(("onnxruntime", "ai-edge-litert")), end="\n\n")
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    print("| changed | ONNX | TFLite |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for title, changes in _CHANGES.items():
            model = checkpoint(msgspec.structs.replace(_PLAIN, **changes))
            for name, runtime in (("onnx", "onnxruntime"), ("tflite", "litert-compiled")):
                target, out = targets.get(name), Path(folder) / name / title
                out.mkdir(parents=True)
                (artifact,) = target.write(model, (6,), ExportSpec(), out)
                sessions[title, name] = target.load(out / artifact.path, 6, runtime=runtime, threads=1)
        times: dict[tuple[str, str], list[float]] = {each: [] for each in sessions}
        for _ in range(_ROUNDS):
            for each, session in sessions.items():
                start = time.process_time()
                session.run(image)
                times[each].append(time.process_time() - start)
        for title in _CHANGES:
            ratios = (
                statistics.median(a / b for a, b in zip(times[title, name], times["plain", name], strict=True))
                for name in ("onnx", "tflite")
            )
            print(f"| {title} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")


if __name__ == "__main__":
    main()
