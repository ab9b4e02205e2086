"""The reference is right, and every way of being wrong that we know of is caught on the written artifact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer

from hydra_export import checkpoint, parity, targets
from hydra_export.architecture import HydraConfig
from hydra_export.checkpoint import Checkpoint
from hydra_export.data import packaged_images
from hydra_export.errors import ParityFailed
from hydra_export.gate import Gate
from hydra_export.model import HydraViT
from hydra_export.preprocess import Preprocessing
from hydra_export.target import (
    Artifact,
    ExportSpec,
    GraphKind,
    InputForm,
    Interface,
    OfModel,
    Precision,
    Runtime,
    Session,
    Target,
    Work,
)
from hydra_export.targets.onnx import OnnxOptions

# B batch, D width of subnetwork k, E width of the universal model, C head width
HEADS = 2
NUM_IMAGES = 40  # more than one batch of the reference


@pytest.fixture
def loaded(tiny_checkpoint: Path) -> Checkpoint:
    return checkpoint.load(tiny_checkpoint)


@pytest.fixture
def pixels(loaded: Checkpoint) -> NDArray[np.uint8]:
    return packaged_images(loaded.info.preprocessing, NUM_IMAGES).pixels


def plain_vit(model: HydraViT, config: HydraConfig, heads: int) -> VisionTransformer:
    """A timm ViT of subnetwork *heads* in float64, its weights cut here by hand from those of the universal model."""
    D, E, M = heads * config.head_dim, config.heads * config.head_dim, int(heads * config.head_dim * config.mlp_ratio)
    dense = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        in_chans=config.channels,
        num_classes=config.num_classes,
        embed_dim=D,
        depth=config.depth,
        num_heads=heads,
        mlp_ratio=config.mlp_ratio,
        init_values=config.layer_scale,
    )
    own = model.state_dict()
    cut = {
        "cls_token": own["cls_token"][:, :, :D],
        "pos_embed": own["pos_embed"][:, :, :D],
        "patch_embed.proj.weight": own["patch_embed.proj.weight"][:D],
        "patch_embed.proj.bias": own["patch_embed.proj.bias"][:D],
        "norm.weight": own["norm.weight"][:D],
        "norm.bias": own["norm.bias"][:D],
    }
    head = f"head.k{heads}" if config.separate_classifiers else "head"
    cut |= {"head.weight": own[f"{head}.weight"][:, :D], "head.bias": own[f"{head}.bias"]}
    for i in range(config.depth):
        block = f"blocks.{i}"
        rows = torch.cat([torch.arange(D) + part * E for part in range(3)])  # of q, k and v
        cut[f"{block}.attn.qkv.weight"] = own[f"{block}.attn.qkv.weight"][rows][:, :D]
        cut[f"{block}.attn.qkv.bias"] = own[f"{block}.attn.qkv.bias"][rows]
        cut[f"{block}.attn.proj.weight"] = own[f"{block}.attn.proj.weight"][:D, :D]
        cut[f"{block}.mlp.fc1.weight"] = own[f"{block}.mlp.fc1.weight"][:M, :D]
        cut[f"{block}.mlp.fc1.bias"] = own[f"{block}.mlp.fc1.bias"][:M]
        cut[f"{block}.mlp.fc2.weight"] = own[f"{block}.mlp.fc2.weight"][:D, :M]
        narrow = ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.proj.bias", "mlp.fc2.bias"]
        narrow += ["ls1.gamma", "ls2.gamma"] if config.layer_scale else []
        cut |= {f"{block}.{name}": own[f"{block}.{name}"][:D] for name in narrow}
    dense.load_state_dict(cut)
    return dense.double().eval()


def float64_logits(
    model: HydraViT, config: HydraConfig, heads: int, image_BCHW: NDArray[np.float64]
) -> NDArray[np.float64]:
    with torch.inference_mode():
        logits: NDArray[np.float64] = plain_vit(model, config, heads)(torch.from_numpy(image_BCHW)).numpy()
    return logits


@pytest.mark.parametrize("heads", [1, 2, 3, 4])
def test_the_reference_is_what_a_plain_timm_vit_gives_in_float64(
    loaded: Checkpoint, pixels: NDArray[np.uint8], heads: int
) -> None:
    data = loaded.info.preprocessing
    expected = float64_logits(loaded.model, loaded.info.config, heads, data.normalise(pixels, np.float64))
    found = parity.reference(loaded.model, heads, pixels, data)
    assert found.exact.dtype == np.float64
    np.testing.assert_allclose(found.exact, expected, rtol=0, atol=1e-12)
    assert found.torch_fp32.dtype == np.float32
    assert 1e-9 < np.abs(found.torch_fp32 - expected).max() < 1e-4  # float32's own noise, not float64 rounded


@pytest.mark.parametrize("heads", [2, 4])
def test_the_reference_knows_layer_scale_grey_images_and_separate_classifiers(
    scaled_model: HydraViT, scaled_config: HydraConfig, loaded: Checkpoint, heads: int
) -> None:
    data = msgspec.structs.replace(loaded.info.preprocessing, mean=(0.3,), std=(0.2,))
    grey = packaged_images(data, 5).pixels
    expected = float64_logits(scaled_model, scaled_config, heads, data.normalise(grey, np.float64))
    found = parity.reference(scaled_model, heads, grey, data)
    np.testing.assert_allclose(found.exact, expected, rtol=0, atol=1e-12)


def test_the_reference_leaves_the_model_in_float32(loaded: Checkpoint, pixels: NDArray[np.uint8]) -> None:
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    first = parity.reference(loaded.model, HEADS, pixels, loaded.info.preprocessing)
    second = parity.reference(loaded.model, HEADS, pixels, loaded.info.preprocessing)
    np.testing.assert_array_equal(first.exact, second.exact)
    assert all(tensor.equal(before[name]) for name, tensor in loaded.model.state_dict().items())


Mutation = Callable[[onnx.ModelProto], None]


def _swap_heads(array_D: NDArray[np.float32]) -> NDArray[np.float32]:
    """The two heads of subnetwork 2 exchanged, in the last axis."""
    return np.roll(array_D, array_D.shape[-1] // 2, axis=-1)


def _changed(names: list[str], change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Mutation:
    def mutate(model: onnx.ModelProto) -> None:
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for name in names:
            array = onnx.numpy_helper.to_array(tensors[name])
            mutated = np.ascontiguousarray(change(array.copy()))
            assert mutated.shape == array.shape
            assert not np.array_equal(mutated, array)
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(mutated, name))

    return mutate


def _head_order(parts: str) -> Mutation:
    names = [f"blocks.0.attn.{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    return _changed(names, _swap_heads)


def _epsilon(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                assert attribute.f == pytest.approx(1e-6)
                attribute.f = 1e-5


def _tanh_gelu(model: onnx.ModelProto) -> None:
    gelus = [node for node in model.graph.node if node.op_type == "Gelu"]
    assert gelus
    for node in gelus:
        node.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))


def _first_only(array: NDArray[np.float32]) -> NDArray[np.float32]:
    array.flat[0] *= 1.001
    return array


ONE_VALUE = "one value of the largest matrix off by a thousandth"
MUTATIONS: dict[str, Mutation] = {
    "heads swapped in v": _head_order("v"),
    "heads swapped in q": _head_order("q"),
    "heads swapped in q and k": _head_order("qk"),
    "heads swapped in all but the projection": _head_order("qkv"),
    "LayerNorm epsilon of torch's default": _epsilon,
    "GELU by tanh": _tanh_gelu,
    "square weight transposed": _changed(["blocks.1.attn.proj.weight"], lambda a: a.T),
    "q weight transposed": _changed(["blocks.0.attn.q.weight"], lambda a: a.T),
    "attention not scaled": _changed(["blocks.0.attn.q.weight", "blocks.0.attn.q.bias"], lambda a: a * 8**0.5),
    "attention scaled by the wrong width": _changed(
        ["blocks.1.attn.q.weight", "blocks.1.attn.q.bias"], lambda a: a / 2**0.5
    ),
    "channels of q reversed": _changed(["blocks.0.attn.q.weight"], lambda a: a[:, ::-1]),
    "class token at another position": _changed(["tokens.positions"], lambda a: np.roll(a, 1, axis=1)),
    "image channels in BGR": _changed(["patch_embed.weight"], lambda a: a[:, ::-1]),
    "patches transposed": _changed(["patch_embed.weight"], lambda a: a.swapaxes(2, 3)),
    "classes in another order": _changed(["head.weight", "head.bias"], lambda a: a[::-1]),
    "weights in bfloat16": _changed(
        ["blocks.1.mlp.fc1.weight"], lambda a: torch.from_numpy(a).bfloat16().float().numpy()
    ),
    ONE_VALUE: _changed(["blocks.0.mlp.fc2.weight"], _first_only),
    "NaN in a bias": _changed(["norm.bias"], lambda a: np.where(np.arange(a.size) == 0, np.nan, a).astype(np.float32)),
    "infinity in a bias": _changed(["head.bias"], lambda a: np.full_like(a, np.inf)),
    **{
        f"{name} dropped": _changed([name], np.zeros_like)
        for name in (
            "patch_embed.bias",
            "blocks.0.norm1.bias",
            "blocks.0.attn.q.bias",
            "blocks.0.attn.v.bias",
            "blocks.1.attn.proj.bias",
            "blocks.1.norm2.bias",
            "blocks.0.mlp.fc1.bias",
            "blocks.1.mlp.fc2.bias",
            "norm.bias",
            "head.bias",
        )
    },
}


@pytest.fixture
def small_tokens(loaded: Checkpoint) -> Checkpoint:
    """With tokens as small as freshly trained ones, where the epsilon of the first LayerNorm matters."""
    with torch.no_grad():
        for name in ("patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed"):
            loaded.model.get_parameter(name).mul_(0.1)
    return loaded


def check_caught(source: Checkpoint, mutation: Mutation, out: Path) -> None:
    """The written artifact passes; changed by *mutation*, it fails."""
    target, data = targets.get("onnx"), source.info.preprocessing
    (artifact,) = target.write(source, (HEADS,), ExportSpec(options=OnnxOptions(opset=20)), out)
    path, pixels = out / artifact.path, packaged_images(data, NUM_IMAGES).pixels
    expected = parity.reference(source.model, HEADS, pixels, data)

    def record() -> parity.ParityRecord:
        return parity.compare(target.load(path, HEADS).run(data.normalise(pixels)), expected)

    parity.check("right", HEADS, record())
    model = onnx.load(path)
    mutation(model)
    onnx.save(model, path)
    with pytest.raises(ParityFailed, match=r"^wrong does not compute subnetwork 2"):
        parity.check("wrong", HEADS, record())


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_wrong_artifact_fails(small_tokens: Checkpoint, tmp_path: Path, mutation: Mutation) -> None:
    check_caught(small_tokens, mutation, tmp_path)


# Of grey images, and so large that one value is within float32's noise.
@pytest.mark.parametrize("name", sorted(MUTATIONS.keys() - {"image channels in BGR", ONE_VALUE}))
def test_a_wrong_artifact_of_the_packaged_model_fails(name: str, tmp_path: Path) -> None:
    check_caught(checkpoint.load(), MUTATIONS[name], tmp_path)


@pytest.mark.parametrize("graph", ["separate", "shared"])
def test_every_subnetwork_of_the_packaged_model_is_a_plain_timm_vit(graph: GraphKind, tmp_path: Path) -> None:
    packaged, target = checkpoint.load(), targets.get("onnx")
    config, data = packaged.info.config, packaged.info.preprocessing
    pixels = packaged_images(data, 20).pixels
    for artifact in target.write(packaged, range(1, config.heads + 1), ExportSpec(graph=graph), tmp_path):
        (k,) = artifact.heads
        exact = float64_logits(packaged.model, config, k, data.normalise(pixels, np.float64))
        logits = target.load(tmp_path / artifact.path, k).run(data.normalise(pixels))
        parity.check(artifact.path, k, parity.compare(logits, parity.Reference(exact, exact.astype(np.float32))))


def test_another_subnetwork_fails(loaded: Checkpoint, pixels: NDArray[np.uint8]) -> None:
    data = loaded.info.preprocessing
    other = parity.reference(loaded.model, 3, pixels, data)
    record = parity.compare(other.torch_fp32, parity.reference(loaded.model, HEADS, pixels, data))
    with pytest.raises(ParityFailed):
        parity.check("x", HEADS, record)


def reference_of(exact: list[list[float]], noise: float = 0.0) -> parity.Reference:
    values = np.array(exact, np.float64)
    return parity.Reference(values, (values + noise).astype(np.float32))


def test_the_bound_is_the_larger_of_a_share_of_the_logits_and_torchs_noise() -> None:
    assert reference_of([[2.0, -4.0]]).bound == pytest.approx(8e-5)
    assert reference_of([[2.0, -4.0]], noise=0.5).bound == pytest.approx(4.0)


def test_an_error_at_the_bound_passes_and_one_above_fails() -> None:
    expected = reference_of([[1.0, 0.0], [0.0, -1.0]])
    exact = expected.exact
    below, above = exact + 1.99e-5, exact.copy()
    above[1, 0] += 2.01e-5
    parity.check("x", 1, parity.compare(below, expected))
    with pytest.raises(ParityFailed, match=r"differ by 2\.01e-05, more than the allowed 2e-05"):
        parity.check("x", 1, parity.compare(above, expected))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_logit_that_is_no_number_fails(value: float) -> None:
    expected = reference_of([[1.0, 0.0], [0.0, 1.0]])
    logits = expected.exact.copy()
    logits[1, 1] = value
    with pytest.raises(ParityFailed):
        parity.check("x", 1, parity.compare(logits, expected))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_overflows_in_torch_proves_nothing(value: float) -> None:
    exact = np.array([[1.0, 0.0]])
    expected = parity.Reference(exact, np.array([[value, 0.0]], np.float32))
    for logits in (exact + 5, np.array([[np.inf, 0.0]])):
        with pytest.raises(ParityFailed):
            parity.check("x", 1, parity.compare(logits, expected))
    unknown = parity.Reference(np.array([[value, 0.0]]), np.array([[value, 0.0]], np.float32))
    with pytest.raises(ParityFailed):
        parity.check("x", 1, parity.compare(exact, unknown))


def test_logits_of_another_shape_fail_and_are_not_broadcast() -> None:
    expected = reference_of([[1.0, 1.0], [1.0, 1.0]])
    for shape in ((2, 1), (1, 2), (2, 2, 1), (3, 2)):
        with pytest.raises(ParityFailed, match="shape"):
            parity.compare(np.ones(shape, np.float32), expected)


def test_the_record_says_how_far_off_the_worst_image_is() -> None:
    expected = reference_of([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    logits = np.array([[1.0, 0.0], [0.5, 0.25], [3.0, 0.0]])
    record = parity.compare(logits, expected)
    assert record.max_abs_error == pytest.approx(1.75)
    assert record.cosine == pytest.approx(0.25 / np.hypot(0.5, 0.25))
    assert record.top1_agreement == pytest.approx(2 / 3)
    assert record.num_images == 3


# --- several runtimes, rounding, and what int8 may lose


class Runs(Target):
    """A target whose runtimes give what they are told to."""

    name: ClassVar[str] = "any"
    title: ClassVar[str] = "Any"
    graphs: ClassVar[tuple[GraphKind, ...]] = ("separate",)
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")
    layouts: ClassVar[dict[InputForm, str]] = {}
    packages: ClassVar[tuple[str, ...]] = ("numpy",)

    def __init__(self, logits: dict[Runtime, NDArray[np.float32]]) -> None:
        self.logits = logits

    def requires(self) -> None: ...

    def check(self, spec: ExportSpec, model: OfModel | None = None) -> None: ...

    def metadata(self, path: Path) -> dict[str, str]:
        return {}

    def planned(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
        raise NotImplementedError

    def needs(self, path: Path) -> dict[str, str]:
        raise NotImplementedError

    def signature(self, path: Path) -> Interface:
        return (), ()

    def lint(self, path: Path) -> Work:
        raise NotImplementedError

    def write(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
        raise NotImplementedError

    def runtimes(self, precision: Precision) -> tuple[Runtime, ...]:
        return tuple(self.logits)

    def load(self, path: Path, heads: int, threads: int = 0, runtime: str = "") -> Session:
        return Answers(next(logits for here, logits in self.logits.items() if here.name == runtime))


class Answers:
    def __init__(self, logits: NDArray[np.float32]) -> None:
        self.logits = logits

    def run(self, image: NDArray[Any]) -> NDArray[np.float32]:
        return self.logits


RIGHT = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 1, 0]], np.float32)  # four images of three classes
FLIPPED = RIGHT[:, ::-1].copy()
ROUNDED = parity.Reference(RIGHT.astype(np.float64) + 0.25, RIGHT + np.float32(0.25))
EXPECTED: dict[Precision, parity.Reference] = {
    "fp32": parity.Reference(RIGHT.astype(np.float64), RIGHT),
    "fp16": ROUNDED,
    "int8": parity.Reference(RIGHT.astype(np.float64), RIGHT),
}
EXACT, OTHER, HALF = Runtime("one"), Runtime("other"), Runtime("half", exact=False)


def verified(
    logits: dict[Runtime, NDArray[np.float32]], precision: Precision = "fp32", gate: Gate | None = None
) -> parity.ParityRecord:
    record, _agreed = parity.verify(
        Runs(logits), Path("x"), 3, precision, EXPECTED, lambda session: session.run(RIGHT), gate=gate
    )
    return record


def test_every_runtime_is_held_to_the_bound_and_named() -> None:
    assert verified({EXACT: RIGHT, OTHER: RIGHT}).runtimes == {"one": 0, "other": 0}
    with pytest.raises(ParityFailed, match="x does not compute subnetwork 3 in other"):
        verified({EXACT: RIGHT, OTHER: FLIPPED})


def test_fp16_is_held_against_rounded_weights_and_a_rounding_runtime_against_the_model() -> None:
    record = verified({EXACT: RIGHT + np.float32(0.25), HALF: RIGHT + np.float32(0.002)}, "fp16")
    assert record.max_abs_error == 0
    assert record.runtimes["half"] == pytest.approx(0.002, rel=1e-3)
    with pytest.raises(ParityFailed, match="does not compute subnetwork 3 in one"):
        verified({EXACT: RIGHT}, "fp16")
    with pytest.raises(ParityFailed, match="loses subnetwork 3 to rounding in half"):
        verified({EXACT: RIGHT + np.float32(0.25), HALF: FLIPPED}, "fp16")
    with pytest.raises(ParityFailed, match="to rounding in half"):
        verified({EXACT: RIGHT + np.float32(0.25), HALF: RIGHT * np.float32(np.nan)}, "fp16")


def test_int8_may_lose_as_many_points_as_the_gate_says() -> None:
    right = np.tile(RIGHT, (50, 1))
    labels, wrong = right.argmax(axis=1), right.copy()
    wrong[1:40:4] = RIGHT[0]  # ten of 200 images: 5 points
    expected: dict[Precision, parity.Reference] = {"int8": parity.Reference(right.astype(np.float64), right)}

    def judged(max_drop: float, *logits: NDArray[np.float32]) -> parity.ParityRecord:
        runs = Runs(dict(zip((EXACT, OTHER), logits, strict=False)))
        gate = Gate(labels, max_drop=max_drop)
        return parity.verify(runs, Path("x"), 3, "int8", expected, lambda session: session.run(right), gate=gate)[0]

    record = judged(9, wrong)
    assert (record.accuracy, record.accuracy_fp32, record.bound, record.judged_by) == (95, 100, None, "top-1")
    with pytest.raises(ParityFailed, match=r"loses 5.00 points of top-1 .*4.9 are allowed.*") as failed:
        judged(4.9, right, wrong)
    assert "`max_drop`" in failed.value.remedy
    with pytest.raises(
        ParityFailed, match=r"agrees .* on 95.0% of 200 images; 97% are needed: too few to show that top-1 drops by"
    ):
        judged(5, wrong)  # ten of 200 may be fifteen in truth
    assert judged(5, right, right).judged_by == "top-1"


def test_int8_without_labels_has_to_agree_with_the_model() -> None:
    wrong = RIGHT.copy()
    wrong[1] = RIGHT[0]
    assert verified({EXACT: RIGHT * 2}, "int8").accuracy is None
    assert verified({EXACT: RIGHT * 2}, "int8").judged_by == "agreement"
    with pytest.raises(ParityFailed, match=r"agrees with the model on 75.0% of 4 images; 97% are needed"):
        verified({EXACT: wrong}, "int8")
    assert verified({EXACT: wrong}, "int8", Gate(open=True)).top1_agreement == 0.75
    assert verified({EXACT: wrong}, "int8", Gate(open=True)).judged_by == "nothing"
    with pytest.raises(ParityFailed, match="outputs NaN or infinity"):
        verified({EXACT: RIGHT * np.float32(np.nan)}, "int8", Gate(open=True))


def test_patch_tokens_are_compared_one_by_one_and_agree_by_direction() -> None:
    exact = np.random.default_rng(0).standard_normal((3, 16, 8))
    expected = parity.Reference(exact, exact.astype(np.float32), has_classes=False)
    turned = exact.copy()
    turned[1, 5] *= -1  # one token of sixteen
    record = parity.compare(turned, expected)
    assert record.cosine == pytest.approx(-1)
    assert parity.agreement(turned, expected).tolist() == [True, False, True]
    assert record.top1_agreement == pytest.approx(2 / 3)
    assert parity.agreement(exact + 0.01, expected).all()
    assert not parity.agreement(np.full_like(exact, np.nan), expected).any()
    with pytest.raises(ParityFailed, match="have shape"):
        parity.compare(exact.reshape(3, -1), expected)


def test_features_agree_by_direction_and_not_by_their_largest() -> None:
    exact = np.array([[1.0, 0.99, 0.5], [1.0, 0.2, 0.1]])
    nearly, turned = exact[:, [1, 0, 2]], np.array([[1.0, -0.99, 0.5], [1.0, 0.2, 0.1]])
    features = parity.Reference(exact, exact.astype(np.float32), has_classes=False)
    assert parity.agreement(nearly, features).tolist() == [True, False]
    assert parity.agreement(turned, features).tolist() == [False, True]
    logits = parity.Reference(exact, exact.astype(np.float32))
    assert parity.agreement(nearly, logits).tolist() == [False, False]
    assert parity.agreement(turned, logits).tolist() == [True, True]


def test_the_reference_of_patch_tokens_has_none_of_the_class_token(
    loaded: Checkpoint, pixels: NDArray[np.uint8]
) -> None:
    found = checkpoint.with_output(loaded, "tokens")
    reference = parity.reference(found.model, HEADS, pixels[:2], loaded.info.preprocessing)
    assert reference.exact.shape == (2, *found.info.config.output_shape(HEADS))
    image_BCHW = torch.from_numpy(loaded.info.preprocessing.normalise(pixels[:2]))
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(reference.torch_fp32), found.model(image_BCHW, HEADS), rtol=0, atol=1e-5
        )


def test_what_is_agreed_on_is_what_every_runtime_agrees_on() -> None:
    first, second = RIGHT.copy(), RIGHT.copy()
    first[1], second[2] = RIGHT[0], RIGHT[0]
    target = Runs({EXACT: first, OTHER: second})
    gate = Gate(open=True)
    _record, agreed = parity.verify(
        target, Path("x"), 3, "int8", EXPECTED, lambda session: session.run(RIGHT), gate=gate
    )
    assert agreed.tolist() == [True, False, False, True]


def test_an_epsilon_that_float16_rounds_is_within_the_bound(tiny_config: HydraConfig) -> None:
    model = HydraViT(msgspec.structs.replace(tiny_config, layer_norm_eps=1e-12)).eval()
    assert model.cls_token is not None
    with torch.no_grad():
        model.cls_token.zero_()
        model.get_parameter("pos_embed").mul_(1e-4)  # the class token's variance is that of nothing but noise
    data = Preprocessing(image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    images = packaged_images(data, 4).pixels
    rounded = parity.reference(model, 4, images, data, "fp16")
    assert rounded.bound > 1e-4 * np.abs(rounded.exact).max()
    assert parity.reference(model, 4, images, data).bound < 1e-4 * np.abs(rounded.exact).max()
    assert {layer.eps for layer in model.modules() if hasattr(layer, "eps")} == {1e-12}  # as before


@pytest.mark.parametrize("k", [2, 4])
def test_the_rounded_reference_is_the_timm_vit_of_rounded_weights(tiny_model: HydraViT, k: int) -> None:
    data = Preprocessing(image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    images = packaged_images(data, 8).pixels
    assert tiny_model.cls_token is not None
    tiny_model.cls_token.data.zero_()  # its sum with a position is what is rounded
    dense = tiny_model.subnetwork(k)
    scale, width = tiny_model.config.head_dim**-0.5, tiny_model.config.width(k)
    for name, parameter in dense.named_parameters():
        factor = torch.ones(len(parameter)).reshape(-1, *[1] * (parameter.ndim - 1))
        if ".qkv." in name:
            factor[:width] = scale  # q is rounded with the attention's scale in it
        parameter.data = (parameter * factor).half().double() / factor
    with torch.no_grad():
        wanted = dense(torch.from_numpy(data.normalise(images, np.float64))).numpy()
    rounded = parity.reference(tiny_model, k, images, data, "fp16")
    np.testing.assert_allclose(rounded.exact, wanted, atol=1e-6)  # the scale is taken back in float32
    assert np.abs(parity.reference(tiny_model, k, images, data).exact - wanted).max() > 1e-5
