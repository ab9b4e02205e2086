"""The universal model against the paper's table, against dense subnetworks and against plain timm ViTs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from hydra_export import network, rotary
from hydra_export.architecture import HydraConfig, Rotary, parse_heads
from hydra_export.errors import BadInput
from hydra_export.model import HydraViT, assembled
from hydra_export.preprocess import Preprocessing
from tests.variants import VARIANTS, checkpoint

PAPER = {  # k: parameters, GMACs
    3: (5_717_416, 1.25),
    4: (9_982_184, 2.14),
    5: (15_426_600, 3.25),
    6: (22_050_664, 4.60),
    7: (29_854_376, 6.18),
    8: (38_837_736, 7.99),
    9: (49_000_744, 10.04),
    10: (60_343_400, 12.31),
    11: (72_865_704, 14.82),
    12: (86_567_656, 17.56),
}
# In float64 only the order of sums differs; a real difference is ten orders larger.
CLOSE: Any = {"rtol": 0.0, "atol": 1e-11}


def images(config: HydraConfig, batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, config.channels, *config.image_shape, generator=generator, dtype=torch.float64)


def sliced_by_hand(model: HydraViT, k: int) -> VisionTransformer:
    """Subnetwork k as PAPER describes it, cut with plain indices and put into a timm ViT that is built here."""
    config = model.config
    E, d = config.heads * config.head_dim, k * config.head_dim
    hidden = int(d * config.mlp_ratio)
    old = model.state_dict()
    new = {
        "cls_token": old["cls_token"][:, :, :d],
        "pos_embed": old["pos_embed"][:, :, :d],
        "patch_embed.proj.weight": old["patch_embed.proj.weight"][:d],
        "patch_embed.proj.bias": old["patch_embed.proj.bias"][:d],
        "norm.weight": old["norm.weight"][:d],
        "norm.bias": old["norm.bias"][:d],
    }
    rows = [*range(d), *range(E, E + d), *range(2 * E, 2 * E + d)]
    for i in range(config.depth):
        b = f"blocks.{i}."
        new[b + "attn.qkv.weight"] = old[b + "attn.qkv.weight"][rows][:, :d]
        new[b + "attn.qkv.bias"] = old[b + "attn.qkv.bias"][rows]
        new[b + "attn.proj.weight"] = old[b + "attn.proj.weight"][:d, :d]
        new[b + "mlp.fc1.weight"] = old[b + "mlp.fc1.weight"][:hidden, :d]
        new[b + "mlp.fc1.bias"] = old[b + "mlp.fc1.bias"][:hidden]
        new[b + "mlp.fc2.weight"] = old[b + "mlp.fc2.weight"][:d, :hidden]
        vectors = ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.proj.bias", "mlp.fc2.bias"]
        for name in vectors + (["ls1.gamma", "ls2.gamma"] if config.layer_scale else []):
            new[b + name] = old[b + name][:d]
    head = f"head.k{k}" if config.separate_classifiers else "head"
    new["head.weight"] = old[f"{head}.weight"][:, :d]
    new["head.bias"] = old[f"{head}.bias"]
    dense = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        in_chans=config.channels,
        num_classes=config.num_classes,
        embed_dim=d,
        depth=config.depth,
        num_heads=k,
        mlp_ratio=config.mlp_ratio,
        init_values=config.layer_scale,
    ).double()
    dense.load_state_dict(new)
    return dense.eval()


@pytest.mark.parametrize("k", PAPER)
def test_parameters_and_gmacs_are_those_of_the_papers_table(k: int) -> None:
    config = HydraConfig(heads=12)
    assert (network.num_params(config, k), round(network.macs(config, k) / 1e9, 2)) == PAPER[k]


@pytest.mark.parametrize("k", PAPER)
def test_a_subnetwork_has_the_parameters_of_the_papers_table(k: int) -> None:
    dense = HydraViT(HydraConfig(heads=12), weight_init="skip", device="meta").subnetwork(k)
    assert sum(p.numel() for p in dense.parameters()) == PAPER[k][0]


@pytest.mark.parametrize("change", [{}, {"layer_scale": 1e-5}, {"num_classes": 0}, {"channels": 1, "mlp_ratio": 2.5}])
def test_counted_parameters_are_those_of_the_dense_subnetwork(change: dict[str, float]) -> None:
    config = HydraConfig(**{"heads": 3, "head_dim": 8, "depth": 2, "image_size": 32, **change})  # type: ignore[arg-type]
    model = HydraViT(config)
    for k in (1, 2, 3):
        assert network.num_params(config, k) == sum(p.numel() for p in model.subnetwork(k).parameters())


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_forward_equals_the_subnetwork_and_a_plain_timm_vit_of_the_sliced_weights(tiny_model: HydraViT, k: int) -> None:
    model, image = tiny_model.double(), images(tiny_model.config)
    logits = model(image, k)
    assert logits.shape == (3, 7)
    torch.testing.assert_close(model.subnetwork(k)(image), logits, **CLOSE)
    torch.testing.assert_close(sliced_by_hand(model, k)(image), logits, **CLOSE)


@pytest.mark.parametrize("k", [2, 4])
def test_forward_equals_the_subnetwork_with_layer_scale_and_separate_classifiers(
    scaled_model: HydraViT, k: int
) -> None:
    model, image = scaled_model.double(), images(scaled_model.config)
    logits = model(image, k)
    torch.testing.assert_close(model.subnetwork(k)(image), logits, **CLOSE)
    torch.testing.assert_close(sliced_by_hand(model, k)(image), logits, **CLOSE)


def test_forward_without_a_head_count_is_the_whole_model_as_timm_computes_it(tiny_model: HydraViT) -> None:
    model, image = tiny_model.double(), images(tiny_model.config)
    torch.testing.assert_close(model(image), VisionTransformer.forward(model, image), **CLOSE)


def test_forward_equals_the_subnetwork_in_train_mode(tiny_model: HydraViT) -> None:
    model, image = tiny_model.double().train(), images(tiny_model.config)
    dense = model.subnetwork(3)
    assert dense.training
    torch.testing.assert_close(dense(image), model(image, 3), **CLOSE)


def test_drop_path_and_dropout_act_in_train_mode_alone(tiny_config: HydraConfig) -> None:
    torch.manual_seed(0)
    model: Any = HydraViT(
        tiny_config, drop_path_rate=0.5, drop_rate=0.5, proj_drop_rate=0.2, attn_drop_rate=0.2
    ).double()
    nn.init.normal_(model.head.weight)
    image = images(tiny_config)
    assert not torch.equal(model.train()(image, 2), model(image, 2))
    assert torch.equal(model.eval()(image, 2), model(image, 2))


def test_a_backbone_returns_the_normalised_class_token(tiny_config: HydraConfig) -> None:
    model = HydraViT(HydraConfig(heads=4, head_dim=8, depth=2, patch_size=4, image_size=16, num_classes=0)).double()
    image = images(tiny_config)
    features = model(image, 3)
    assert features.shape == (3, 24)
    torch.testing.assert_close(model.subnetwork(3)(image), features, **CLOSE)


def test_a_subnetwork_takes_any_batch(tiny_model: HydraViT) -> None:
    image = images(tiny_model.config, batch=5).float()
    assert torch.equal(tiny_model(image[:0], 2), torch.empty(0, 7))
    torch.testing.assert_close(tiny_model(image[4:], 2), tiny_model(image, 2)[4:])


# --- a wrong subnetwork must be seen: each of these is a mistake that exporters have made


def _swap_heads(dense: Any) -> None:
    qkv = dense.blocks[0].attn.qkv
    order = [*range(8, 16), *range(8), *range(16, qkv.weight.shape[0])]
    qkv.weight.data = qkv.weight.data[order]  # the first two heads of q alone


def _eps(dense: Any) -> None:
    for module in dense.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def _tanh(dense: Any) -> None:
    for block in dense.blocks:
        block.mlp.act = nn.GELU("tanh")


def _no_bias(dense: Any) -> None:
    nn.init.zeros_(dense.blocks[1].attn.qkv.bias[-24:])  # v's; a bias of k alone changes nothing in attention


def _scale(dense: Any) -> None:
    dense.blocks[0].attn.scale = 24**-0.5


def _positions(dense: Any) -> None:
    dense.pos_embed.data = dense.pos_embed.data.roll(1, 1)


@pytest.mark.parametrize("broken", [_swap_heads, _eps, _tanh, _no_bias, _scale, _positions])
@torch.no_grad()
def test_a_broken_subnetwork_differs(tiny_model: HydraViT, broken: Callable[[Any], None]) -> None:
    model, image = tiny_model.double(), images(tiny_model.config)
    dense: Any = model.subnetwork(3)
    logits = model(image, 3)
    for block in dense.blocks:
        block.attn.fused_attn = False  # the fused form takes its scale from the head width
    torch.testing.assert_close(dense(image), logits, **CLOSE)
    broken(dense)
    assert (dense(image) - logits).abs().max() / logits.abs().max() > 1e-6


# --- gradients and storage


def test_gradients_reach_all_active_slices_and_nothing_else(tiny_model: HydraViT) -> None:
    model, k = tiny_model.double(), 2
    model(images(model.config), k).square().sum().backward()
    E, d = 32, 16
    for name, parameter in model.named_parameters():
        active = torch.zeros(parameter.shape, dtype=torch.bool)
        if ".qkv." in name:
            for start in (0, E, 2 * E):
                active[(slice(start, start + d), slice(d))[: active.ndim]] = True
        elif name in ("cls_token", "pos_embed"):
            active[..., :d] = True
        elif name == "head.weight":
            active[:, :d] = True
        elif name == "head.bias":
            active[:] = True
        elif ".fc1." in name:
            active[(slice(4 * d), slice(d))[: active.ndim]] = True
        elif ".fc2.weight" in name:
            active[:d, : 4 * d] = True
        elif "patch_embed" in name or active.ndim == 1:
            active[:d] = True
        else:
            active[:d, :d] = True
        assert parameter.grad is not None, name
        assert not parameter.grad[~active].any(), name
        if ".qkv.bias" in name:  # attention does not see a constant added to every key
            active[E : E + d] = False
        assert (parameter.grad[active] != 0).float().mean() > 0.99, name


def test_a_subnetwork_shares_no_storage_with_the_universal_model(tiny_model: HydraViT) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    for k in (2, 4):
        dense = tiny_model.subnetwork(k)
        for parameter in dense.parameters():
            assert parameter.requires_grad
            assert parameter.is_contiguous()
            parameter.data.fill_(9)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_model.state_dict().items())


# --- the normalised weights that targets emit from


def forward_from_weights(weights: dict[str, Tensor], image: Tensor, config: HydraConfig, k: int) -> Tensor:
    """A ViT written from the normalised form alone: no LayerScale, no scale, q, k and v apart."""
    C, D = config.head_dim, config.width(k)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (D,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    x = F.conv2d(image, weights["patch_embed.weight"], weights["patch_embed.bias"], stride=config.patch_size)
    x = F.pad(x.flatten(2).mT, (0, 0, 1, 0)) + weights["tokens"]
    for i in range(config.depth):
        y = norm(x, f"blocks.{i}.norm1")
        q, key, v = (linear(y, f"blocks.{i}.attn.{part}").unflatten(2, (k, C)).transpose(1, 2) for part in "qkv")
        y = (q @ key.mT).softmax(-1) @ v
        x = x + linear(y.transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")
    return linear(norm(x, "norm")[:, 0], "head")


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@torch.no_grad()
def test_normalised_weights_compute_the_subnetwork(tiny_model: HydraViT, k: int) -> None:
    model, image = tiny_model.double(), images(tiny_model.config)
    weights = model.weights(k)
    torch.testing.assert_close(forward_from_weights(weights, image, model.config, k), model(image, k), **CLOSE)


@pytest.mark.parametrize("k", [2, 4])
@torch.no_grad()
def test_normalised_weights_hold_layer_scale_and_the_right_classifier(scaled_model: HydraViT, k: int) -> None:
    model, image = scaled_model.double(), images(scaled_model.config)
    weights = model.weights(k)
    assert not [name for name in weights if "gamma" in name or ".k2" in name or ".k4" in name]
    torch.testing.assert_close(forward_from_weights(weights, image, model.config, k), model(image, k), **CLOSE)


@pytest.mark.parametrize("k", [1, 3])
def test_normalised_weights_are_views_of_the_parameters_where_nothing_is_computed(tiny_model: HydraViT, k: int) -> None:
    own, d, hidden = tiny_model.state_dict(), 8 * k, 32 * k
    weights = tiny_model.weights(k)
    wanted = {
        "patch_embed.weight": (d, 3, 4, 4),
        "patch_embed.bias": (d,),
        "tokens": (1, 17, d),
        "norm.weight": (d,),
        "norm.bias": (d,),
        "head.weight": (7, d),
        "head.bias": (7,),
    }
    for i in range(2):
        for part in ("norm1", "norm2"):
            wanted |= {f"blocks.{i}.{part}.weight": (d,), f"blocks.{i}.{part}.bias": (d,)}
        for part, rows, columns in (
            *((f"attn.{name}", d, d) for name in ("q", "k", "v", "proj")),
            ("mlp.fc1", hidden, d),
            ("mlp.fc2", d, hidden),
        ):
            wanted |= {f"blocks.{i}.{part}.weight": (rows, columns), f"blocks.{i}.{part}.bias": (rows,)}
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == wanted
    storages = {tensor.untyped_storage().data_ptr() for tensor in own.values()}
    copies = {name for name, tensor in weights.items() if tensor.untyped_storage().data_ptr() not in storages}
    assert copies == {"tokens", *(name for name in wanted if ".attn.q." in name)}
    assert torch.equal(weights["blocks.1.attn.k.weight"], own["blocks.1.attn.qkv.weight"][32 : 32 + d, :d])
    assert torch.equal(weights["blocks.0.attn.v.bias"], own["blocks.0.attn.qkv.bias"][64 : 64 + d])


def test_the_first_heads_of_a_larger_head_count_are_the_smaller_one(tiny_model: HydraViT) -> None:
    small, large = tiny_model.weights(2), tiny_model.weights(3)
    for name, weight in small.items():
        assert torch.equal(large[name][tuple(slice(size) for size in weight.shape)], weight)


@torch.no_grad()
def test_a_patch_embedding_with_normalisation_folded_in_takes_raw_pixels(tiny_model: HydraViT) -> None:
    model, pixels = tiny_model.double(), Preprocessing(image_size=16, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    raw = torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8)
    normalised = torch.from_numpy(pixels.normalise(raw.numpy(), dtype=np.float64))
    logits = forward_from_weights(model.weights(3, pixels), raw.permute(0, 3, 1, 2).double(), model.config, 3)
    torch.testing.assert_close(logits, model(normalised, 3), **CLOSE)


def test_a_head_count_without_a_classifier_is_refused(scaled_model: HydraViT) -> None:
    image = images(scaled_model.config).float()
    for call in (lambda: scaled_model(image, 3), lambda: scaled_model.subnetwork(3), lambda: scaled_model.weights(1)):
        with pytest.raises(BadInput, match=r"no classifier for heads [13].*2,4"):
            call()


@pytest.mark.parametrize("k", [0, -1, 5])
def test_a_head_count_out_of_range_is_refused(tiny_model: HydraViT, k: int) -> None:
    image = images(tiny_model.config).float()
    for call in (lambda: tiny_model(image, k), lambda: tiny_model.subnetwork(k), lambda: tiny_model.weights(k)):
        with pytest.raises(BadInput, match=f"no subnetwork with {k} heads.*1 to 4"):
            call()


def test_a_state_dict_makes_the_round_trip(tiny_model: HydraViT, tiny_config: HydraConfig) -> None:
    other, image = HydraViT(tiny_config).eval(), images(tiny_config).float()
    assert not torch.allclose(other(image, 2), tiny_model(image, 2))
    other.load_state_dict(tiny_model.state_dict())
    assert torch.equal(other(image, 2), tiny_model(image, 2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 0}, "heads is 0"),
        ({"heads": 10**9}, "heads is 1000000000"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"patch_size": 300}, "smaller than the patches, 300"),
        ({"image_size": -16}, "image_size is -16"),
        ({"channels": 5}, "channels is 5"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"mlp_ratio": 0.3}, "MLP ratio 0.3"),
        ({"mlp_ratio": float("nan")}, "MLP ratio nan"),
        ({"layer_scale": float("inf")}, "LayerScale starts at inf"),
        ({"separate_classifiers": (4, 2)}, r"heads \[4, 2\]"),
        ({"separate_classifiers": (2, 5)}, r"heads \[2, 5\]"),
        ({"separate_classifiers": (2,), "num_classes": 0}, "the model has no classes"),
        ({"projection": -1, "num_classes": 0}, "projection is -1"),
        ({"projection": 10**9, "num_classes": 0}, "projection is 1000000000"),
        ({"projection": 7, "num_classes": 5}, "5 classes and a projection to 7 channels"),
        ({"projection": 7, "num_classes": 0, "pooling": "none"}, "without pooling cannot have a projection"),
        ({"projection": 7, "num_classes": 0, "pooling": "token_avg"}, "token_avg, but it has no classifier"),
        ({"projection": 7, "num_classes": 0, "separate_classifiers": (2,)}, "the model has no classes"),
    ],
)
def test_an_impossible_configuration_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        HydraConfig(**{"heads": 4, "head_dim": 8, "patch_size": 4, "image_size": 16, **change})  # type: ignore[arg-type]


def test_a_timm_argument_that_forward_would_ignore_is_refused(tiny_config: HydraConfig) -> None:
    with pytest.raises(BadInput, match="does not take global_pool"):
        HydraViT(tiny_config, global_pool="avg")


@pytest.mark.parametrize(
    "order",
    [
        pytest.param("import hydra_export, timm", marks=pytest.mark.slow),
        pytest.param("import timm, hydra_export", marks=pytest.mark.slow),
        "import hydra_export; from importlib import util; util.find_spec('timm'); import timm",
    ],
)
def test_timm_creates_the_models_in_either_import_order(order: str) -> None:
    program = f"""{order}
model = timm.create_model('hydravit_base_patch16_224', num_classes=10, weight_init='skip')
assert type(model).__name__ == 'HydraViT', type(model)
assert (model.config.heads, model.config.num_classes, tuple(model.head.weight.shape)) == (12, 10, (10, 768))
assert timm.create_model('hydravit_small_patch16_224', img_size=32, in_chans=1).config.image_size == 32
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pretrained_weights_from_timm_are_refused_with_the_way_to_load_some() -> None:
    import timm

    with pytest.raises(BadInput, match="load_checkpoint"):
        timm.create_model("hydravit_base_patch16_224", pretrained=True)


@pytest.mark.parametrize(
    ("text", "heads"),
    [
        ("3", (3,)),
        (" 3, 6 ", (3, 6)),
        ("12,3,6", (3, 6, 12)),
        ("all", tuple(range(1, 13))),
        (" all ", tuple(range(1, 13))),
    ],
)
def test_head_counts_are_read_in_ascending_order(text: str, heads: tuple[int, ...]) -> None:
    assert parse_heads(text, 12) == heads


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0", "0 is out of range"),
        ("13", "13 is out of range"),
        ("-1", "'-1' is not a head count"),
        ("+3", "not a head count"),
        ("1_2", "not a head count"),
        ("٣", "not a head count"),
        ("3.0", "not a head count"),
        ("3,,6", "'' is not a head count"),
        ("3,6,", "'' is not a head count"),
        ("3 6", "'3 6' is not a head count"),
        ("abc", "'abc' is not a head count"),
        ("3,all", "'all' is not a head count"),
        ("3,3", "3 is listed twice"),
        ("3,03", "3 is listed twice"),
        ("", "'' is not a head count"),
        ("9" * 10_000, "is not a head count"),
        ("3," * 5_000, "is not a head count"),
        ("x" * 10_000, "is not a head count"),
    ],
)
def test_a_bad_list_of_head_counts_is_refused_in_one_short_message(text: str, said: str) -> None:
    with pytest.raises(BadInput, match="from 1 to 12") as caught:
        parse_heads(text, 12)
    assert said in caught.value.message
    assert caught.value.remedy.endswith("`heads=6,12`.")
    assert caught.value.exit_status == 2
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_computes_what_timms_module_of_its_slices_computes(name: str) -> None:
    config = VARIANTS[name]
    loaded = checkpoint(config)
    model = loaded.model.double()
    image = images(config, 2)
    for k in (1, 2, 4):
        with torch.inference_mode():
            ours = model(image, k)
            dense = model.subnetwork(k)
            theirs = dense(image)
            put_together = assembled(config, k, model.weights(k)).double()(image)
        assert ours.shape == (2, *config.output_shape(k))
        for each in (theirs, put_together):
            patches = each[:, config.num_prefix_tokens :] if config.pooling == "none" else each
            torch.testing.assert_close(ours, patches, rtol=1e-6, atol=1e-6)
        assert network.num_params(config, k) == sum(p.numel() for p in dense.parameters())
    assert {key: tuple(t.shape) for key, t in model.state_dict().items()} == network.shapes(config)


def test_a_projection_gives_features_of_one_length_at_every_head_count() -> None:
    for name, halves in (("projection", False), ("distilled projection", True)):
        model = checkpoint(VARIANTS[name]).model
        config, head = model.config, model.get_parameter("head.weight")
        assert (config.output, config.output_text, config.num_outputs) == ("features", "7 features", 7)
        for k in (1, 2, 4):
            assert config.output_shape(k) == (7,)
            weight = model.weights(k)["head.weight"]
            torch.testing.assert_close(weight, head[:, : config.width(k)] * (0.5 if halves else 1.0))
            assert ("head_dist.weight" in model.weights(k)) is halves


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_of_a_variant_matters(name: str) -> None:
    model = checkpoint(VARIANTS[name]).model
    model(images(model.config).float()).square().sum().backward()
    still = {key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert still == set()


@pytest.mark.parametrize("grid", ["index", "centered"])
@pytest.mark.parametrize(("offset", "reference", "columns_first"), [(0.0, None, False), (1.0, (4, 4), True)])
def test_rotary_tables_are_timms_to_the_last_bit(
    grid: str, offset: float, reference: tuple[int, int] | None, columns_first: bool
) -> None:
    from timm.layers.pos_embed_sincos import create_rope_embed

    more: dict[str, Any] = {"ref_feat_shape": reference, "in_pixels": False} if grid == "index" else {}
    rope = create_rope_embed(
        rope_type="cat" if grid == "index" else "dinov3",
        dim=64,
        num_heads=2,
        feat_shape=(3, 5),
        temperature=100.0,
        grid_offset=offset,
        grid_indexing="xy" if columns_first else "ij",
        rotate_half=True,
        **more,
    )
    embedded: Any = rope.get_embed()  # type: ignore[operator]
    sines, cosines = embedded.chunk(2, -1)
    positions = Rotary(
        grid=grid,  # type: ignore[arg-type]
        temperature=100.0,
        offset=offset,
        reference=reference if grid == "index" else None,
        columns_first=columns_first,
    )
    config = HydraConfig(heads=2, head_dim=32, patch_size=4, image_size=(12, 20), rotary=positions, positions="none")
    ours_cos, ours_sin = rotary.tables(config, positions)
    assert torch.equal(ours_cos[1:], cosines)
    assert torch.equal(ours_sin[1:], torch.cat([-sines[:, :16], sines[:, 16:]], 1))
    assert torch.equal(ours_cos[:1], torch.ones(1, 32))
