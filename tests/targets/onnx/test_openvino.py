"""OpenVINO compiles and runs every file: each in a process of its own, as what crashes there is no exception here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hydra_export import bundle, checkpoint, targets
from hydra_export.exporting import Quantizing, export, jobs
from hydra_export.gate import Gate
from hydra_export.target import STATIC, ExportSpec
from hydra_export.targets.onnx import OnnxOptions
from tests import variants

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed"),
]

HEADS = (1, 3, 6, 12)
# It computes fp16 weights in float32 as we do; of int8 it quantizes activations by other rules.
_LARGEST_ERROR = {"fp32": 1e-4, "fp16": 1e-4, "int8": 0.1, "int8-static": 1.0, "w8a16": 0.4}

_PROGRAM = """
import json, sys
import numpy as np
import openvino as ov
path, golden, kind, counts = sys.argv[1], np.load(sys.argv[2]), *sys.argv[3:]
errors = []
for threads in ({}, {"INFERENCE_NUM_THREADS": 1}):
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **threads})
    for k in map(int, counts.split(",")):
        chosen = {"k": np.array(k, np.int64)} if len(compiled.inputs) == 2 else {}
        rows = [compiled({"image": image[None], **chosen})[0][0] for image in golden["image"]]
        errors += [float(np.abs(np.array(rows) - golden[f"{kind}logits_k{k}"]).max())]
print(json.dumps(errors))
"""


_OF_VARIANTS = """
import json, sys
import numpy as np
import openvino as ov
errors = []
for path in sys.argv[2:]:
    image, expected = np.load(sys.argv[1]), np.load(path + ".npy")
    for threads in ({}, {"INFERENCE_NUM_THREADS": 1}):
        compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **threads})
        errors.append(float(np.abs(compiled({"image": image})[0] - expected).max()))
print(json.dumps(errors))
"""


@pytest.fixture(scope="module", params=["weights", "activations"])
def packaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every graph kind and precision of the packaged model; in integers those that differ."""
    out = tmp_path_factory.mktemp("openvino") / "bundle"
    source, gate = checkpoint.load(), Gate(open=True)
    if request.param == "activations":
        quantizing = Quantizing.of(source.info, None, 16, method="min-max")
        listed = jobs(["onnx"], ["separate", "universal"], STATIC)
        export(source, out, listed, heads=(3, 6), gate=gate, quantizing=quantizing)
        return out
    listed = jobs(["onnx"], ["separate", "shared", "universal"], ["fp32", "fp16", "int8"])
    export(source, out, listed, heads=HEADS, gate=gate)
    return out


def test_every_artifact_is_compiled_and_computes_what_it_should(packaged: Path) -> None:
    """One thread is a case of its own: OpenVINO then fuses more, and 2026.4.1 crashed on what it had fused."""
    crashed = []
    for artifact in bundle.read(packaged).artifacts:
        arguments = [str(packaged / artifact.path), str(packaged / "golden/golden.npz")]
        arguments += ["fp16_" if artifact.precision == "fp16" else "", ",".join(map(str, artifact.heads))]
        done = subprocess.run([sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            crashed.append((artifact.path, done.returncode, done.stderr[-300:]))
        else:
            errors = json.loads(done.stdout)
            assert len(errors) == 2 * len(artifact.heads)
            assert max(errors) <= _LARGEST_ERROR[artifact.precision], artifact.path
    assert crashed == []


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_every_variant_is_compiled_and_computes_what_onnxruntime_does(name: str, tmp_path: Path) -> None:
    """Compiling gated ones for one thread crashed 2026.4.1 where their product and the Linear behind it were rows."""
    onnx, of, paths = targets.get("onnx"), variants.checkpoint(variants.VARIANTS[name]), []
    image = np.random.default_rng(0).normal(size=(1, 3, *variants.VARIANTS[name].image_shape)).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    for opset in (17, 23):
        out = tmp_path / str(opset)
        out.mkdir()
        for artifact in onnx.write(of, (1, 2, 4), ExportSpec(options=OnnxOptions(opset=opset)), out):
            paths.append(str(out / artifact.path))
            np.save(f"{paths[-1]}.npy", onnx.load(out / artifact.path, artifact.heads[0]).run(image))
    arguments = [sys.executable, "-c", _OF_VARIANTS, str(tmp_path / "image.npy"), *paths]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-300:]
    errors = json.loads(done.stdout)
    assert len(errors) == 2 * len(paths)
    assert max(errors) <= _LARGEST_ERROR["fp32"]
