"""The graph of one subnetwork, emitted operator by operator: builtins alone, of rank 4 at most.

In a file that holds several, weights may be cut at their head counts: then a Linear is a sum over parts of its input.

Every activation has the batch as its first axis: the GPU delegate takes that axis for the batch and refuses a graph
where it differs from tensor to tensor (tensorflow/lite/delegates/gpu/common/model.cc, CheckBatchSizeForAllValues).
"""

# B batch, N tokens, D width of subnetwork k, H heads, C head width
from __future__ import annotations

import itertools
from collections.abc import Sequence

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.network import Cut, Operations, Span
from hydra_export.preprocess import Preprocessing
from hydra_export.target import STATIC, ExportSpec
from hydra_export.targets.tflite.builder import TFLiteGraphBuilder, Value
from hydra_export.targets.tflite.operators import DYNAMIC, VALID


class TFLiteEmitter(Operations[Value]):
    """The operations of subnetwork *heads* as operators of TFLite.

    Args:
        cuts: the head counts, *heads* the last, at which the inputs of Linears are cut; none for whole matrices.
    """

    def __init__(
        self,
        g: TFLiteGraphBuilder,
        config: HydraConfig,
        heads: int,
        spec: ExportSpec,
        pixels: Preprocessing,
        cuts: Sequence[int] = (),
    ) -> None:
        self.g, self.config, self.heads, self.spec, self.pixels = g, config, heads, spec, pixels
        self.width = config.width(heads)
        self.batch = DYNAMIC if spec.batch == "dynamic" else spec.batch
        self.spans = list(itertools.pairwise((0, *cuts)))
        self._layer_cuts = {part: layer.cut for layer in network.layers(config) for part in layer.parts}
        self._parts: dict[int, list[Value]] = {}

    def emit(self, image_BHWC: Value) -> Value:
        """From the input to what the subnetwork returns."""
        image_BHWC = self.g.image(image_BHWC, self.spec, self.pixels)
        return self.g.result(network.run(self, self.config, image_BHWC, self.heads))

    def embed(self, image_BHWC: Value) -> Value:
        """Of what ``image`` of the graph's builder makes of it."""
        g, config = self.g, self.config
        inputs = [image_BHWC, g.weight("patch_embed.weight"), g.weight("patch_embed.bias")]
        patch = {"padding": VALID, "stride_h": config.patch_size, "stride_w": config.patch_size}
        x = g.op("embed/patches/CONV_2D", "CONV_2D", inputs, **patch)
        x_BND = self._reshape(x, "patch_embed/RESHAPE", "patch_embed/shape", [config.num_patches, self.width])
        if config.num_prefix_tokens:
            # Zero tokens in front, then the prefix comes with the positions: CONCATENATION would need a batch of it.
            pads = g.constant("tokens/pads", [[0, 0], [config.num_prefix_tokens, 0], [0, 0]])
            x_BND = g.op("tokens/PAD", "PAD", [x_BND, pads])
        elif not config.num_positions:
            return x_BND
        tokens_BND = g.weight("tokens")
        if self.spans and self.spec.precision not in STATIC:  # they lie as [1, D, N]: fewer channels are the beginning
            tokens_BND = g.op("tokens/TRANSPOSE", "TRANSPOSE", [tokens_BND, g.constant("tokens/perm", [0, 2, 1])])
        return self._add(x_BND, tokens_BND, "embed/ADD")

    def select(self, x_BND: Value, span: Span, place: str) -> Value:
        corners = "cls" if span == (0, 1) else "tokens/{}_{}".format(*span)
        return self._part(x_BND, 1, span, corners, f"{place}/STRIDED_SLICE")

    def pool(self, x_BND: Value, kind: str, place: str) -> Value:
        """As [B, 1, D]."""
        g, axis = self.g, self.g.constant("pool/axis", [1])
        kinds = {"avg": ["avg/MEAN"], "max": ["max/REDUCE_MAX"], "avgmax": ["avg/MEAN", "max/REDUCE_MAX"]}[kind]
        x_B1D, *others = (
            g.op(f"{place}/{name}", name.partition("/")[2], [x_BND, axis], keep_dims=True) for name in kinds
        )
        if not others:
            return x_B1D
        both_B1D = self._add(x_B1D, others[0], f"{place}/both/ADD")
        return self._mul(both_B1D, g.constant("pool/half", 0.5), f"{place}/half/MUL")

    def latent(self, x_BND: Value, place: str) -> Value:
        """Added to a token that is 0: so that there is one for each image, however many there are."""
        token_B1D = self._mul(
            self.select(x_BND, (0, 1), place), self.g.constant("latent/zero", 0.0), f"{place}/zero/MUL"
        )
        return self._add(token_B1D, self.g.weight(place.replace("/", ".")), f"{place}/ADD")

    def features(self, x_B1D: Value, place: str) -> Value:
        """Without the axis of tokens."""
        name = f"{place}/RESHAPE" if self.config.num_outputs else self.config.output
        return self._reshape(x_B1D, name, "norm/shape", [self.width])

    def classifier(self, features: Sequence[tuple[Value, str]]) -> Value:
        name = self.config.output if len(features) == 1 else ""
        logits = [self._linear(x_BD, weights, name or weights, name) for x_BD, weights in features]
        return logits[0] if name else self._add(logits[0], logits[1], self.config.output)

    def patch_tokens(self, x_BND: Value) -> Value:
        self.g.tensors[x_BND.index].name = self.config.output
        return x_BND

    def residual(self, x_BND: Value, y_BND: Value, place: str) -> Value:
        return self._add(x_BND, y_BND, f"{place}/residual/ADD")

    def _part(self, x: Value, axis: int, span: Span, corners: str, name: str) -> Value:
        """A part of one axis; STRIDED_SLICE, as XNNPACK takes no SLICE whose batch is chosen at run time."""
        rank = len(x.shape)
        begin, end = ([at if i == axis else 0 for i in range(rank)] for at in span)
        numbers = ((f"{corners}/begin", begin), (f"{corners}/end", end), (f"{corners}/strides", [1] * rank))
        inputs = [x, *(self.g.constant(what, at) for what, at in numbers)]
        every_other = (1 << rank) - 1 - (1 << axis)
        return self.g.op(name, "STRIDED_SLICE", inputs, begin_mask=every_other, end_mask=every_other)

    def qkv(self, query_BND: Value, x_BND: Value, place: str) -> tuple[Value, Value, Value]:
        """As [B, H, N, C]."""
        return (
            self._heads_apart(self.linear(query_BND, f"{place}/q"), f"{place}/q"),
            self._heads_apart(self.linear(x_BND, f"{place}/k"), f"{place}/k"),
            self._heads_apart(self.linear(x_BND, f"{place}/v"), f"{place}/v"),
        )

    def head_norm(self, x_BHNC: Value, place: str) -> Value:
        return self.norm(x_BHNC, place)

    def rotate(self, x_BHNC: Value, place: str) -> Value:
        g, C = self.g, self.config.head_dim
        first, second = (
            self._part(x_BHNC, 3, span, f"rope/{half}", f"{place}/{half}/STRIDED_SLICE")
            for half, span in (("first", (0, C // 2)), ("second", (C // 2, C)))
        )
        exchanged_BHNC = g.op(f"{place}/CONCATENATION", "CONCATENATION", [second, first], axis=3)
        x_BHNC = self._mul(x_BHNC, g.weight("rope.cos"), f"{place}/cos/MUL")
        sines_BHNC = self._mul(exchanged_BHNC, g.weight("rope.sin"), f"{place}/sin/MUL")
        return self._add(x_BHNC, sines_BHNC, f"{place}/rotated/ADD")

    def attention(self, qkv_BHNC: tuple[Value, Value, Value], place: str, num_queries: int) -> Value:
        q_BHNC, k_BHNC, v_BHNC = qkv_BHNC
        scores_BHNN = self._matmul(q_BHNC, k_BHNC, f"{place}/scores", adj_y=True)
        shares_BHNN = self.g.op(f"{place}/shares/SOFTMAX", "SOFTMAX", [scores_BHNN], beta=1)
        a_BNHC = self._exchanged(self._matmul(shares_BHNN, v_BHNC, f"{place}/values"), f"{place}/TRANSPOSE")
        return self._reshape(a_BNHC, f"{place}/RESHAPE", f"attn/together_{num_queries}", [num_queries, self.width])

    def _heads_apart(self, x_BND: Value, scope: str) -> Value:
        N = x_BND.shape[1]
        shape = [N, self.heads, self.config.head_dim]
        return self._exchanged(self._reshape(x_BND, f"{scope}/RESHAPE", f"attn/apart_{N}", shape), f"{scope}/TRANSPOSE")

    def _exchanged(self, x_BNHC: Value, name: str) -> Value:
        """Tokens and heads, the one for the other."""
        return self.g.op(name, "TRANSPOSE", [x_BNHC, self.g.constant("attn/perm", [0, 2, 1, 3])])

    def _matmul(self, x: Value, y: Value, scope: str, adj_y: bool = False) -> Value:
        return self.g.op(f"{scope}/BATCH_MATMUL", "BATCH_MATMUL", [x, y], adj_x=False, adj_y=adj_y)

    def activation(self, x: Value, place: str) -> Value:
        g, kind = self.g, self.config.activation
        if kind == "relu":
            return g.op(f"{place}/act/RELU", "RELU", [x])
        if kind in ("gelu", "gelu_tanh"):
            return g.gelu(x, place)
        factor = g.constant("quick_gelu/factor", 1.702) if kind == "quick_gelu" else None
        scaled = x if factor is None else self._mul(x, factor, f"{place}/factor/MUL")
        return self._mul(x, g.op(f"{place}/sigmoid/LOGISTIC", "LOGISTIC", [scaled]), f"{place}/act/MUL")

    def product(self, x: Value, y: Value, place: str) -> Value:
        return self._mul(x, y, f"{place}/product/MUL")

    def norm(self, x: Value, place: str) -> Value:
        """TFLite has no operator for it; no other order or form of these nine that was tried is faster."""
        g, rank = self.g, len(x.shape)
        last = g.constant("norm/axis" if rank == 3 else "head_norm/axis", [rank - 1])
        if self.config.norm == "layer_norm":
            mean = g.op(f"{place}/mean/MEAN", "MEAN", [x, last], keep_dims=True)
            x = g.op(f"{place}/centred/SUB", "SUB", [x, mean])
        square = self._mul(x, x, f"{place}/square/MUL")
        variance = g.op(f"{place}/variance/MEAN", "MEAN", [square, last], keep_dims=True)
        if (epsilon := g.epsilon(place)) is not None:
            variance = self._add(variance, epsilon, f"{place}/variance/ADD")
        return self._affine(x, g.rsqrt(variance, place), place)

    def _affine(self, x: Value, rsqrt: Value, place: str) -> Value:
        gamma, beta = self.g.affine(place)
        scaled = place if beta is None else f"{place}/scaled"
        is_whole = gamma is None and beta is None
        x = self._mul(x, rsqrt, f"{place}/MUL" if is_whole else f"{place}/normalised/MUL")
        if gamma is not None:
            x = self._mul(x, gamma, f"{scaled}/MUL")
        return x if beta is None else self._add(x, beta, f"{place}/ADD")

    def linear(self, x: Value, place: str) -> Value:
        return self._linear(x, place.replace("/", "."), place)

    def _linear(self, x: Value, weight: str, scope: str, name: str = "") -> Value:
        """x @ weight.T + bias over the last axis; a sum over the parts of x where the weight is cut."""
        g, cut, name = self.g, self._layer_cuts[weight], name or f"{scope}/FULLY_CONNECTED"
        if len(self.spans) < 2 or cut.owner is not None:  # a classifier of its own
            columns = self.spans[0] if self.spans and cut.owner is None else None
            return self._fully_connected([x, g.weight(f"{weight}.weight", columns), g.weight(f"{weight}.bias")], name)
        total = None
        for (low, high), part in zip(self.spans, self._cut(x, cut), strict=True):
            where = f"[{low}:{high}]"
            inputs = [part, g.weight(f"{weight}.weight", (low, high))]
            if total is None:
                total = self._fully_connected([*inputs, g.weight(f"{weight}.bias")], f"{scope}{where}/FULLY_CONNECTED")
                continue
            product = self._fully_connected(inputs, f"{scope}{where}/FULLY_CONNECTED")
            last = name.replace("/FULLY_CONNECTED", "/ADD")
            total = self._add(total, product, last if high == self.heads else f"{scope}+{where}/ADD")
        assert total is not None
        return total

    def _fully_connected(self, inputs: list[Value], name: str) -> Value:
        return self.g.op(name, "FULLY_CONNECTED", inputs, keep_num_dims=True)

    def _cut(self, x: Value, cut: Cut) -> list[Value]:
        """The parts of the last axis that Linears *cut* at head counts take; several take the same."""
        if x.index not in self._parts:
            axis, of = len(x.shape) - 1, self.g.tensors[x.index].name
            ranges = [(cut.place(1, low), cut.place(1, high)) for low, high in self.spans]
            self._parts[x.index] = [
                self._part(x, axis, (low, high), f"part/{low}_{high}_of_{axis}", f"{of}/STRIDED_SLICE[{low}:{high}]")
                for low, high in ranges
            ]
        return self._parts[x.index]

    def _add(self, x: Value, y: Value, name: str) -> Value:
        return self.g.op(name, "ADD", [x, y])

    def _mul(self, x: Value, y: Value, name: str) -> Value:
        return self.g.op(name, "MUL", [x, y])

    def _reshape(self, x: Value, name: str, shape_name: str, shape: list[int]) -> Value:
        """Each image's part of *x* in another shape."""
        return self.g.op(name, "RESHAPE", [x, self.g.constant(shape_name, [self.batch, *shape])])
