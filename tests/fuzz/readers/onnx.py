"""The lint of ONNX files, which is all that stands between a file of anybody's and a runtime."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx

from hydra_export import targets
from hydra_export.target import ExportSpec
from hydra_export.targets.onnx import OnnxOptions
from tests.fuzz import checkpoints, protobufs, trees
from tests.fuzz.reader import Random, Reader


def _seeds() -> list[bytes]:
    folder = checkpoints.bundle() / "onnx"
    paths = [folder / name for name in ("tiny-k1.onnx", "tiny-k2-fp16.onnx", "tiny-shared-k2.onnx")]
    paths.append(checkpoints.artifact("onnx", (2,), ExportSpec(precision="int8", batch="dynamic")))
    paths.append(checkpoints.artifact("onnx", (1,), ExportSpec(options=OnnxOptions(opset=23), input="image")))
    return [path.read_bytes() for path in paths]


def _mutate(random: Random, content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    protobufs.mutate(random, model)
    return trees.bruise(random, model.SerializeToString(), 0.05)


def _read(path: Path) -> None:
    for weights in (checkpoints.bundle() / "onnx").glob("*.bin"):
        if not (path.parent / weights.name).exists():
            shutil.copyfile(weights, path.parent / weights.name)
    onnx_target = targets.get("onnx")
    onnx_target.lint(path)
    onnx_target.metadata(path)
    onnx_target.signature(path)
    list(onnx_target.operators(path))


READER = Reader(_seeds, _mutate, onnx.load_model_from_string, _read, ".onnx")
