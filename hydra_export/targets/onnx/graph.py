"""Building a graph node by node, with standard operators of rank 4 at most."""

# B batch, R rows: the tokens of all images, D width of subnetwork k, C channels, H height, W width
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hydra_export.network import Unit
from hydra_export.preprocess import Preprocessing
from hydra_export.target import ExportSpec, Precision


@dataclass(frozen=True)
class PerHead:
    """A size that grows with the head count: *size* for each head, of which the whole part counts."""

    size: Unit


Size = int | PerHead


class NodeBuilder:
    """Collects nodes and small constants; *scope* comes before the names of all of them."""

    def __init__(self, scope: str = "") -> None:
        self.scope = scope
        self.nodes: list[ir.Node] = []
        self.constants: dict[str, ir.Value] = {}

    def constant(self, name: str, value: Sequence[int] | float | NDArray[np.float64]) -> ir.Value:
        """A small initializer, one per name: int64 for lists of numbers, float32 otherwise."""
        return self.tensor(name, np.array(value, np.int64 if isinstance(value, Sequence) else np.float32))

    def tensor(self, name: str, array: NDArray[Any] | np.float32) -> ir.Value:
        """A small initializer as it is, one per name."""
        if name not in self.constants:
            tensor = ir.tensor(np.asarray(array), name=self.scope + name)
            self.constants[name] = ir.Value(name=tensor.name, const_value=tensor)
        return self.constants[name]

    def op(self, op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: Any) -> ir.Value:
        """Appends a node; its output carries the node's name."""
        (output,) = self.ops(op_type, inputs, name, [name], **attributes)
        return output

    def ops(
        self, op_type: str, inputs: Sequence[ir.Value], name: str, outputs: Sequence[str], **attributes: Any
    ) -> list[ir.Value]:
        """Appends a node with several outputs."""
        values = [ir.Value(name=self.scope + output) for output in outputs]
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=values, name=self.scope + name))
        return values


class OnnxGraphBuilder(NodeBuilder):
    """Collects the nodes of subnetwork *heads*, every value named after its place in the model.

    Args:
        weight: gives the values of weights by their names.
        precision: of those.
    """

    def __init__(
        self, heads: int, weight: Callable[[str], ir.Value], precision: Precision = "fp32", scope: str = ""
    ) -> None:
        super().__init__(scope)
        self.heads, self.precision = heads, precision
        self._weight = weight
        self._weights: dict[str, ir.Value] = {}
        self._quantized: dict[str, list[ir.Value]] = {}

    def weight(self, name: str) -> ir.Value:
        """The value of a model weight, asked for once; of fp16 ones a cast, which runtimes fold."""
        if name not in self._weights:
            value = self._weight(name)
            if self.precision == "fp16":
                value = self.op("Cast", [value], f"{name}/Cast", to=ir.DataType.FLOAT.value)
            self._weights[name] = value
        return self._weights[name]

    def sizes(self, name: str, sizes: Sequence[Size]) -> ir.Value:
        """A vector of sizes, one per name."""
        return self.constant(name, [int(s.size * self.heads) if isinstance(s, PerHead) else s for s in sizes])

    def reshape(self, x: ir.Value, name: str, shape_name: str, shape: Sequence[Size]) -> ir.Value:
        """*x* in another shape; equal shapes have one name."""
        return self.op("Reshape", [x, self.sizes(shape_name, shape)], name)

    @property
    def counts_integers(self) -> bool:
        """Whether activations are integers."""
        return False

    def conv(self, image_BCHW: ir.Value, name: str, **attributes: Any) -> ir.Value:
        """The patch embedding."""
        inputs = [image_BCHW, self.weight("patch_embed.weight"), self.weight("patch_embed.bias")]
        return self.op("Conv", inputs, name, **attributes)

    def affine(self, place: str, has_bias: bool) -> tuple[ir.Value | None, ir.Value | None]:
        """What the steps of a norm multiply by and add, for as far as they do."""
        name = place.replace("/", ".")
        return self.weight(f"{name}.weight"), self.weight(f"{name}.bias") if has_bias else None

    def layer_norm(self, x: ir.Value, place: str, epsilon: float) -> ir.Value:
        """In one operator."""
        name = place.replace("/", ".")
        inputs = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.op("LayerNormalization", inputs, f"{place}/LayerNormalization", axis=-1, epsilon=epsilon)

    def image(self, image: ir.Value) -> ir.Value:
        """The graph's input as the patch embedding takes it."""
        return image

    def result(self, x: ir.Value) -> ir.Value:
        """What the graph gives of *x*."""
        return x

    def linear(self, x_RD: ir.Value, weight: str, name: str) -> ir.Value:
        """x @ weight + bias, in one operator where it can be; that takes rank 2 alone."""
        if self.precision == "int8":
            return self._quantized_linear(x_RD, weight, name)
        return self.op("Gemm", [x_RD, self.weight(f"{weight}.weight"), self.weight(f"{weight}.bias")], name)

    def plus_linear(self, x_RD: ir.Value, result_RD: ir.Value, place: str) -> ir.Value:
        """*x_RD* plus what a Linear gave, whose bias is added first: a product alone is left of it.

        Of a product of few rows, a bias and a sum after one another OpenVINO 2026.4.1 crashes when it compiles small
        widths for one thread on a processor with AVX2; and ncnn's converter takes no Gemm whose bias is computed.
        """
        gemm = result_RD.producer()
        assert gemm
        if gemm.op_type != "Gemm":
            return self.op("Add", [x_RD, result_RD], f"{place}/residual/Add")
        y_RD, weight, bias = gemm.inputs
        assert y_RD
        assert weight
        assert bias
        self.nodes.remove(gemm)
        shifted_RD = self.op("Add", [x_RD, bias], f"{place}/bias/Add")
        product_RD = self.op("MatMul", [y_RD, weight], f"{place}/MatMul")
        return self.op("Add", [shifted_RD, product_RD], f"{place}/residual/Add")

    def _quantized_linear(self, x_RD: ir.Value, weight: str, name: str) -> ir.Value:
        """The same in integers: x is quantized as it comes, with one scale and zero point."""
        scope = name.removesuffix("/Gemm")
        assert x_RD.name
        if x_RD.name not in self._quantized:
            node = f"{scope}/DynamicQuantizeLinear"
            parts = [f"{node}/{part}" for part in ("values", "scale", "zero_point")]
            self._quantized[x_RD.name] = self.ops("DynamicQuantizeLinear", [x_RD], node, parts)
        x, scale, zero_point = self._quantized[x_RD.name]
        product = self.op("MatMulInteger", [x, self.weight(f"{weight}.weight"), zero_point], f"{scope}/MatMulInteger")
        product = self.op("Cast", [product], f"{scope}/Cast", to=ir.DataType.FLOAT.value)
        scales = self.op("Mul", [scale, self.weight(f"{weight}.scale")], f"{scope}/scales/Mul")
        product = self.op("Mul", [product, scales], f"{scope}/Mul")
        return self.op("Add", [product, self.weight(f"{weight}.bias")], f"{scope}/Add")


def channels_first(g: NodeBuilder, image: ir.Value, data: Preprocessing, spec: ExportSpec) -> ir.Value:
    """The image as the patch embedding takes it, float32 [B, C, H, W], from the graph's own input form."""
    if isinstance(g, OnnxGraphBuilder) and g.counts_integers:
        return g.image(image)
    if spec.input == "tensor":
        return image
    image = g.op("Transpose", [image], "image/Transpose", perm=[0, 3, 1, 2])
    image = g.op("Cast", [image], "image/Cast", to=ir.DataType.FLOAT.value)
    if spec.precision != "fp16":  # the weights of the patch embedding have absorbed it
        return image
    mean, std = (
        g.constant(f"image/{name}", 255 * np.array(getattr(data, name)).reshape(1, -1, 1, 1))
        for name in ("mean", "std")
    )
    return g.op("Div", [g.op("Sub", [image, mean], "image/Sub"), std], "image/Div")
