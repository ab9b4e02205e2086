"""Checkpoints in and out, and everything that must not be taken for one."""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock, VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor

from hydra_export import checkpoint, checkpoint_file
from hydra_export.architecture import HydraConfig
from hydra_export.checkpoint_file import CheckpointInfo
from hydra_export.errors import BadCheckpoint, BadInput, ParityFailed
from hydra_export.model import HydraViT
from hydra_export.preprocess import IMAGENET_MEAN, Preprocessing
from hydra_export.reference import held_to_module

PLAIN: dict[str, Any] = {"img_size": 16, "patch_size": 4, "num_classes": 5, "embed_dim": 24, "depth": 2, "num_heads": 3}


def refused(path: Path, said: str = "", **arguments: Any) -> BadCheckpoint:
    """The error of loading *path*, which must say *said*, name the file and ask for exit status 2."""
    with pytest.raises(BadCheckpoint) as caught:
        checkpoint.load(path, **arguments)
    error = caught.value
    assert said in str(error)
    assert path.name in error.message
    assert error.remedy
    assert error.exit_status == 2
    assert "\n" not in str(error)
    return error


def parts(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description of one of our checkpoints, to be spoilt and written again."""
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        return tensors, json.loads(file.metadata()["hydra_export"])


def rewritten(path: Path, tensors: dict[str, Tensor], description: dict[str, Any] | str) -> Path:
    text = description if isinstance(description, str) else json.dumps(description)
    safetensors.torch.save_file(tensors, path, {"hydra_export": text})
    return path


def plain_state(**changes: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return VisionTransformer(**{**PLAIN, **changes}).state_dict()


# --- our format


def test_our_checkpoint_makes_the_round_trip(tiny_checkpoint: Path, tiny_model: HydraViT) -> None:
    loaded = checkpoint.load(tiny_checkpoint)
    assert loaded.info.trained_heads == (1, 2, 4)
    assert loaded.info.accuracy == {1: 50.0, 2: 60.5, 4: 70.25}
    assert loaded.info.labels[6] == "gnu"
    assert loaded.info.preprocessing.mean == (0.4, 0.5, 0.6)
    assert loaded.info.training == {"seed": 0}
    assert loaded.model.config == tiny_model.config
    assert not loaded.model.training
    assert loaded.notes == ()
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name


def test_everything_survives_with_layer_scale_and_separate_classifiers(tmp_path: Path, scaled_model: HydraViT) -> None:
    grey = Preprocessing(image_size=16, mean=(0.5,), std=(0.25,))
    info = CheckpointInfo(name="scaled", config=scaled_model.config, preprocessing=grey)
    checkpoint_file.write(tmp_path / "m.safetensors", scaled_model.state_dict(), info)
    loaded, image = checkpoint.load(tmp_path / "m.safetensors"), torch.randn(2, 1, 16, 16)
    assert loaded.info == info
    for k in (2, 4):
        assert torch.equal(loaded.model(image, k), scaled_model(image, k))


def test_half_precision_storage_is_read_as_float32(tmp_path: Path, tiny_checkpoint: Path, tiny_model: HydraViT) -> None:
    path = tmp_path / "half.safetensors"
    checkpoint_file.write(path, tiny_model.state_dict(), checkpoint.load(tiny_checkpoint).info, torch.float16)
    assert path.stat().st_size < 0.65 * tiny_checkpoint.stat().st_size
    for name, tensor in checkpoint.load(path).model.state_dict().items():
        assert torch.equal(tensor, tiny_model.state_dict()[name].half().float()), name


def test_saving_again_gives_the_same_bytes(tiny_checkpoint: Path, tiny_model: HydraViT) -> None:
    before, info = tiny_checkpoint.read_bytes(), checkpoint.load(tiny_checkpoint).info
    for _ in range(5):
        checkpoint_file.write(tiny_checkpoint, tiny_model.state_dict(), info)
        assert tiny_checkpoint.read_bytes() == before


def test_a_folder_is_read_by_its_model_file(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "hub").mkdir()
    target = tiny_checkpoint.rename(tmp_path / "hub" / "model.safetensors")
    loaded = checkpoint.load(tmp_path / "hub")
    assert loaded.path == target
    assert loaded.info.name == "tiny"


def test_the_files_mode_follows_the_umask(tmp_path: Path, tiny_checkpoint: Path, tiny_model: HydraViT) -> None:
    info, before = checkpoint.load(tiny_checkpoint).info, os.umask(0o027)
    try:
        checkpoint_file.write(tmp_path / "mode.safetensors", tiny_model.state_dict(), info)
    finally:
        os.umask(before)
    assert (tmp_path / "mode.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_failed_save_leaves_the_old_checkpoint(
    tiny_checkpoint: Path, tiny_model: HydraViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, info = tiny_checkpoint.read_bytes(), checkpoint.load(tiny_checkpoint).info

    def fail(*_: object) -> bytes:
        raise RuntimeError("cut")

    monkeypatch.setattr(safetensors.torch, "save", fail)
    with pytest.raises(RuntimeError, match="cut"):
        checkpoint_file.write(tiny_checkpoint, tiny_model.state_dict(), info)
    assert tiny_checkpoint.read_bytes() == before
    assert [path.name for path in tiny_checkpoint.parent.iterdir()] == [tiny_checkpoint.name]


def test_preprocessing_given_by_the_caller_wins(tmp_path: Path, tiny_checkpoint: Path) -> None:
    assert checkpoint.load(tiny_checkpoint, preprocessing="inception").info.preprocessing.mean == (0.5, 0.5, 0.5)
    other = tmp_path / "other.json"
    other.write_text('{"image_size": 16, "mean": [0, 0, 0], "std": [1, 1, 1]}')
    assert checkpoint.load(tiny_checkpoint, preprocessing=str(other)).info.preprocessing.std == (1.0, 1.0, 1.0)
    other.write_text('{"image_size": 32, "mean": [0.5], "std": [0.5]}')
    refused(tiny_checkpoint, "preprocessing makes 1x32x32 images", preprocessing=str(other))


# --- plain timm ViTs and official HydraViT files


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("changes", [{}, {"init_values": 0.1}, {"mlp_ratio": 2.0, "img_size": 24}, {"num_classes": 0}])
def test_a_plain_timm_state_dict_is_a_universal_model(tmp_path: Path, ending: str, changes: dict[str, Any]) -> None:
    path, state = tmp_path / f"deit_tiny.{ending}", plain_state(**changes)
    (safetensors.torch.save_file if ending == "safetensors" else torch.save)(state, path)
    loaded = checkpoint.load(path, head_dim=8)
    config = loaded.model.config
    assert (config.heads, config.head_dim, config.depth, config.patch_size) == (3, 8, 2, 4)
    assert (config.image_size, config.num_classes) == (changes.get("img_size", 16), changes.get("num_classes", 5))
    assert loaded.info.name == "deit_tiny"
    assert loaded.info.trained_heads == checkpoint.default_heads(loaded.info) == (3,), "the slices are nobody's work"
    assert loaded.info.preprocessing.mean == IMAGENET_MEAN
    assert loaded.info.assumed[-1].startswith("preprocessing: ImageNet mean and std")
    assert "ImageNet mean and std" in loaded.notes[-1]
    plain = VisionTransformer(**{**PLAIN, **changes}).eval()
    plain.load_state_dict(state)
    image = torch.randn(2, 3, *config.image_shape)
    torch.testing.assert_close(loaded.model(image), plain(image))


def test_deit_tinys_shapes_need_no_head_dim(tmp_path: Path) -> None:
    safetensors.torch.save_file(plain_state(embed_dim=192), tmp_path / "deit.safetensors")
    assert checkpoint.load(tmp_path / "deit.safetensors").model.config.heads == 3


@pytest.mark.parametrize("head_dim", [0, -8, 7, 64])
def test_a_head_dim_that_does_not_divide_the_width_is_refused(tmp_path: Path, head_dim: int) -> None:
    safetensors.torch.save_file(plain_state(), tmp_path / "m.safetensors")
    assert "`head_dim`" in refused(tmp_path / "m.safetensors", f"head_dim {head_dim}", head_dim=head_dim).remedy


def official(tmp_path: Path, **changes: Any) -> tuple[Path, dict[str, Tensor], dict[str, Tensor]]:
    raw = {f"module.{name}": tensor for name, tensor in plain_state().items()}
    ema = {f"module.{name}": tensor + 1 for name, tensor in plain_state().items()}
    content = {"epoch": 3, "arch": "hydravit", "state_dict": raw, "state_dict_ema": ema, "metric": 1.5, **changes}
    content["args"] = argparse.Namespace(lr=1e-3, weights=[10, 90])  # as timm's trainer saves it
    torch.save(content, tmp_path / "model_best.pth.tar")
    return tmp_path / "model_best.pth.tar", raw, ema


def test_an_official_checkpoint_gives_its_ema_weights_and_says_so(tmp_path: Path) -> None:
    path, _, ema = official(tmp_path)
    loaded = checkpoint.load(path, head_dim=8)
    assert torch.equal(loaded.model.state_dict()["norm.weight"], ema["module.norm.weight"])
    assert "state_dict_ema was used" in loaded.notes[0]
    assert loaded.info.name == "model_best"
    assert loaded.info.trained_heads == (), "it does not say"


@pytest.mark.parametrize("empty", [None, {}])
def test_an_official_checkpoint_without_ema_gives_its_plain_weights(tmp_path: Path, empty: object) -> None:
    path, raw, _ = official(tmp_path, state_dict_ema=empty)
    loaded = checkpoint.load(path, head_dim=8)
    assert torch.equal(loaded.model.state_dict()["norm.weight"], raw["module.norm.weight"])
    assert not [note for note in loaded.notes if "was used" in note]


def test_the_old_pickle_format_is_read_too(tmp_path: Path) -> None:
    torch.save({"model": plain_state()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert checkpoint.load(tmp_path / "old.pth", head_dim=8).model.config.heads == 3


# --- what is refused, by name


def _relative() -> torch.nn.Module:
    return VisionTransformerRelPos(16, 4, num_classes=5, embed_dim=24, depth=1, num_heads=3)


def _mixed() -> torch.nn.Module:
    rope: dict[str, Any] = {"use_rot_pos_emb": True, "rope_type": "mixed", "use_abs_pos_emb": False}
    return Eva(16, 4, num_classes=5, embed_dim=24, depth=1, num_heads=3, **rope)


REFUSED: dict[str, tuple[Callable[[], torch.nn.Module], str]] = {
    "parallel blocks": (lambda: VisionTransformer(**PLAIN, block_fn=ParallelScalingBlock), "parallel"),
    "several attentions": (lambda: VisionTransformer(**PLAIN, block_fn=ParallelThingsBlock), "several attentions"),
    "differential attention": (lambda: VisionTransformer(**PLAIN, attn_layer="diff"), "differential attention"),
    "a norm of patches": (lambda: VisionTransformer(**PLAIN, embed_norm_layer="layernorm"), "a norm inside the patch"),
    "relative positions": (_relative, "relative positions"),
    "rotary positions that are learned": (_mixed, "rotary positions that are learned"),
    "no positions": (lambda: VisionTransformer(**PLAIN, pos_embed="none"), "pos_embed"),
    "no square": (lambda: VisionTransformer(**{**PLAIN, "img_size": (16, 40)}), "not a square"),
    "no ViT": (lambda: torch.nn.Linear(3, 4), "patch_embed.proj.weight"),
}


@pytest.mark.parametrize("variant", REFUSED)
def test_another_kind_of_vit_is_refused_by_name(tmp_path: Path, variant: str) -> None:
    make, said = REFUSED[variant]
    safetensors.torch.save_file(make().state_dict(), tmp_path / "variant.safetensors")
    refused(tmp_path / "variant.safetensors", said, head_dim=8)


def test_a_grey_plain_vit_needs_its_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(plain_state(in_chans=1), path)
    refused(path, "preprocessed", head_dim=8)
    grey = tmp_path / "grey.json"
    grey.write_text('{"image_size": 16, "mean": [0.25], "std": [0.5]}')
    loaded = checkpoint.load(path, head_dim=8, preprocessing=str(grey))
    assert loaded.info.preprocessing.mean == (0.25,)
    assert not any(line.startswith("preprocessing") for line in loaded.info.assumed)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("patch_embed.proj.weight", (24, 3)),
        ("patch_embed.proj.weight", (0, 3, 4, 4)),
        ("patch_embed.proj.weight", (24, 3, 4, 2)),
        ("pos_embed", (17, 24)),
        ("pos_embed", (1, 0, 24)),
        ("pos_embed", (1, 3, 24)),
        ("pos_embed", (1, 17, 48)),
        ("cls_token", (24,)),
        ("blocks.0.mlp.fc1.bias", ()),
        ("blocks.0.mlp.fc1.bias", (0,)),
        ("blocks.0.mlp.fc1.weight", ()),
        ("blocks.1.attn.qkv.weight", (24, 24)),
        ("head.weight", ()),
        ("head.weight", (5,)),
        ("head.bias", (6,)),
        ("norm.weight", ()),
        ("blocks.7.norm1.weight", (24,)),
        ("blocks.999.norm1.weight", (24,)),
        ("something.else", (1,)),
    ],
)
def test_a_tensor_of_another_shape_or_name_is_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(plain_state() | {name: torch.ones(shape)}, path)
    refused(path, head_dim=8)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "There is no checkpoint")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"There is no checkpoint at .*model\.safetensors"):
        checkpoint.load(tmp_path)


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 300), "cannot be read")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"x", "not a readable safetensors file"),
        (b"<!DOCTYPE html>" * 100, "not a readable safetensors file"),
        (b"\xff" * 100, "not a readable safetensors file"),
        (struct.pack("<Q", 2**62) + b"{}", "not a readable safetensors file"),
        (struct.pack("<Q", 2) + b"{}", "patch_embed.proj.weight"),
        (b"PK\x03\x04" + b"\0" * 100, "cannot be read"),
        (b"PK", ""),
        (b"\x80\x02", ""),
        (b"\x80\x02" + b"garbage" * 20, ""),
        (b"\x80\x05.", ""),
    ],
)
def test_garbage_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "garbage.pth").write_bytes(content)
    refused(tmp_path / "garbage.pth", said)


class _RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "inside", "EMA"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run_it(tmp_path: Path, form: str) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    evil: Any = _RunsCode(marker)
    if form == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif form == "inside":
        torch.save({**plain_state(), "extra": evil}, path)
    elif form == "EMA":
        torch.save({"state_dict": plain_state(), "args": evil}, path)
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=form == "zip")
    refused(path)
    assert not marker.exists()
    if form == "pickle":  # the attack is a real one
        pickle.loads(path.read_bytes())
        assert marker.exists()


@pytest.mark.parametrize(
    "content", [[1, 2], "text", 7, None, torch.ones(3), {}, {"a": 1}, {1: torch.ones(1)}, {"model": 3}]
)
def test_a_pickle_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "m.pth")
    refused(tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda tensor: tensor.fill_(float("nan")), "NaN"),
        (lambda tensor: tensor.index_fill_(0, torch.tensor([1]), float("inf")), "NaN or infinite"),
        (lambda tensor: tensor.double() * 1e300, "NaN or infinite"),
        (lambda tensor: tensor.int(), "torch.int32"),
        (lambda tensor: tensor > 0, "torch.bool"),
        (lambda tensor: tensor.to(torch.float8_e4m3fn), "torch.float8"),
        (lambda tensor: tensor.to(torch.complex64), "torch.complex64"),
    ],
)
def test_tensors_that_are_not_finite_floats_are_refused_by_name(
    tiny_checkpoint: Path, spoil: Callable[[Tensor], Tensor], said: str
) -> None:
    tensors, description = parts(tiny_checkpoint)
    tensors["blocks.1.norm2.weight"] = spoil(tensors["blocks.1.norm2.weight"])
    error = refused(rewritten(tiny_checkpoint, tensors, description), said)
    assert "blocks.1.norm2.weight" in error.message


@pytest.mark.parametrize("form", ["sparse", "meta"])
def test_tensors_that_are_not_plain_are_refused(tmp_path: Path, form: str) -> None:
    state = plain_state()
    state["norm.weight"] = state["norm.weight"].to_sparse() if form == "sparse" else state["norm.weight"].to("meta")
    torch.save(state, tmp_path / "m.pth")
    refused(tmp_path / "m.pth", head_dim=8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"schema_version": "1"}, "not valid"),
        ({"labels": ["a", "b"]}, "2 labels for 7 classes"),
        ({"trained_heads": [0, 1]}, "trained_heads"),
        ({"trained_heads": [2, 1]}, "trained_heads"),
        ({"trained_heads": [1, 1]}, "trained_heads"),
        ({"export_heads": [5]}, "export_heads"),
        ({"config": None}, "not valid"),
        ({"unknown": 1}, "not valid"),
        ({"name": 3}, "not valid"),
        ({"accuracy": {"x": 1}}, "not valid"),
        ({"config.heads": 2}, "trained_heads"),
        ({"config.heads": 2, "trained_heads": [], "export_heads": []}, "the configuration requires"),
        ({"config.heads": 0}, "heads is 0"),
        ({"config.heads": 10**30}, "Use 1 to 256"),
        ({"config.depth": 3}, "blocks.2"),
        ({"config.depth": 1}, "blocks.1"),
        ({"config.num_classes": 8, "labels": []}, "head.weight"),
        ({"config.layer_scale": 0.1}, "ls1.gamma"),
        ({"config.separate_classifiers": [2]}, "head.k2"),
        ({"config.mlp_ratio": 2.0}, "fc1"),
        ({"config.image_size": 32}, "preprocessing makes"),
        ({"config.channels": 1}, "preprocessing makes"),
        ({"config.surprise": 1}, "not valid"),
        ({"preprocessing.mean": [0.5]}, "means"),
        ({"preprocessing.std": [0.0, 1.0, 1.0]}, "std"),
        ({"preprocessing.crop": 0}, "crop"),
        ({"preprocessing.interpolation": "magic"}, "not valid"),
    ],
)
def test_a_description_that_contradicts_itself_or_the_tensors_is_refused(
    tiny_checkpoint: Path, change: dict[str, Any], said: str
) -> None:
    tensors, description = parts(tiny_checkpoint)
    for name, value in change.items():
        *outer, last = name.split(".")
        (description[outer[0]] if outer else description)[last] = value
    refused(rewritten(tiny_checkpoint, tensors, description), said)


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", "nonsense", '{"name": "x"}', "[" * 100_000, '{"training":' * 50_000]
)
def test_a_description_that_is_no_json_of_ours_is_refused(tiny_checkpoint: Path, text: str) -> None:
    tensors, _ = parts(tiny_checkpoint)
    refused(rewritten(tiny_checkpoint, tensors, text), "description is not valid")


def test_a_missing_tensor_is_refused_by_name(tiny_checkpoint: Path) -> None:
    tensors, description = parts(tiny_checkpoint)
    del tensors["blocks.1.attn.proj.bias"]
    refused(rewritten(tiny_checkpoint, tensors, description), "blocks.1.attn.proj.bias is missing")


# --- damage: only BadCheckpoint, whatever happened to the file


def _loads_or_is_refused(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        checkpoint.load(path, head_dim=8)
    except BadCheckpoint:
        return False
    return True


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_a_file_truncated_anywhere_is_refused(tmp_path: Path, tiny_checkpoint: Path, form: str) -> None:
    path = tmp_path / "whole"
    if form == "safetensors":
        path = tiny_checkpoint
    else:
        torch.save(plain_state(), path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    lengths = [*range(100), *random.Random(0).sample(range(100, len(whole)), 100)]
    assert not any(_loads_or_is_refused(tmp_path / "cut", whole[:length]) for length in lengths)
    assert _loads_or_is_refused(tmp_path / "cut", whole)


@pytest.mark.slow
def test_any_byte_of_the_header_may_be_wrong(tmp_path: Path, tiny_checkpoint: Path) -> None:
    whole, chance = tiny_checkpoint.read_bytes(), random.Random(0)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    loaded = 0
    for _ in range(2_000):
        content = bytearray(whole)
        content[chance.randrange(header)] = chance.randrange(256)
        loaded += _loads_or_is_refused(tmp_path / "flipped", bytes(content))
    assert 0 < loaded < 1_000  # a letter of a label may change; a shape, name or offset may not


@pytest.mark.parametrize("zipped", [True, False])
def test_any_byte_of_a_pickle_may_be_wrong(tmp_path: Path, zipped: bool) -> None:
    torch.save(plain_state(), tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    whole, chance = (tmp_path / "m.pth").read_bytes(), random.Random(0)
    for _ in range(300):
        content = bytearray(whole)
        content[chance.randrange(min(3_000, len(content)))] = chance.randrange(256)
        _loads_or_is_refused(tmp_path / "flipped", bytes(content))


# --- which head counts


def info(**changes: Any) -> CheckpointInfo:
    rgb = Preprocessing(image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    config = HydraConfig(heads=12, patch_size=4, image_size=16)
    return msgspec.structs.replace(CheckpointInfo(name="m", config=config, preprocessing=rgb), **changes)


def test_trained_head_counts_are_taken_without_a_word() -> None:
    assert checkpoint.check_trained(info(trained_heads=(3, 6, 12)), (3, 12), allow_untrained=False) == ""


def test_untrained_head_counts_are_refused_with_the_trained_ones() -> None:
    with pytest.raises(BadInput, match=r"Head counts 4,5 of m were not trained.*3,6,12.*`allow_untrained`") as caught:
        checkpoint.check_trained(info(trained_heads=(3, 6, 12)), (3, 4, 5), allow_untrained=False)
    assert caught.value.exit_status == 2


def test_untrained_head_counts_give_a_warning_where_allowed() -> None:
    assert "4 of m were not trained" in checkpoint.check_trained(info(trained_heads=(3, 6)), (3, 4), True)


def test_slices_of_a_plain_vit_give_a_warning_and_are_not_refused() -> None:
    plain = info(trained_heads=(12,))
    assert checkpoint.check_trained(plain, (12,), allow_untrained=False) == ""
    said = checkpoint.check_trained(plain, (3, 6, 12), allow_untrained=False)
    assert "m is a plain ViT, of which only the full width, 12 heads, is known to be trained: k = 3,6 " in said
    assert said == checkpoint.untrained(plain, (3, 6))


def test_a_checkpoint_that_lists_no_trained_head_counts_gives_a_warning() -> None:
    assert "does not state which head counts were trained" in checkpoint.check_trained(info(), (1, 2), False)


def test_default_head_counts_are_those_to_export_else_the_trained_else_all() -> None:
    assert checkpoint.default_heads(info(trained_heads=(1, 2, 3), export_heads=(1, 3))) == (1, 3)
    assert checkpoint.default_heads(info(trained_heads=(1, 2))) == (1, 2)
    assert checkpoint.default_heads(info()) == tuple(range(1, 13))


def test_other_preprocessing_leaves_out_the_accuracy(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert checkpoint.load(tiny_checkpoint).info.accuracy
    loaded = checkpoint.load(tiny_checkpoint, preprocessing="inception")
    assert loaded.info.preprocessing.mean == (0.5, 0.5, 0.5)
    assert not loaded.info.accuracy
    assert "left out" in loaded.notes[0]


def test_a_refused_pickle_names_what_it_holds(tmp_path: Path) -> None:
    torch.save({"state_dict": plain_state(), "path": Path("x")}, tmp_path / "x.pth")
    with pytest.raises(BadCheckpoint, match=r"pathlib\S+, not only tensors"):
        checkpoint.load(tmp_path / "x.pth")


def test_a_timm_module_in_memory_is_a_checkpoint_and_stays_as_it_is() -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64, depth=2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    loaded = checkpoint.load(module)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert (loaded.info.name, loaded.info.config.image_size) == ("vit_tiny_patch16_224", 64)
    assert [line.partition(":")[0] for line in loaded.info.assumed] == ["preprocessing"]
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(loaded.model(image), module.eval()(image), atol=1e-5)


def test_a_module_of_another_kind_in_memory_is_refused_by_what_it_has() -> None:
    module = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=1, act_layer="hard_swish")
    with pytest.raises(BadCheckpoint, match="the activation Hardswish"):
        checkpoint.load(module)


def test_a_module_is_held_to_what_it_computes_itself() -> None:
    torch.manual_seed(0)
    module = VisionTransformer(img_size=32, patch_size=8, embed_dim=96, depth=2, num_heads=3, num_classes=4)
    held = held_to_module(checkpoint.load(module), module)
    assert held.info.config.heads == 3
    module = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    with pytest.raises(ParityFailed, match="does not reproduce the VisionTransformer"):
        held_to_module(held, module)


def test_a_universal_model_in_memory_is_a_checkpoint(tiny_model: HydraViT) -> None:
    loaded = checkpoint.load(tiny_model)
    assert "ImageNet mean and std" in loaded.notes[0]
    assert torch.equal(loaded.model.state_dict()["pos_embed"], tiny_model.state_dict()["pos_embed"])
    assert checkpoint.load(checkpoint.load(None).model).info == checkpoint.load(None).info
