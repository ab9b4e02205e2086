"""Small packages written field by field, and packages written by coremltools in a process of its own."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hydra_export.mil.proto import model_class
from hydra_export.mil.types import DTYPES, NAMED

NUMBERS = {dtype.name: number for number, dtype in DTYPES.items()}
ARRAY_TYPES = {"fp16": 65552, "fp32": 65568, "int32": 131104}
MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")

Edit = Callable[[Any], None]


def dtype_of(array: NDArray[Any]) -> str:
    """What MIL calls the dtype of an array."""
    names = {"float16": "fp16", "float32": "fp32", "int32": "int32", "bool": "bool", "int8": "int8", "uint8": "uint8"}
    return {**names, "uint32": "uint32"}[array.dtype.name]


def set_type(message: Any, dtype: str, shape: Sequence[int]) -> None:
    """Makes a ValueType message a tensor."""
    message.tensorType.dataType = NUMBERS[dtype]
    message.tensorType.rank = len(shape)
    for size in shape:
        message.tensorType.dimensions.add().constant.size = size


def set_value(message: Any, value: Any, dtype: str = "") -> None:
    """Makes a Value message hold an array, a string, or a list of strings."""
    if isinstance(value, list):
        set_type(message.type.listType.type, "string", ())
        message.type.listType.length.constant.size = len(value)
        for text in value:
            set_value(message.immediateValue.list.values.add(), text)
        return
    tensor = message.immediateValue.tensor
    if isinstance(value, str):
        set_type(message.type, "string", ())
        tensor.strings.values.append(value)
        return
    array = np.asarray(value)
    dtype = dtype or dtype_of(array)
    set_type(message.type, dtype, array.shape)
    if NAMED[dtype].bits < 8:
        bits = np.unpackbits(array.astype(np.uint8).reshape(-1, 1), axis=1, bitorder="little")[:, : NAMED[dtype].bits]
        tensor.bytes.values = np.packbits(bits, bitorder="little").tobytes()
    elif dtype in (fields := {"fp32": "floats", "int32": "ints", "bool": "bools"}):
        getattr(tensor, fields[dtype]).values.extend(array.reshape(-1).tolist())
    else:
        tensor.bytes.values = array.tobytes()


def add_operation(
    block: Any,
    kind: str,
    inputs: Mapping[str, str | Sequence[str]],
    outputs: Sequence[tuple[str, str, Sequence[int]]],
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    """Adds an operation that takes named values and gives *outputs*: name, dtype, shape."""
    operation = block.operations.add(type=kind)
    for name, given in inputs.items():
        entry = operation.inputs.add(key=name)
        for each in [given] if isinstance(given, str) else given:
            entry.value.arguments.add(name=each)
    for name, dtype, shape in outputs:
        output = operation.outputs.add(name=name)
        set_type(output.type, dtype, shape)
    for name, value in {"name": kind, **(attributes or {})}.items():
        set_value(operation.attributes.add(key=name).value, value)
    return operation


def add_const(block: Any, name: str, value: Any, dtype: str = "") -> None:
    """Adds a const operation."""
    operation = block.operations.add(type="const")
    set_value(operation.attributes.add(key="name").value, name)
    constant = operation.attributes.add(key="val").value
    set_value(constant, value, dtype)
    operation.outputs.add(name=name).type.CopyFrom(constant.type)


def new_model(ios: int = 18) -> tuple[Any, Any]:
    """An empty model with a function ``main``, and the block of that function."""
    model = model_class()(specificationVersion=ios - 9)
    model.mlProgram.version = 1
    function = model.mlProgram.functions.add(key="main").value
    function.opset = f"CoreML{ios - 10}"
    return model, function.block_specializations.add(key=function.opset).value


def add_feature(features: Any, name: str, dtype: str, shape: Sequence[int]) -> None:
    """Describes an input or output that is a tensor."""
    array = features.add(name=name).type.multiArrayType
    array.shape.extend(shape)
    array.dataType = ARRAY_TYPES[dtype]


def add_input(model: Any, name: str, dtype: str, shape: Sequence[int]) -> None:
    """An input of ``main``, described."""
    set_type(model.mlProgram.functions[0].value.inputs.add(name=name).type, dtype, shape)
    add_feature(model.description.input, name, dtype, shape)


def add_output(model: Any, name: str, dtype: str, shape: Sequence[int]) -> None:
    """An output of ``main``, described."""
    model.mlProgram.functions[0].value.block_specializations[0].value.outputs.append(name)
    add_feature(model.description.output, name, dtype, shape)


def write_package(path: Path, model: Any, weights: bytes | None = None) -> Path:
    """Writes *model* as a package."""
    (path / WEIGHTS).parent.mkdir(parents=True)
    (path / MODEL).write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    if weights is not None:
        (path / WEIGHTS).write_bytes(weights)
    item = {"author": "a", "description": "d", "name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"}
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": {"id": item}, "rootModelIdentifier": "id"}
    (path / "Manifest.json").write_text(json.dumps(manifest))
    return path


def weight_file(*arrays: NDArray[Any]) -> bytes:
    """A weight file; the records begin at 64, and each where the one before it ends, at multiples of 64."""
    content = struct.pack("<II56x", len(arrays), 2)
    for array in arrays:
        number = NAMED[dtype_of(array)].blob_number
        content += struct.pack("<IIQQQ32x", 0xDEADBEEF, number, array.nbytes, len(content) + 64, 0)
        content += array.tobytes()
        content += bytes(-len(content) % 64)
    return content


def read_model(path: Path) -> Any:
    """The model of a package, to change."""
    model = model_class()()
    model.ParseFromString((path / MODEL).read_bytes())
    return model


_CONVERTED = """
import sys
sys.modules["tensorflow"] = None  # it and coremltools cannot share a process
import torch, torchvision, numpy as np
import coremltools as ct
import coremltools.optimize.coreml as cto
from timm.models.vision_transformer import VisionTransformer

folder = sys.argv[1]
torch.manual_seed(0)
model = VisionTransformer(img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=11).eval()
image = torch.rand(1, 3, 16, 16) * 255
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    normalised = (image / 255 - 0.5) / 0.5
    np.savez(f"{folder}/expected.npz", image=image, normalised=normalised, logits=model(normalised))
program = torch.export.export(model, (normalised,)).run_decompositions({})

def convert(ios, precision, **options):
    return ct.convert(
        program,
        minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
        compute_precision=getattr(ct.precision, precision),
        skip_model_load=True,
        **options,
    )

def linear(**options):
    config = cto.OpLinearQuantizerConfig(weight_threshold=64, **options)
    return lambda model: cto.linear_quantize_weights(model, cto.OptimizationConfig(config))

def palette(**options):
    config = cto.OpPalettizerConfig(weight_threshold=64, **options)
    return lambda model: cto.palettize_weights(model, cto.OptimizationConfig(config))

for ios in (15, 16, 17, 18):
    for precision in ("FLOAT16", "FLOAT32"):
        converted = convert(ios, precision)
        converted.save(f"{folder}/ios{ios}-{precision}.mlpackage")
        if ios in (16, 18) and precision == "FLOAT16":
            linear(mode="linear_symmetric")(converted).save(f"{folder}/ios{ios}-int8.mlpackage")
            linear(mode="linear", dtype="uint8")(converted).save(f"{folder}/ios{ios}-uint8.mlpackage")
            palette(mode="kmeans", nbits=6)(converted).save(f"{folder}/ios{ios}-palette.mlpackage")
blocks = {"dtype": "int4", "granularity": "per_block", "block_size": 8}
linear(mode="linear_symmetric", **blocks)(converted).save(f"{folder}/ios18-int4.mlpackage")
groups = {"nbits": 3, "granularity": "per_grouped_channel", "group_size": 8}
palette(mode="uniform", **groups)(converted).save(f"{folder}/ios18-groups.mlpackage")
palette(mode="kmeans", nbits=4, cluster_dim=2)(converted).save(f"{folder}/ios18-vectors.mlpackage")
pixels = ct.ImageType(name="x", shape=(1, 3, 16, 16), scale=1 / 127.5, bias=[-1, -1, -1])
labels = ct.ClassifierConfig([f"class {i}" for i in range(11)])
convert(17, "FLOAT16", inputs=[pixels], classifier_config=labels).save(f"{folder}/classifier.mlpackage")
both = ct.utils.MultiFunctionDescriptor()
both.add_function(f"{folder}/ios18-FLOAT16.mlpackage", "main", "half")
both.add_function(f"{folder}/ios18-FLOAT32.mlpackage", "main", "full")
both.default_function_name = "full"
ct.utils.save_multifunction(both, f"{folder}/functions.mlpackage")
"""


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A timm ViT converted by coremltools for each iOS version and compressed in each way, and what torch computes."""
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("converted")
    done = subprocess.run([sys.executable, "-c", _CONVERTED, str(folder)], capture_output=True, text=True, check=False)
    if "No module named 'coremltools'" in done.stderr:
        pytest.skip("coremltools is not installed: pip install 'hydra-export[coreml]'")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="session")
def universal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own package of int8 weights that several functions share."""
    import torch

    from hydra_export import checkpoint_file, targets
    from hydra_export.architecture import HydraConfig
    from hydra_export.checkpoint import load
    from hydra_export.model import HydraViT
    from hydra_export.preprocess import imagenet
    from hydra_export.target import ExportSpec

    torch.manual_seed(0)
    config = HydraConfig(heads=3, head_dim=4, depth=1, patch_size=8, image_size=16, num_classes=5)
    info = checkpoint_file.CheckpointInfo(name="tiny", config=config, preprocessing=imagenet(16))
    out = tmp_path_factory.mktemp("universal")
    checkpoint_file.write(out / "tiny.safetensors", HydraViT(config).state_dict(), info)
    checkpoint = load(out / "tiny.safetensors")
    targets.get("coreml").write(checkpoint, (1, 3), ExportSpec(graph="universal", precision="int8"), out)
    return out / "tiny-universal-int8.mlpackage"
