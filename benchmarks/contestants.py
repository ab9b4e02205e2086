"""Who takes part in ``peers.py``: how each writes its file and how each loads it, one small function each."""

# B batch, C channels, H height, W width
from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from limits import Call, Case, load_gemm, load_memory, load_peak
from measuring import litert_call, onnxruntime_call

# Files: how each is written. They return nothing and leave a file at *path*.


def checkpoint_model(work: Path) -> Any:
    from hydra_export import checkpoint

    return checkpoint.load(work / "vit-b.safetensors")


def dense_model(work: Path, case: Case) -> tuple[Any, tuple[Any]]:
    """The dense timm ViT, and an image for it."""
    import torch

    return checkpoint_model(work).model.subnetwork(case.heads).eval(), (torch.from_numpy(case.image()),)


def write_ours(target: str) -> Callable[[Path, Case, Path, Path], None]:
    def write(work: Path, case: Case, path: Path, _source: Path) -> None:
        from hydra_export import targets
        from hydra_export.target import ExportSpec

        spec = ExportSpec(precision=case.precision, batch=case.batch)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory(dir=work) as folder:
            targets.get(target).write(checkpoint_model(work), (case.heads,), spec, Path(folder))
            (written,) = Path(folder).iterdir()
            written.replace(path)

    return write


def write_torch(work: Path, case: Case, path: Path, _source: Path) -> None:
    import torch

    torch.save(dense_model(work, case)[0], path)


def write_dynamo(work: Path, case: Case, path: Path, _source: Path) -> None:
    import torch

    torch.onnx.export(*dense_model(work, case), path, dynamo=True, external_data=False, verbose=False)


def write_dynamo_int8(_work: Path, _case: Case, path: Path, source: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, path, per_channel=True)


def write_onnxslim(_work: Path, _case: Case, path: Path, source: Path) -> None:
    import onnxslim

    onnxslim.slim(str(source), str(path))


def write_litert_torch(work: Path, case: Case, path: Path, _source: Path) -> None:
    import litert_torch

    litert_torch.convert(*dense_model(work, case)).export(str(path))


def write_executorch(work: Path, case: Case, path: Path, _source: Path) -> None:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.export(*dense_model(work, case))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def write_reference(work: Path, case: Case, path: Path, _source: Path) -> None:
    """Logits in float64 PyTorch."""
    import torch

    dense, (image_BCHW,) = dense_model(work, case)
    with torch.inference_mode(), path.open("wb") as file:
        np.save(file, dense.double()(image_BCHW.double()).numpy())


# Loading: a file, and what runs it on the case's image.


def load_onnxruntime(path: Path, case: Case) -> Call:
    return onnxruntime_call(path, case.image(), case.threads)


def load_tflite(path: Path, case: Case) -> Call:
    return litert_call(path, case.image().transpose(0, 2, 3, 1), case.threads)


def load_litert_torch(path: Path, case: Case) -> Call:
    return litert_call(path, case.image(), case.threads)


def load_openvino(path: Path, case: Case) -> Call:
    from hydra_export.bench import runtimes

    run = runtimes.known()["openvino"]["open"](path, case.threads)(case.heads)
    image_BCHW = case.image()
    return lambda: run(image_BCHW)


def load_torch(path: Path, case: Case) -> Call:
    import torch

    dense, image_BCHW = torch.load(path, weights_only=False), torch.from_numpy(case.image())

    def call() -> np.ndarray:
        with torch.inference_mode():
            return dense(image_BCHW).numpy()

    return call


def load_torch_compile(path: Path, case: Case) -> Call:
    import torch

    compiled, image_BCHW = torch.compile(torch.load(path, weights_only=False)), torch.from_numpy(case.image())

    def call() -> np.ndarray:
        with torch.inference_mode():
            return compiled(image_BCHW).numpy()

    return call


def load_executorch(path: Path, case: Case) -> Call:
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    _unsafe_reset_threadpool(case.threads)
    program, image = Runtime.get().load_program(path), [torch.from_numpy(case.image())]
    method = program.load_method("forward")
    return lambda: method.execute(image)[0].numpy()


@dataclass(frozen=True)
class File:
    """What is written once for a head count, a batch and a precision; from the file *source*, or from the model."""

    suffix: str
    write: Callable[[Path, Case, Path, Path], Any]
    package: str
    source: str = ""


FILES = {
    "reference": File("npy", write_reference, "torch"),
    "onnx": File("onnx", write_ours("onnx"), "hydra-export"),
    "tflite": File("tflite", write_ours("tflite"), "hydra-export"),
    "torch": File("pt", write_torch, "torch"),
    "dynamo": File("onnx", write_dynamo, "torch"),
    "dynamo-int8": File("onnx", write_dynamo_int8, "onnxruntime", "dynamo"),
    "onnxslim": File("onnx", write_onnxslim, "onnxslim", "dynamo"),
    "litert-torch": File("tflite", write_litert_torch, "litert-torch"),
    "executorch": File("pte", write_executorch, "executorch"),
}


@dataclass(frozen=True)
class Contestant:
    label: str
    file: str
    module: str  # imported before the load is timed
    load: Callable[[Path, Case], Any]
    precisions: tuple[str, ...] = ("fp32",)
    limit: bool = False


BOTH = ("fp32", "int8")
CONTESTANTS = {
    "onnx": Contestant("**our ONNX**, onnxruntime", "onnx", "onnxruntime", load_onnxruntime, BOTH),
    "tflite": Contestant("**our TFLite**, LiteRT", "tflite", "ai_edge_litert.interpreter", load_tflite, BOTH),
    "openvino": Contestant("our ONNX, OpenVINO", "onnx", "openvino", load_openvino, BOTH),
    "dynamo": Contestant("`torch.onnx.export`, onnxruntime", "dynamo", "onnxruntime", load_onnxruntime),
    "dynamo-int8": Contestant(
        "its file, `quantize_dynamic`", "dynamo-int8", "onnxruntime", load_onnxruntime, ("int8",)
    ),
    "onnxslim": Contestant("its file, onnxslim", "onnxslim", "onnxruntime", load_onnxruntime),
    "litert-torch": Contestant("litert-torch, LiteRT", "litert-torch", "ai_edge_litert.interpreter", load_litert_torch),
    "executorch": Contestant("ExecuTorch, XNNPACK", "executorch", "executorch.runtime", load_executorch),
    "torch": Contestant("PyTorch, eager", "torch", "timm.models.vision_transformer", load_torch),
    "compile": Contestant("`torch.compile`", "torch", "timm.models.vision_transformer", load_torch_compile),
    "peak": Contestant("limit: products at the FMA peak", "onnx", "torch", load_peak, limit=True),
    "gemm": Contestant("limit: the best GEMM at these shapes", "onnx", "torch", load_gemm, limit=True),
    "memory": Contestant("limit: our file read once", "onnx", "numpy", load_memory, limit=True),
}
