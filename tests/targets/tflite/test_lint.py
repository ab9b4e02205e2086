"""Each promise about TFLite files, broken on purpose, and what the reader refuses before."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export.errors import CheckFailed
from hydra_export.targets.tflite import reader
from tests.targets.tflite.conftest import (
    TFLITE,
    Change,
    MakeFile,
    changed,
    loaded,
    operator,
    save,
    tensor,
    without_labels,
)


def _opcode(model: Any, code: int) -> Any:
    (found,) = [opcode for opcode in model.operatorCodes if opcode.builtinCode == code]
    return found


def _custom(model: Any) -> None:
    opcode = _opcode(model, 150)
    opcode.builtinCode, opcode.deprecatedBuiltinCode, opcode.customCode = 32, 32, b"FlexGelu"


def _other_operator(model: Any) -> None:
    opcode = _opcode(model, 150)
    opcode.builtinCode = opcode.deprecatedBuiltinCode = 28  # TANH


def _version(model: Any) -> None:
    _opcode(model, 9).version = 13


def _deprecated_code(model: Any) -> None:
    _opcode(model, 150).deprecatedBuiltinCode = 22


def _runtime_version(model: Any) -> None:
    (entry,) = [entry for entry in model.metadata if entry.name == b"min_runtime_version"]
    model.buffers[entry.buffer].data = np.frombuffer(b"1.5.0".ljust(16, b"\0"), np.uint8)


def _no_runtime_version(model: Any) -> None:
    model.metadata = [entry for entry in model.metadata if entry.name != b"min_runtime_version"]


def _rank_5(model: Any) -> None:
    found = tensor(model, "blocks.0/attn/q/RESHAPE")
    found.shape = np.array([1, *found.shape], np.int32)


def _another_shape(model: Any) -> None:
    tensor(model, "blocks.0/mlp/act/GELU").shape = np.array([1, 17, 32], np.int32)


def _dynamic_token(model: Any) -> None:
    found = tensor(model, "blocks.0/mlp/act/GELU")
    found.shape, found.shapeSignature = np.array([1, 1, 64], np.int32), np.array([1, -1, 64], np.int32)


def _int64(model: Any) -> None:
    tensor(model, "attn/perm").type = 4


def _unused_tensor(model: Any) -> None:
    tensors = model.subgraphs[0].tensors
    tensors.append(tensors[0])


def _unused_buffer(model: Any) -> None:
    model.buffers.append(model.buffers[1])


def _unused_opcode(model: Any) -> None:
    from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = 53
    model.operatorCodes.append(code)


def _key(model: Any) -> None:
    model.signatureDefs[0].signatureKey = b"main"


def _input_name(model: Any) -> None:
    model.signatureDefs[0].inputs[0].name = b"x"


def _output_name(model: Any) -> None:
    model.signatureDefs[0].outputs[0].name = b"y"


def _two_signatures(model: Any) -> None:
    model.signatureDefs *= 2


def _two_graphs(model: Any) -> None:
    model.subgraphs *= 2


def _other_output(model: Any) -> None:
    model.subgraphs[0].outputs = np.array([3], np.int32)


def _tanh(model: Any) -> None:
    operator(model, "blocks.0/mlp/act/GELU").builtinOptions.approximate = True


def _activation(model: Any) -> None:
    operator(model, "blocks.0/mlp/fc1/FULLY_CONNECTED").builtinOptions.fusedActivationFunction = 1


def _no_options(model: Any) -> None:
    operator(model, "norm/mean/MEAN").builtinOptions = None


def _order(model: Any) -> None:
    operators = model.subgraphs[0].operators
    operators[3], operators[4] = operators[4], operators[3]


def _made_twice(model: Any) -> None:
    operators = model.subgraphs[0].operators
    operators.insert(4, operators[3])


def _no_bias(model: Any) -> None:
    found = operator(model, "logits")
    found.inputs = np.array([*found.inputs[:2], -1], np.int32)


def _swapped_inputs(model: Any) -> None:
    found = operator(model, "logits")
    found.inputs = np.array([found.inputs[1], found.inputs[0], found.inputs[2]], np.int32)


def _pads(model: Any) -> None:
    model.buffers[tensor(model, "tokens/pads").buffer].data = np.array([0, 0, 2, 0, 0, 0], "<i4").view(np.uint8)


def _last_token(model: Any) -> None:
    for name, token in (("cls/begin", 16), ("cls/end", 17)):
        model.buffers[tensor(model, name).buffer].data = np.array([0, token, 0], "<i4").view(np.uint8)


def _relu(model: Any) -> None:
    opcode = _opcode(model, 76)
    opcode.builtinCode = opcode.deprecatedBuiltinCode = 19


def _intermediates(model: Any) -> None:
    operator(model, "logits").intermediates = np.array([1], np.int32)


def _variable(model: Any) -> None:
    tensor(model, "blocks.0/mlp/act/GELU").isVariable = True


def _outside_of_the_flatbuffer(model: Any) -> None:
    buffer = model.buffers[tensor(model, "head.bias").buffer]
    buffer.data, buffer.offset, buffer.size = None, 2**64 - 64, 128  # together 64


def _short_content(model: Any) -> None:
    buffer = model.buffers[tensor(model, "head.bias").buffer]
    buffer.data = buffer.data[:-4]


def _buffer_index(model: Any) -> None:
    tensor(model, "head.bias").buffer = len(model.buffers)


def _tensor_index(model: Any) -> None:
    operator(model, "logits").inputs = np.array([0, 1, 2**31 - 1], np.int32)


def _opcode_index(model: Any) -> None:
    operator(model, "logits").opcodeIndex = 99


def _graph_index(model: Any) -> None:
    model.signatureDefs[0].subgraphIndex = 1


def _huge(model: Any) -> None:
    tensor(model, "blocks.0/mlp/act/GELU").shape = np.array([1, 2**31 - 1, 2**31 - 1], np.int32)


def _nothing(model: Any) -> None:
    tensor(model, "blocks.0/mlp/act/GELU").shape = np.array([1, 0, 64], np.int32)


def _options_of_another_kind(model: Any) -> None:
    operator(model, "logits").builtinOptionsType = 100


def _options_of_another_operator(model: Any) -> None:
    operator(model, "embed/ADD").builtinOptionsType = 21


def _schema_version(model: Any) -> None:
    model.version = 2


def _first_buffer(model: Any) -> None:
    model.buffers[0].data = np.zeros(4, np.uint8)


def _no_rank(model: Any) -> None:
    tensor(model, "blocks.0/mlp/act/GELU").hasRank = False


def _signature_of_a_fixed_shape(model: Any) -> None:
    tensor(model, "blocks.0/mlp/act/GELU").shapeSignature = tensor(model, "blocks.0/mlp/act/GELU").shape


def _two_shapes(model: Any) -> None:
    found = tensor(model, "blocks.0/mlp/act/GELU")
    found.shape, found.shapeSignature = np.array([2, 17, 64], np.int32), np.array([-1, 17, 64], np.int32)


def _metadata_twice(model: Any) -> None:
    model.metadata.append(model.metadata[0])


def _constant_input(model: Any) -> None:
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.zeros(4 * 16 * 16 * 3, np.uint8)
    model.buffers.append(buffer)
    tensor(model, "image").buffer = len(model.buffers) - 1


def _constant_output(model: Any) -> None:
    names = [found.name for found in model.subgraphs[0].tensors]
    model.subgraphs[0].outputs = np.array([names.index(b"head.weight")], np.int32)
    model.signatureDefs[0].outputs[0].tensorIndex = names.index(b"head.weight")


def _output_of_rank_3(model: Any) -> None:
    names = [found.name for found in model.subgraphs[0].tensors]
    model.subgraphs[0].outputs = np.array([names.index(b"norm/ADD")], np.int32)
    model.signatureDefs[0].outputs[0].tensorIndex = names.index(b"norm/ADD")


def _image_of_rank_3(model: Any) -> None:
    tensor(model, "image").shape = np.array([1, 16, 48], np.int32)


def _float_permutation(model: Any) -> None:
    tensor(model, "attn/perm").type = 0


BROKEN: dict[str, tuple[Change, str]] = {
    "custom operator": (_custom, "OperatorCode .* has field 1, which these files do not have"),
    "other operator": (_other_operator, "it uses operators"),
    "other version": (_version, r"it uses operators \[\(9, 13\)\]"),
    "old code of another operator": (_deprecated_code, "operator 150 is also called 22"),
    "other oldest release": (_runtime_version, "its min_runtime_version is not that of its operators"),
    "no oldest release": (_no_runtime_version, "it has no min_runtime_version"),
    "rank 5": (_rank_5, "blocks.0/attn/q/RESHAPE has rank 5"),
    "another shape": (_another_shape, r"GELU outputs float32 \[1, 17, 64\], not"),
    "a dynamic token axis": (_dynamic_token, r"GELU has shape \[1, -1, 64\]"),
    "int64": (_int64, "tensor attn/perm is of type 4"),
    "unused tensor": (_unused_tensor, "tensor image is not used"),
    "unused buffer": (_unused_buffer, "buffer .* is not used"),
    "unused operator": (_unused_opcode, "operator .* is not used"),
    "other signature": (_key, "other graphs and signatures than 'serving_default', or those of"),
    "other input name": (_input_name, r"it takes \['x'\]"),
    "other output name": (_output_name, r"outputs \['y'\]"),
    "two signatures": (_two_signatures, "other graphs and signatures"),
    "two graphs": (_two_graphs, "other graphs and signatures"),
    "other output": (_other_output, "its signature and its graph have different inputs or outputs"),
    "one GELU by tanh": (_tanh, "it mixes exact GELUs and tanh GELUs"),
    "fused activation": (_activation, "FullyConnectedOptions .* has field 0, which these files do not have"),
    "options left out": (_no_options, "an operator has options of kind 27, but they are missing"),
    "options of another kind": (_options_of_another_kind, "is of kind 100, which these files do not have"),
    "options of another operator": (_options_of_another_operator, "ADD has options of another operator"),
    "schema of another version": (_schema_version, "its schema has version 2"),
    "first buffer filled": (_first_buffer, "its first buffer is not empty"),
    "no rank": (_no_rank, "GELU has no rank"),
    "a dynamic shape that is fixed": (_signature_of_a_fixed_shape, r"has shape \[1, 17, 64\] and \[1, 17, 64\]"),
    "two shapes": (_two_shapes, "GELU has two shapes"),
    "an entry twice": (_metadata_twice, "have one name"),
    "a constant input": (_constant_input, "its input image is a constant"),
    "a constant output": (_constant_output, "its output head.weight is not computed"),
    "an output of rank 3": (_output_of_rank_3, r"its output is float32 \[1, 1, 16\]"),
    "an image of rank 3": (_image_of_rank_3, r"its image is float32 \[1, 16, 48\]"),
    "numbers of another type": (_float_permutation, "TRANSPOSE is given"),
    "used before it is made": (_order, "which is not computed yet"),
    "made twice": (_made_twice, "is computed twice"),
    "no bias": (_no_bias, "it refers to tensor -1 of"),
    "inputs exchanged": (_swapped_inputs, "FULLY_CONNECTED: its bias is of another size"),
    "two class tokens": (_pads, r"PAD outputs float32 \[1, 18, 16\], not"),
    "another token": (_last_token, "it takes tokens from 16 on, after 1 that are not patches"),
    "RELU for RSQRT": (_relu, "it is of a single channel"),
    "intermediates": (_intermediates, "Operator .* has field 8, which these files do not have"),
    "variable": (_variable, "Tensor .* has field 5, which these files do not have"),
    "content outside": (
        _outside_of_the_flatbuffer,
        "content of 128 bytes at byte 18446744073709551552 is not after",
    ),
    "short content": (_short_content, "tensor head.bias of 28 bytes has 24 bytes of content"),
    "buffer out of range": (_buffer_index, "tensor head.bias names buffer"),
    "tensor out of range": (_tensor_index, "it refers to tensor 2147483647 of"),
    "operator out of range": (_opcode_index, "it refers to operator 99 of"),
    "graph out of range": (_graph_index, "it refers to graph 1 of 1"),
    "a tensor larger than memory": (_huge, "GELU has 18446744056529682436 bytes"),
    "a tensor of nothing": (_nothing, r"GELU has shape \[1, 0, 64\]"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_promise_is_named(written: MakeFile, change: Change, message: str) -> None:
    path = written()
    TFLITE.lint(path)
    changed(path, lambda model: None)
    TFLITE.lint(path)
    changed_again(path, change)
    with pytest.raises(CheckFailed, match=rf"tiny-k2\.tflite .*{message}"):
        TFLITE.lint(path)
    with pytest.raises(CheckFailed, match=message):
        TFLITE.load(path, 2)


def changed_again(path: Path, change: Change) -> None:
    """For a file whose labels are gone already."""
    model = loaded(path)
    change(model)
    save(model, path)


Edit = Callable[[bytearray, int], object]  # of a file, and where its model ends


def _cut(content: bytearray, end: int) -> None:
    del content[end - 1 :]


def _cut_labels(content: bytearray, end: int) -> None:
    del content[-1:]


def _other_label(content: bytearray, end: int) -> None:
    at = content.index(b"class 3", end)
    content[at : at + 7] = b"class 4"


def _more_behind(content: bytearray, end: int) -> None:
    content += b"more"


def _identifier(content: bytearray, end: int) -> None:
    content[4:8] = b"TFL2"


def _root(content: bytearray, end: int) -> None:
    content[0:4] = struct.pack("<I", len(content))


def _root_backwards(content: bytearray, end: int) -> None:
    content[0:4] = bytes(4)


def _root_table(content: bytearray) -> tuple[int, int]:
    """Where the model's table and its list of fields begin."""
    (root,) = struct.unpack_from("<I", content)
    (back,) = struct.unpack_from("<i", content, root)
    return root, root - back


def _vtable(content: bytearray, end: int) -> None:
    root, _fields = _root_table(content)
    struct.pack_into("<i", content, root, root + 4)


def _long_vtable(content: bytearray, end: int) -> None:
    struct.pack_into("<H", content, _root_table(content)[1], 1000)


def _short_table(content: bytearray, end: int) -> None:
    struct.pack_into("<H", content, _root_table(content)[1] + 2, 2)


def _field_outside(content: bytearray, end: int) -> None:
    struct.pack_into("<H", content, _root_table(content)[1] + 4, 60000)


def _field_not_aligned(content: bytearray, end: int) -> None:
    struct.pack_into("<H", content, _root_table(content)[1] + 4, 6)


def _root_at_the_end(content: bytearray, end: int) -> None:
    content += bytes(-len(content) % 4 or 4)
    struct.pack_into("<I", content, 0, len(content))


def _neither_true_nor_false(content: bytearray, end: int) -> None:
    from ai_edge_litert import schema_py_generated as schema

    table = schema.Model.GetRootAs(content, 0).Subgraphs(0).Tensors(0)._tab
    content[table.Pos + table.Offset(20)] = 2  # has_rank


def _not_utf8(content: bytearray, end: int) -> None:
    content[content.index(b"blocks.0.norm1.bias")] = 0xFF


def _not_ended(content: bytearray, end: int) -> None:
    at = content.index(b"blocks.0.norm1.bias") + len(b"blocks.0.norm1.bias")
    content[at] = 1


def _labels_that_are_none(content: bytearray, end: int) -> None:
    content[content.index(b'["class 0"')] = ord("{")


BYTES: dict[str, tuple[Edit, str]] = {
    "cut": (_cut, "is outside"),
    "labels cut": (_cut_labels, "is something other than the archive of its labels"),
    "another label": (_other_label, "is something other than the archive of its labels"),
    "more behind": (_more_behind, "is something other than the archive of its labels"),
    "identifier": (_identifier, "it does not start like one"),
    "root outside": (_root, "is outside|points to byte|not aligned"),
    "root is itself": (_root_backwards, "points to byte 0"),
    "fields listed before the file": (_vtable, "has its fields listed before the file"),
    "a long list of fields": (_long_vtable, "has a list of fields of another length"),
    "a table without a head": (_short_table, "is shorter than its head"),
    "a field outside of its table": (_field_outside, "has a field outside the table"),
    "a field that is not aligned": (_field_not_aligned, "the number at byte .* is not aligned"),
    "root at the end": (_root_at_the_end, "the number at byte .* is outside"),
    "neither true nor false": (_neither_true_nor_false, "the truth value at byte .* is 2"),
    "a name that is not UTF-8": (_not_utf8, "is not UTF-8"),
    "a name without end": (_not_ended, "does not end in 0"),
    "labels that are no list": (_labels_that_are_none, "hydra_export.labels cannot be read"),
}


@pytest.mark.parametrize(("edit", "message"), BYTES.values(), ids=BYTES.keys())
def test_damaged_bytes_are_named(written: MakeFile, edit: Edit, message: str) -> None:
    path = written()
    content = bytearray(path.read_bytes())
    edit(content, reader.read(path).end)
    path.write_bytes(content)
    with pytest.raises(CheckFailed, match=rf"tiny-k2\.tflite .*({message})"):
        TFLITE.lint(path)


def test_content_that_is_not_aligned_is_refused(written: MakeFile) -> None:
    path = written()
    model = loaded(path)
    without_labels(model)
    save(model, path, alignment=4)
    with pytest.raises(CheckFailed, match=r"the content at byte \d+ is not aligned"):
        TFLITE.lint(path)


def test_every_prefix_is_refused(written: MakeFile, tmp_path: Path) -> None:
    content = written(1).read_bytes()
    path = tmp_path / "prefix.tflite"
    for length in [*range(40), *range(40, len(content), 211)]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckFailed, match=r"prefix\.tflite"):
            TFLITE.lint(path)


def test_a_sparse_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.tflite"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(CheckFailed, match="it has 2,147,483,648 bytes; allowed"):
        TFLITE.lint(path)


@pytest.mark.parametrize("kind", ["tables", "texts", "numbers"])
def test_lists_of_one_thing_over_and_over_are_refused_in_time(tmp_path: Path, kind: str) -> None:
    """Small files that say as much as would take hours to read: every entry is the same large thing."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    builder = flatbuffers.Builder(1 << 20)
    name = builder.CreateString("x" * (10_000_000 if kind == "texts" else 1))
    numbers = builder.CreateNumpyVector(np.zeros(1_000_000 if kind == "numbers" else 1, np.int32))
    schema.TensorStart(builder)
    schema.TensorAddName(builder, name)
    schema.TensorAddShape(builder, numbers)
    tensors = _repeated(builder, schema.TensorEnd(builder))
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graphs = _repeated(builder, schema.SubGraphEnd(builder))
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), file_identifier=b"TFL3")
    (tmp_path / "many.tflite").write_bytes(builder.Output())
    start = time.process_time()
    with pytest.raises(CheckFailed, match=r"it lists more than \d+ things"):
        TFLITE.lint(tmp_path / "many.tflite")
    assert time.process_time() - start < 30


def _repeated(builder: Any, table: int) -> int:
    builder.StartVector(4, 100_000, 4)
    for _ in range(100_000):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def test_the_reader_knows_the_largest_model(tmp_path: Path) -> None:
    """256 blocks, the most that a configuration may have, of the smallest width."""
    import torch

    from hydra_export.architecture import HydraConfig
    from hydra_export.checkpoint import Checkpoint
    from hydra_export.checkpoint_file import CheckpointInfo
    from hydra_export.model import HydraViT
    from hydra_export.preprocess import imagenet
    from hydra_export.target import ExportSpec

    torch.manual_seed(0)
    config = HydraConfig(heads=1, head_dim=2, depth=256, patch_size=4, image_size=4, num_classes=2)
    info = CheckpointInfo(name="deep", config=config, preprocessing=imagenet(4))
    checkpoint = Checkpoint(HydraViT(config).state_dict(), info, tmp_path / "deep", "")
    (artifact,) = TFLITE.write(checkpoint, (1,), ExportSpec(), tmp_path)
    TFLITE.lint(tmp_path / artifact.path)


def test_a_file_of_someone_else_is_refused(written: MakeFile, tmp_path: Path) -> None:
    path = written()
    model = loaded(path)
    without_labels(model)
    model.signatureDefs = None
    model.subgraphs[0].name = b"main"
    save(model, path)
    with pytest.raises(CheckFailed, match="it has other graphs and signatures"):
        TFLITE.lint(path)
