"""Files that compute something else, each caught by parity: the graph and its weights changed on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hydra_export import parity
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import ParityFailed
from hydra_export.target import ExportSpec
from hydra_export.targets.tflite import reader
from hydra_export.targets.tflite.runtimes import Opening, open_here
from tests.targets.conftest import MakeCheckpoint, pixels
from tests.targets.tflite.conftest import TFLITE, changed, operator, set_weight, tensor, weight

Array = NDArray[np.float32]
Mutation = Callable[[Any], None]
HEADS = 2
_NAMES = {"pads": "tokens/pads", "begin": "cls/begin", "end": "cls/end"}


def _weights(names: Sequence[str], change: Callable[[Array], NDArray[Any]]) -> Mutation:
    def mutate(model: Any) -> None:
        for name in names:
            before = weight(model, name)
            after = np.array(change(before.copy()), np.float32, order="C")
            assert after.shape == before.shape
            assert not np.array_equal(after, before)
            set_weight(model, name, after)

    return mutate


def _heads_swapped(parts: str) -> Mutation:
    """The two heads of subnetwork 2 exchanged."""
    names = [f"blocks.0.attn.{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    return _weights(names, lambda a: np.roll(a, a.shape[0] // 2, axis=0))


def _option(output: str, name: str, value: float) -> Mutation:
    def mutate(model: Any) -> None:
        assert getattr(operator(model, output).builtinOptions, name) != value
        setattr(operator(model, output).builtinOptions, name, value)

    return mutate


def _numbers(**numbers: Sequence[int]) -> Mutation:
    """Other constants of int32."""

    def mutate(model: Any) -> None:
        for name, changed_to in numbers.items():
            content = np.array(changed_to, "<i4").view(np.uint8)
            buffer = model.buffers[tensor(model, _NAMES[name]).buffer]
            assert len(buffer.data) == len(content)
            assert list(buffer.data) != list(content)
            buffer.data = content

    return mutate


def _rewired(output: str, index: int, source: str) -> Mutation:
    """One operator takes another tensor."""

    def mutate(model: Any) -> None:
        names = [found.name.decode() for found in model.subgraphs[0].tensors]
        inputs = np.array(operator(model, output).inputs)
        assert inputs[index] != names.index(source)
        inputs[index] = names.index(source)
        operator(model, output).inputs = inputs

    return mutate


def _bfloat16(array: Array) -> NDArray[Any]:
    rounded: NDArray[Any] = torch.from_numpy(array).bfloat16().float().numpy()
    return rounded


def _first_only(array: Array) -> Array:
    array.flat[0] *= 1.001
    return array


MUTATIONS: dict[str, Mutation] = {
    "heads swapped in v": _heads_swapped("v"),
    "heads swapped in q": _heads_swapped("q"),
    "heads swapped in q and k": _heads_swapped("qk"),
    "heads swapped in all but the projection": _heads_swapped("qkv"),
    "LayerNorm epsilon of torch's default": _weights(["norm/epsilon"], lambda a: a * 10),
    "GELU by tanh": _option("blocks.0/mlp/act/GELU", "approximate", True),
    "square weight transposed": _weights(["blocks.1.attn.proj.weight"], lambda a: a.T),
    "q weight transposed": _weights(["blocks.0.attn.q.weight"], lambda a: a.T),
    "attention not scaled": _weights(["blocks.0.attn.q.weight", "blocks.0.attn.q.bias"], lambda a: a * 8**0.5),
    "attention scaled twice": _weights(["blocks.1.attn.q.weight", "blocks.1.attn.q.bias"], lambda a: a / 8**0.5),
    "softmax of doubled scores": _option("blocks.0/attn/shares/SOFTMAX", "beta", 2.0),
    "channels of q reversed": _weights(["blocks.0.attn.q.weight"], lambda a: a[:, ::-1]),
    "class token at another position": _weights(["tokens"], lambda a: np.roll(a, 1, axis=1)),
    "class token put last": _numbers(pads=[0, 0, 0, 1, 0, 0]),
    "second token taken for the class token": _numbers(begin=[0, 1, 0], end=[0, 2, 0]),
    "image channels in BGR": _weights(["patch_embed.weight"], lambda a: a[..., ::-1]),
    "patches transposed": _weights(["patch_embed.weight"], lambda a: a.swapaxes(1, 2)),
    "classes in another order": _weights(["head.weight", "head.bias"], lambda a: a[::-1]),
    "k taken for v": _rewired("blocks.0/attn/values/BATCH_MATMUL", 1, "blocks.0/attn/k/TRANSPOSE"),
    "residual of the normalised tokens": _rewired("blocks.0/attn/residual/ADD", 0, "blocks.0/norm1/ADD"),
    "norms of a block exchanged": _rewired("blocks.0/norm1/scaled/MUL", 1, "blocks.0.norm2.weight"),
    "weights in bfloat16": _weights(["blocks.1.mlp.fc1.weight"], _bfloat16),
    "one value of the largest matrix off by a thousandth": _weights(["blocks.0.mlp.fc2.weight"], _first_only),
    "NaN in a bias": _weights(["norm.bias"], lambda a: np.where(np.arange(a.size) == 0, np.nan, a)),
    "infinity in a bias": _weights(["head.bias"], lambda a: np.full_like(a, np.inf)),
    **{
        f"{name} dropped": _weights([name], np.zeros_like)
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
def small_tokens(make_checkpoint: MakeCheckpoint) -> Checkpoint:
    """With tokens as small as freshly trained ones, where the epsilon of the first LayerNorm matters."""
    checkpoint = make_checkpoint()
    with torch.no_grad():
        for name in ("patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed"):
            checkpoint.model.get_parameter(name).mul_(0.1)
    return checkpoint


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS.keys())
@pytest.mark.parametrize("form", ["tensor", "image"])
def test_a_wrong_artifact_fails(small_tokens: Checkpoint, tmp_path: Path, form: str, mutation: Mutation) -> None:
    spec = ExportSpec(input=form)  # type: ignore[arg-type]
    (artifact,) = TFLITE.write(small_tokens, (HEADS,), spec, tmp_path)
    path, data = tmp_path / artifact.path, small_tokens.info.preprocessing
    images = pixels(small_tokens.info.config)
    expected = parity.reference(small_tokens.model, HEADS, images, data)
    check(path, images if form == "image" else data.normalise(images).transpose(0, 2, 3, 1), expected)
    changed(path, mutation)
    with pytest.raises(ParityFailed, match=r"does not compute subnetwork 2"):
        check(path, images if form == "image" else data.normalise(images).transpose(0, 2, 3, 1), expected)


def _rows_exchanged(array: Array) -> Array:
    return np.roll(array, len(array) // 2, axis=0)


def _columns_reversed(array: Array) -> Array:
    return array[:, ::-1]


SHARED: dict[str, tuple[str, Callable[[Array], NDArray[Any]]]] = {
    "heads swapped in v": ("blocks.0.attn.v.weight[0:1]", _rows_exchanged),
    "channels of a later block reversed": ("blocks.1.mlp.fc1.weight[1:2]", _columns_reversed),
    "a later block dropped": ("blocks.0.mlp.fc2.weight[1:2]", np.zeros_like),
    "the classifier's later block dropped": ("head.weight[1:2]", np.zeros_like),
    "square block transposed": ("blocks.1.attn.proj.weight[0:1]", lambda a: np.concatenate([a[:8].T, a[8:]])),
    "tokens in another order": ("tokens", lambda a: np.roll(a, 1, axis=2)),
    "weights in bfloat16": ("blocks.1.mlp.fc1.weight[0:1]", _bfloat16),
    "one value off by a thousandth": ("blocks.0.mlp.fc2.weight[0:1]", _first_only),
    "a bias dropped": ("blocks.0.attn.v.bias", np.zeros_like),
}


@pytest.mark.parametrize(("name", "change"), SHARED.values(), ids=SHARED.keys())
@pytest.mark.parametrize("by", ["signature", "run"])
def test_a_wrong_file_of_several_head_counts_fails(
    small_tokens: Checkpoint, tmp_path: Path, by: str, name: str, change: Callable[[Array], NDArray[Any]]
) -> None:
    """The shared bytes changed: the numbers of what head count 2 uses."""
    (artifact,) = TFLITE.write(small_tokens, (1, 2, 4), ExportSpec(graph="universal"), tmp_path)
    path, data = tmp_path / artifact.path, small_tokens.info.preprocessing
    images = pixels(small_tokens.info.config)
    expected = parity.reference(small_tokens.model, HEADS, images, data)
    images_BHWC = data.normalise(images).transpose(0, 2, 3, 1)
    k = None if by == "signature" else HEADS
    check(path, images_BHWC, expected, f"k{HEADS}", k)
    model = reader.read(path)
    (graph,) = [graph for graph in model.graphs if graph.name == "tiny-k2"]
    (tensor,) = [tensor for tensor in graph.tensors if tensor.name.endswith(f"/{name}")]
    extent, content = model.buffers[tensor.buffer], bytearray(path.read_bytes())
    before = np.frombuffer(bytes(content[extent.start : extent.start + extent.size]), "<f4").reshape(tensor.shape)
    after = np.array(change(before.copy()), np.float32, order="C")
    assert not np.array_equal(before, after)
    content[extent.start : extent.start + extent.size] = after.tobytes()
    path.write_bytes(content)
    TFLITE.lint(path)  # nothing is wrong with its structure
    with pytest.raises(ParityFailed, match=r"does not compute subnetwork 2"):
        check(path, images_BHWC, expected, f"k{HEADS}", k)


def check(
    path: Path,
    images_BHWC: NDArray[Any],
    expected: parity.Reference,
    signature: str = "serving_default",
    heads: int | None = None,
) -> None:
    """Without the lint that loading begins with, which knows some of the mutations; *heads* for the signature `run`."""
    run = open_here(Opening("litert", str(path), signature, "logits", 1, (), "run" if heads else ""))
    k = None if heads is None else np.array([heads], np.int32)
    logits = np.concatenate([run(np.ascontiguousarray(images_BHWC[i : i + 1]), k) for i in range(len(images_BHWC))])
    parity.check(path.name, HEADS, parity.compare(logits, expected))
