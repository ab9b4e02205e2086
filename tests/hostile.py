"""Artifacts that are legal, and ask for more than any of ours, written in the place of a good one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint
    from hydra_export.targets.tflite.builder import Value
    from hydra_export.targets.tflite.graph import TFLiteEmitter

Nodes = list[onnx.NodeProto]
Emit = Callable[["TFLiteEmitter", "Value"], "Value"]
NUM_PRODUCTS = 300  # of 4096 x 4096 matrices: minutes


def replace_graph(path: Path, make: Callable[[onnx.ModelProto], Nodes], constants: dict[str, Any]) -> None:
    """The graph at *path* becomes the nodes that *make* gives, the last of which makes a matrix ``big``.

    What the file says of itself, takes and gives stays as it was.
    """
    model = onnx.load(path)
    for field in ("node", "initializer", "value_info"):
        model.graph.ClearField(field)
    constants = {"first": [0, 0], "end": [1, 7], **constants}
    nodes = [*make(model), helper.make_node("Slice", ["big", "first", "end"], ["logits"], name="logits")]
    used = {name for node in nodes for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used
    )
    model.graph.node.extend(nodes)
    onnx.save(model, path)


ONES = {"column": np.ones((4096, 1), np.float32), "row": np.ones((1, 4096), np.float32)}


def expand(path: Path, sizes: Sequence[int] = (2**19, 2**10)) -> None:
    """2 GiB of one number."""
    node = helper.make_node("Expand", ["one", "sizes"], ["big"], name="big")
    replace_graph(path, lambda _model: [node], {"one": np.ones((1, 1), np.float32), "sizes": [*sizes]})


def expand_by_input(path: Path) -> None:
    """As large as the image says."""
    nodes = [
        helper.make_node("Cast", ["image"], ["whole"], name="whole", to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "all"], ["sizes"], name="sizes"),
        helper.make_node("Expand", ["one", "sizes"], ["big"], name="big"),
    ]
    replace_graph(path, lambda _model: nodes, {"one": np.ones((1, 1), np.float32), "all": [-1]})


def loop(path: Path) -> None:
    """Without an end."""
    always = helper.make_tensor_value_info("always", TensorProto.BOOL, [])
    given = [helper.make_tensor_value_info("turn", TensorProto.INT64, []), always]
    given.append(helper.make_tensor_value_info("kept", TensorProto.FLOAT, [1, 7]))
    made = [helper.make_tensor_value_info("still", TensorProto.BOOL, [])]
    made.append(helper.make_tensor_value_info("next", TensorProto.FLOAT, [1, 7]))
    nodes = [
        helper.make_node("Identity", ["always"], ["still"], name="still"),
        helper.make_node("Identity", ["kept"], ["next"], name="next"),
    ]
    body = helper.make_graph(nodes, "body", given, made)
    node = helper.make_node("Loop", ["", "true", "start"], ["big"], name="big", body=body)
    replace_graph(path, lambda _model: [node], {"true": np.array(True), "start": np.zeros((1, 7), np.float32)})


def products(path: Path) -> None:
    """Of matrices whose sizes the file says."""
    nodes = [helper.make_node("MatMul", ["column", "row"], ["m0"], name="m0")]
    nodes += _chain(NUM_PRODUCTS)
    replace_graph(path, lambda _model: nodes, ONES)


def hidden_products(path: Path) -> None:
    """The same of sizes that are computed, which nothing that reads the file knows."""
    replace_graph(path, lambda model: [*_hidden(model, 4096, "m0"), *_chain(NUM_PRODUCTS)], _sizes(4096))


def outer_product(path: Path) -> None:
    """A tensor of 8 GiB, whose sizes the file says."""
    nodes = [
        helper.make_node("MatMul", ["column", "row"], ["square"], name="square"),
        helper.make_node("Reshape", ["square", "high"], ["tall"], name="tall"),
        helper.make_node("MatMul", ["tall", "wide"], ["big"], name="big"),
    ]
    constants = {**ONES, "high": [2**24, 1], "wide": np.ones((1, 128), np.float32)}
    replace_graph(path, lambda _model: nodes, constants)


def hidden_outer_product(path: Path) -> None:
    """About as much, of sizes that are computed."""
    replace_graph(path, lambda model: _hidden(model, 46000, "big"), _sizes(46000))


def _chain(length: int) -> Nodes:
    names = [*(f"m{i}" for i in range(length)), "big"]
    return [
        helper.make_node("MatMul", [names[i], names[max(0, i - 1)]], [names[i + 1]], name=names[i + 1])
        for i in range(length)
    ]


def _sizes(size: int) -> dict[str, Any]:
    return {"whole": np.ones(size, np.float32), "tall": [size, 1], "flat": [1, size], "as_it_is": [1, 1]}


def _hidden(model: onnx.ModelProto, size: int, result: str) -> Nodes:
    """A matrix of *size* rows and columns, of which shape inference learns the rank alone."""
    nodes = []
    for way in ("tall", "flat"):
        nodes.append(helper.make_node("Mul", [way, "as_it_is"], [f"{way}_size"], name=f"{way}_size"))
        nodes.append(helper.make_node("Reshape", ["whole", f"{way}_size"], [f"{way}_ones"], name=f"{way}_ones"))
        model.graph.value_info.append(helper.make_tensor_value_info(f"{way}_ones", TensorProto.FLOAT, [None, None]))
    return [*nodes, helper.make_node("MatMul", ["tall_ones", "flat_ones"], [result], name=result)]


# TFLite


def write_tflite(path: Path, checkpoint: Checkpoint, emit: Emit) -> None:
    """A file of subnetwork 2 at *path* whose graph is what *emit* makes of the image, a matrix ``[1, n]``, cut."""
    from unittest.mock import patch

    from hydra_export import targets
    from hydra_export.target import ExportSpec
    from hydra_export.targets.tflite import separate
    from hydra_export.targets.tflite.graph import TFLiteEmitter

    class Hostile(TFLiteEmitter):
        def emit(self, image_BHWC: Value) -> Value:
            return self._part(emit(self, image_BHWC), 1, (0, 7), "logits", "logits")

    with patch.object(separate, "TFLiteEmitter", Hostile):
        (artifact,) = targets.get("tflite").write(checkpoint, (2,), ExportSpec(), path.parent)
    assert path.name == artifact.path


def tflite_outer_product(emitter: TFLiteEmitter, image_BHWC: Value) -> Value:
    """1.7 GiB of the 768 numbers of an image."""
    shapes = {"tall": [1, 768, 1], "wide": [1, 1, 768], "taller": [1, 768 * 768, 1]}
    tall, wide = (emitter._reshape(image_BHWC, name, f"{name}/shape", shapes[name]) for name in ("tall", "wide"))
    square = emitter._matmul(tall, wide, "square")
    taller = emitter._reshape(square, "taller", "taller/shape", shapes["taller"])
    product = emitter._matmul(taller, wide, "product")
    return emitter._reshape(
        emitter.g.op("mean", "MEAN", [product, _last(emitter)], keep_dims=True), "flat", "f", [768**2]
    )


def tflite_products(emitter: TFLiteEmitter, image_BHWC: Value) -> Value:
    """Of matrices of 768 x 768, again and again."""
    shapes = {"tall": [1, 768, 1], "wide": [1, 1, 768]}
    tall, wide = (emitter._reshape(image_BHWC, name, f"{name}/shape", shape) for name, shape in shapes.items())
    square = emitter._matmul(tall, wide, "square")
    for turn in range(2000):
        square = emitter._matmul(square, square, f"turn {turn}")
    return emitter._reshape(square, "flat", "flat/shape", [768**2])


def tflite_steps(emitter: TFLiteEmitter, image_BHWC: Value) -> Value:
    """Without a product: so many steps over 32 MB that they take a minute on the fastest processor."""
    x = _with_much(emitter, image_BHWC, 2**23)
    for step in range(6000):
        x = emitter.g.op(f"step {step}", "GELU", [x], approximate=False)
    return x


def tflite_kept(emitter: TFLiteEmitter, image_BHWC: Value) -> Value:
    """The same, of which 2000 results are needed at the end: 8 GiB."""
    steps = [_with_much(emitter, image_BHWC)]
    for step in range(2000):
        steps.append(emitter.g.op(f"step {step}", "GELU", [steps[-1]], approximate=False))
    total = steps.pop()
    while steps:
        total = emitter._add(total, steps.pop(), f"sum {len(steps)}")
    return total


def _with_much(emitter: TFLiteEmitter, image_BHWC: Value, count: int = 2**20) -> Value:
    """*count* numbers of the file, to each of which one of the image is added."""
    much = emitter.g.constant("much", np.ones((1, count), np.float32))
    flat = emitter._reshape(image_BHWC, "flat", "flat/shape", [768])
    one = emitter._part(flat, 1, (0, 1), "one", "one")
    return emitter._add(much, one, "begin")


def _last(emitter: TFLiteEmitter) -> Value:
    return emitter.g.constant("last", [3])
