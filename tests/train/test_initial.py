"""First weights: random schemes, smaller models, other classes, other image sizes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadCheckpoint, BadInput
from hydra_export.model import HydraViT
from hydra_export.preprocess import imagenet
from hydra_export.train import initial, recipes
from hydra_export.train.config import TrainConfig
from tests.conftest import perturbed

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def config(model: HydraConfig, **changes: object) -> TrainConfig:
    small = {
        "model": model,
        "preprocessing": imagenet(model.image_size),
        "trained_heads": (model.heads,),
        "export_heads": (model.heads,),
    }
    return msgspec.structs.replace(recipes.digits(), **(small | changes))


def filled(model: HydraConfig, start: HydraViT, same_classes: bool = True) -> HydraViT:
    torch.manual_seed(0)
    fresh = HydraViT(model).eval()
    initial.randomise(fresh, "fan-in")
    initial.fill(fresh, start, same_classes)
    return fresh


def test_a_smaller_model_is_the_first_subnetwork_of_a_larger_one(tiny_config: HydraConfig) -> None:
    small = perturbed(msgspec.structs.replace(tiny_config, heads=2))
    large = filled(tiny_config, small)
    torch.testing.assert_close(large(IMAGES, 2), small(IMAGES), rtol=0, atol=1e-6)
    assert large.state_dict()["blocks.0.attn.qkv.weight"].abs().min() > 0  # the others are random


def test_a_plain_timm_vit_is_taken_from_a_file(tiny_config: HydraConfig, tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = VisionTransformer(
        img_size=16, patch_size=4, num_classes=7, embed_dim=16, depth=2, num_heads=2, mlp_ratio=4.0
    ).eval()
    with torch.no_grad():
        plain.get_parameter("head.weight").normal_()
    torch.save(plain.state_dict(), tmp_path / "small.pth")
    wanted = config(tiny_config, start=str(tmp_path / "small.pth"))
    found = initial.source(wanted)
    model = initial.model(wanted, found, same_classes=True).eval()
    torch.testing.assert_close(model(IMAGES, 2), plain(IMAGES), rtol=0, atol=1e-5)


def test_a_larger_model_gives_its_first_heads(tiny_config: HydraConfig, tiny_model: HydraViT) -> None:
    small = filled(msgspec.structs.replace(tiny_config, heads=3), tiny_model)
    torch.testing.assert_close(small(IMAGES), tiny_model(IMAGES, 3), rtol=0, atol=1e-6)


def test_other_classes_start_from_a_classifier_of_zeros(tiny_config: HydraConfig, tiny_model: HydraViT) -> None:
    model = filled(msgspec.structs.replace(tiny_config, num_classes=5), tiny_model, same_classes=False)
    assert not model(IMAGES).any()
    assert torch.equal(model.state_dict()["norm.weight"], tiny_model.state_dict()["norm.weight"])


def test_a_projection_is_kept_and_has_to_agree(tiny_config: HydraConfig, tmp_path: Path) -> None:
    projection = msgspec.structs.replace(tiny_config, num_classes=0, projection=9)
    start = perturbed(projection)
    small = filled(msgspec.structs.replace(projection, heads=3), start, same_classes=False)
    torch.testing.assert_close(small(IMAGES), start(IMAGES, 3), rtol=0, atol=1e-6)
    for change in ({"projection": 5}, {"projection": 0}):
        with pytest.raises(BadInput, match=r"start has projection 9, .*or set model\.projection to 9"):
            initial.check(projection, msgspec.structs.replace(projection, **change), "start")


def test_a_new_classifier_takes_what_the_projection_took(tiny_config: HydraConfig) -> None:
    start = perturbed(msgspec.structs.replace(tiny_config, num_classes=0, projection=9))
    initial.check(start.config, tiny_config, "start")
    model = filled(tiny_config, start, same_classes=False)
    assert not model(IMAGES).any()
    assert torch.equal(model.state_dict()["norm.weight"], start.state_dict()["norm.weight"])


def test_separate_classifiers_start_from_a_shared_one_and_the_other_way_round(
    tiny_config: HydraConfig, tiny_model: HydraViT
) -> None:
    own = msgspec.structs.replace(tiny_config, separate_classifiers=(2, 4))
    apart = filled(own, tiny_model)
    for k in (2, 4):
        torch.testing.assert_close(apart(IMAGES, k), tiny_model(IMAGES, k), rtol=0, atol=1e-6)
    together = filled(tiny_config, perturbed(own))
    torch.testing.assert_close(together(IMAGES), perturbed(own)(IMAGES, 4), rtol=0, atol=1e-6)


def test_positions_are_resampled_for_another_image_size(tiny_config: HydraConfig, tiny_model: HydraViT) -> None:
    model = filled(msgspec.structs.replace(tiny_config, image_size=32), tiny_model)
    own, given = model.pos_embed, tiny_model.pos_embed
    assert own is not None
    assert given is not None
    assert own.shape == (1, 65, 32)
    assert torch.equal(own[:, 0], given[:, 0])
    torch.testing.assert_close(own[:, 1:].mean(1), given[:, 1:].mean(1), rtol=0, atol=0.05)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 7)


def test_positions_of_images_that_are_not_square_are_those_of_their_own_grid(tiny_config: HydraConfig) -> None:
    wide = perturbed(msgspec.structs.replace(tiny_config, image_size=(8, 32)))
    same = filled(msgspec.structs.replace(tiny_config, image_size=(8, 32)), wide)
    positions = [model.get_parameter("pos_embed") for model in (wide, same)]
    assert torch.equal(*positions)
    high = filled(msgspec.structs.replace(tiny_config, image_size=(32, 8)), wide)  # as many, and others
    assert not torch.equal(high.get_parameter("pos_embed")[:, 1:], positions[0][:, 1:])
    assert high(torch.randn(1, 3, 32, 8)).shape == (1, 7)


def test_the_authors_scheme_is_what_their_layers_start_from(tiny_config: HydraConfig) -> None:
    """Uniform up to 1 / sqrt(inputs), biases too; positions 0.02, the class token 1e-6, norms 1 and 0."""
    model = initial.model(config(tiny_config, scheme="hydravit"), None, same_classes=False)
    for name in ("patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.1.mlp.fc2", "head"):
        weight = model.get_parameter(f"{name}.weight").detach()
        bound = weight[0].numel() ** -0.5
        assert 0.95 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        bias = model.get_parameter(f"{name}.bias").detach()
        assert 0.5 * bound < bias.abs().max() <= bound
    assert model.get_parameter("cls_token").std().item() == pytest.approx(1e-6, rel=0.4)
    assert model.get_parameter("pos_embed").std().item() == pytest.approx(0.02, rel=0.1)
    assert (model.get_parameter("blocks.0.norm1.weight") == 1).all()
    assert not model.get_parameter("blocks.0.norm1.bias").any()


def test_schemes_differ_in_spread(tiny_config: HydraConfig) -> None:
    for scheme, expected in (("fan-in", 32**-0.5), ("timm", 0.02)):
        model = initial.model(config(tiny_config, scheme=scheme), None, same_classes=False)
        assert model.get_parameter("blocks.0.mlp.fc1.weight").std().item() == pytest.approx(expected, rel=0.15)
        assert not model.get_parameter("blocks.0.mlp.fc1.bias").any()
        assert (model.get_parameter("norm.weight") == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, "depth 2, but the model to train has 3"),
        ({"patch_size": 8}, "patch_size 4"),
        ({"mlp_ratio": 2.0}, "mlp_ratio"),
        ({"layer_scale": 0.1}, "LayerScale"),
    ],
)
def test_weights_that_do_not_match_the_model_are_refused(
    tiny_config: HydraConfig, tiny_checkpoint: Path, change: dict[str, object], message: str
) -> None:
    wanted = config(msgspec.structs.replace(tiny_config, **change), start=str(tiny_checkpoint))
    with pytest.raises(BadInput, match=message):
        initial.source(wanted)


def test_weights_that_do_not_match_the_heads_are_refused(tiny_config: HydraConfig, tmp_path: Path) -> None:
    torch.save(perturbed(msgspec.structs.replace(tiny_config, heads=3)).state_dict(), tmp_path / "24.pth")
    wide = msgspec.structs.replace(tiny_config, head_dim=16)
    with pytest.raises(BadCheckpoint, match="width 24 is not a multiple of head_dim 16"):
        initial.source(config(wide, start=str(tmp_path / "24.pth")))


def test_an_official_checkpoint_is_a_start(tiny_config: HydraConfig, tiny_model: HydraViT, tmp_path: Path) -> None:
    official = {"state_dict": {}, "state_dict_ema": {f"module.{n}": t for n, t in tiny_model.state_dict().items()}}
    torch.save(official, tmp_path / "model_best.pth.tar")
    wanted = config(tiny_config, start=str(tmp_path / "model_best.pth.tar"))
    model = initial.model(wanted, initial.source(wanted), same_classes=True).eval()
    torch.testing.assert_close(model(IMAGES, 3), tiny_model(IMAGES, 3), rtol=0, atol=0)


def test_a_name_that_timm_does_not_know_is_refused(tiny_config: HydraConfig) -> None:
    with pytest.raises(BadInput, match="timm's deit_huge cannot be loaded"):
        initial.source(config(tiny_config, start="timm:deit_huge"))


def test_a_checkpoint_without_a_start_is_none(tiny_config: HydraConfig) -> None:
    assert initial.source(config(tiny_config)) is None
