"""Checkpoints in and out: ours (safetensors and a JSON description), timm's ViTs, official HydraViT ones."""

from __future__ import annotations

import argparse
import math
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hydra_export import files
from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadCheckpoint, BadInput
from hydra_export.model import HydraViT
from hydra_export.preprocess import Preprocessing, imagenet, named

_METADATA_KEY = "hydra_export"
_LARGEST_PICKLE_BYTES = 16 * 2**30
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")

# Variants of the ViT that no subnetwork of ours is, by the parameters that give them away.
_REFUSED = {
    "dist_token": "a distillation token",
    "head_dist": "a distillation token",
    "reg_token": "register tokens",
    "q_norm": "qk-norm",
    "k_norm": "qk-norm",
    "fc_norm": "average pooling (fc_norm)",
    "norm_pre": "a norm before the blocks (CLIP)",
    "attn_pool": "attention pooling",
    "rope": "rotary positions",
    "rel_pos": "relative positions",
    "relative_position": "relative positions",
    "gamma_1": "BEiT's blocks",
    "q_bias": "BEiT's blocks",
    "w12": "a gated MLP (SwiGLU)",
    "fc1_g": "a gated MLP (SwiGLU)",
    "attn.norm": "a norm inside attention",
    "attn.gate": "gated attention",
    "mlp.norm": "a norm inside the MLP",
    "patch_embed.backbone": "a convolutional stem",
    "patch_embed.norm": "a norm inside the patch embedding",
}


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint says of itself, kept as JSON in the safetensors metadata.

    Attributes:
        trained_heads: head counts that were trained; empty where unknown.
        export_heads: head counts that an export takes by default; empty for the trained ones.
        labels: one name per class, in the order of the logits; empty where unknown.
        accuracy: top-1 in percent per head count, on *accuracy_data*.
        training: how it was made (recipe, command, seed, seconds, versions).
    """

    name: str
    config: HydraConfig
    preprocessing: Preprocessing
    schema_version: int = 1
    trained_heads: tuple[int, ...] = ()
    export_heads: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    accuracy: dict[int, float] = {}
    accuracy_data: str = ""
    license: str = ""
    training: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.schema_version != 1:
            raise BadInput(
                f"The checkpoint has schema version {self.schema_version}; this release reads 1.",
                "Upgrade hydra-export.",
            )
        config = self.config
        for field in ("trained_heads", "export_heads"):
            heads = getattr(self, field)
            if list(heads) != sorted({k for k in heads if 1 <= k <= config.heads}):
                raise BadInput(
                    f"The checkpoint's {field} are {list(heads)}.", f"They must ascend within 1..{config.heads}."
                )
        if self.labels and len(self.labels) != config.num_classes:
            raise BadInput(
                f"The checkpoint has {len(self.labels)} labels for {config.num_classes} classes.", "Give one per class."
            )
        data = self.preprocessing
        if (data.image_size, data.channels) != (config.image_size, config.channels):
            raise BadInput(
                f"The checkpoint's preprocessing makes {data.channels}x{data.image_size}x{data.image_size} images, "
                f"its model takes {config.channels}x{config.image_size}x{config.image_size}.",
                "Make them agree.",
            )


@dataclass(frozen=True)
class Checkpoint:
    """A loaded universal model and what is known of it.

    Attributes:
        model: in eval mode; its float32 weights may be mapped from the file, so clone before training in place.
        sha256: of the file.
        notes: what was assumed or chosen while reading, for the user to see.
    """

    model: HydraViT
    info: CheckpointInfo
    path: Path
    sha256: str
    notes: tuple[str, ...] = ()


def packaged_path() -> Path:
    """The trained model that comes with the package (see its model card beside it)."""
    return Path(str(resources.files("hydra_export") / "data" / "hydravit-fashion-mnist.safetensors"))


def load(path: Path | str | None = None, *, head_dim: int = 64, preprocessing: str | None = None) -> Checkpoint:
    """Reads a checkpoint: ours, a plain timm ViT/DeiT state dict, or an official HydraViT ``.pth.tar``.

    Args:
        path: a file, or a folder that holds ``model.safetensors``; None for the packaged model.
        head_dim: channels per head, where the file does not say.
        preprocessing: ``imagenet``, ``inception`` or a JSON file; overrides, or supplies, what the file says.

    Raises:
        BadCheckpoint: missing, damaged, unsafe, contradicting itself, or a ViT variant that is not supported.
    """
    path = packaged_path() if path is None else Path(path)
    try:
        if path.is_dir():
            path = path / "model.safetensors"
        if not path.is_file():
            raise BadCheckpoint(f"There is no checkpoint at {path}.", "Give the path of a .safetensors or .pth file.")
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise BadCheckpoint(f"Checkpoint {path} cannot be read: {error.strerror}.", "Give another path.") from error
    if not start:
        raise BadCheckpoint(f"Checkpoint {path} is empty.", "Copy or train it again.")
    notes: list[str] = []
    if start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        description, state = "", _state_dict(_unpickled(path, zipped=start == b"PK"), path, notes)
    else:
        description, state = _read_safetensors(path)
    try:
        state = _as_float32(state)
        info = _decoded(description) if description else _described(state, path, head_dim, preprocessing, notes)
        if description and preprocessing is not None:
            info = _with_preprocessing(info, named(preprocessing, info.config.image_size), notes)
        model = _built(info.config, state)
        model.info = info
    except BadInput as error:
        raise BadCheckpoint(f"Checkpoint {path}: {error.message}", error.remedy) from error
    return Checkpoint(model, info, path, files.sha256(path), tuple(notes))


def from_state(state: Mapping[str, Tensor], name: str, *, head_dim: int = 64) -> Checkpoint:
    """A checkpoint from the state dict of a plain ViT that is in memory already, called *name*.

    Raises:
        BadCheckpoint: a ViT variant that is not supported.
    """
    notes: list[str] = []
    try:
        plain = _as_float32(dict(state))
        info = _described(plain, Path(name), head_dim, None, notes)
        return Checkpoint(_built(info.config, plain), info, Path(name), "", tuple(notes))
    except BadInput as error:
        raise BadCheckpoint(f"Model {name}: {error.message}", error.remedy) from error


def save(path: Path, state: Mapping[str, Tensor], info: CheckpointInfo, dtype: torch.dtype = torch.float32) -> None:
    """Writes our format, atomically: a kill leaves the old file or the new one."""
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    description = msgspec.to_builtins(info, str_keys=True)  # JSON's keys are strings, head counts are not
    # One entry alone: safetensors writes several in random order, and equal models should have equal hashes.
    metadata = {_METADATA_KEY: msgspec.json.encode(description, order="sorted").decode()}
    with files.replaced_file(path) as partial:
        partial.write_bytes(safetensors.torch.save(tensors, metadata))


def save_pretrained(model: HydraViT, folder: Path) -> None:
    """Writes *model* and what it says of itself to *folder*, as the Hub and ``load`` expect it.

    Raises:
        BadInput: a grey model that does not say how its images are normalised.
    """
    info: CheckpointInfo | None = model.info
    if info is None or info.config != model.config:
        if model.config.channels != 3:
            raise BadInput("The model does not say how its images are normalised.", "Set model.info first.")
        info = CheckpointInfo(name=folder.name, config=model.config, preprocessing=imagenet(model.config.image_size))
    save(folder / "model.safetensors", model.state_dict(), info)
    # The Hub counts downloads by this file, and shows it.
    with files.replaced_file(folder / "config.json") as partial:
        partial.write_text('{"architecture": "hydravit", "library_name": "hydra-export"}\n', encoding="utf-8")


def _with_preprocessing(info: CheckpointInfo, chosen: Preprocessing, notes: list[str]) -> CheckpointInfo:
    if chosen == info.preprocessing:
        return info
    if info.accuracy:
        notes.append(f"The accuracy of {info.name} was measured with other preprocessing and is left out.")
    return msgspec.structs.replace(info, preprocessing=chosen, accuracy={}, accuracy_data="")


def with_labels(checkpoint: Checkpoint, labels: tuple[str, ...]) -> Checkpoint:
    """*checkpoint* with class names, one per class in the order of the logits."""
    num_classes = checkpoint.info.config.num_classes
    if len(labels) != num_classes:
        raise BadInput(
            f"--labels has {len(labels)} names, {checkpoint.info.name} has {num_classes} classes.",
            "Give one name per line, in the order of the logits.",
        )
    return replace(checkpoint, info=msgspec.structs.replace(checkpoint.info, labels=labels))


def check_trained(info: CheckpointInfo, heads: Sequence[int], allow_untrained: bool) -> str:
    """The warning to show for exporting *heads*, or nothing; refuses head counts that were not trained."""
    if not info.trained_heads:
        return f"{info.name} does not say which head counts were trained; check their accuracy yourself."
    untrained = [k for k in heads if k not in info.trained_heads]
    if not untrained:
        return ""
    given, trained = (",".join(map(str, numbers)) for numbers in (untrained, info.trained_heads))
    if not allow_untrained:
        raise BadInput(
            f"Head counts {given} of {info.name} were not trained.",
            f"Trained: {trained}. Choose among these, or give --allow-untrained.",
        )
    return f"Head counts {given} of {info.name} were not trained; expect their accuracy to be useless."


def default_heads(info: CheckpointInfo) -> tuple[int, ...]:
    """The head counts that a command takes when none are given."""
    return info.export_heads or info.trained_heads or tuple(range(1, info.config.heads + 1))


def _read_safetensors(path: Path) -> tuple[str, dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise BadCheckpoint(
            f"Checkpoint {path} is not a readable safetensors file: {error}.", "Copy or download it again."
        ) from error
    return metadata.get(_METADATA_KEY, ""), state


def _unpickled(path: Path, zipped: bool) -> Any:
    size = path.stat().st_size
    if size > _LARGEST_PICKLE_BYTES:
        raise BadCheckpoint(f"Checkpoint {path} has {size} bytes.", "Convert it to safetensors first.")
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # about pickle protocols: no concern of the user's
            torch.serialization.safe_globals([argparse.Namespace]),  # timm's trainer stores its arguments so
        ):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds {found[1]}, more than tensors" if found else "holds more than tensors, or is damaged"
        raise BadCheckpoint(
            f"Checkpoint {path} {what}; it was not read, as that could run its code.",
            "Save its state dict alone, best as safetensors.",
        ) from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadCheckpoint(f"Checkpoint {path} cannot be read: {reason}.", "Copy or download it again.") from error


def _state_dict(content: Any, path: Path, notes: list[str]) -> dict[str, Tensor]:
    found = [name for name in _CONTAINERS if isinstance(content, Mapping) and _is_filled(content.get(name))]
    if found:
        content = content[found[0]]
        if len(found) > 1:
            notes.append(f"{path.name} holds {' and '.join(found)}; {found[0]} was used.")
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise BadCheckpoint(f"Checkpoint {path} holds no state dict.", "Save model.state_dict().")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _is_filled(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _as_float32(state: dict[str, Tensor]) -> dict[str, Tensor]:
    converted = {}
    for name, tensor in state.items():
        if tensor.dtype not in _FLOATS or tensor.layout != torch.strided or tensor.device.type != "cpu":
            kind = f"type {tensor.dtype}, {tensor.layout} on {tensor.device.type}"
            raise BadInput(f"tensor {name} has {kind}.", "Give plain tensors of float16, bfloat16, float32 or float64.")
        converted[name] = tensor.float()
        if not converted[name].isfinite().all():
            raise BadInput(f"tensor {name} has NaN or infinite values.", "Use an earlier checkpoint of that training.")
    return converted


def _decoded(description: str) -> CheckpointInfo:
    try:
        return msgspec.json.decode(description, type=CheckpointInfo)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(
            f"its description is not valid: {error}.", "Write it again with hydra_export.save_checkpoint."
        ) from error


def _built(config: HydraConfig, state: dict[str, Tensor]) -> HydraViT:
    model = HydraViT(config, weight_init="skip", device="meta")
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in wanted.items():
        if name not in state:
            raise BadInput(
                f"tensor {name} is missing; the configuration asks for it.", "Use the matching configuration."
            )
        if tuple(state[name].shape) != shape:
            raise BadInput(
                f"tensor {name} has shape {list(state[name].shape)}, the configuration asks for {list(shape)}.",
                "Use the matching configuration.",
            )
    if unknown := sorted(state.keys() - wanted.keys()):
        raise BadInput(f"tensor {unknown[0]} belongs to no supported ViT.", "Export the plain ViT without it.")
    model.load_state_dict(state, assign=True)
    return model.eval()


def _described(
    state: dict[str, Tensor], path: Path, head_dim: int, preprocessing: str | None, notes: list[str]
) -> CheckpointInfo:
    config = _config_of(state, head_dim)
    if preprocessing is not None:
        chosen = named(preprocessing, config.image_size)
    elif config.channels != 3:
        raise BadInput("it does not say how its images are preprocessed.", "Give --preprocessing.")
    else:
        chosen = imagenet(config.image_size)
        notes.append(
            f"{path.name} does not say how its images are preprocessed: ImageNet mean and std, bicubic, crop 0.9 are "
            "assumed (as DeiT). Override with --preprocessing."
        )
    name = re.sub(r"\.(pth|tar|safetensors|pt|bin|ckpt)", "", path.name)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
    return CheckpointInfo(name=name, config=config, preprocessing=chosen)


def _config_of(state: dict[str, Tensor], head_dim: int) -> HydraConfig:
    """The architecture that the shapes give; *head_dim* is the one thing that they do not."""
    for name in state:
        for mark, variant in _REFUSED.items():
            if mark in name:
                raise BadInput(f"this ViT has {variant} ({name}).", "Only plain ViTs with a class token are supported.")
    for name, feature in (
        ("patch_embed.proj.weight", "a patch embedding"),
        ("patch_embed.proj.bias", "a bias in the patch embedding"),
        ("cls_token", "a class token"),
        ("pos_embed", "learned absolute positions"),
        ("blocks.0.attn.qkv.weight", "transformer blocks with packed qkv"),
        ("blocks.0.attn.qkv.bias", "a qkv bias"),
        ("blocks.0.mlp.fc1.bias", "an MLP"),
        ("norm.weight", "a final norm"),
    ):
        if name not in state:
            raise BadInput(f"this model has no tensor {name}.", f"Only plain ViTs with {feature} are supported.")
    patch, positions = state["patch_embed.proj.weight"], state["pos_embed"]
    if patch.ndim != 4 or patch.shape[2] != patch.shape[3] or not patch.numel() or positions.ndim != 3:
        raise BadInput(
            f"patch embedding {list(patch.shape)} and positions {list(positions.shape)} are not a square ViT's.",
            "Only square patches and images are supported.",
        )
    width, num_patches = int(patch.shape[0]), int(positions.shape[1]) - 1
    grid = math.isqrt(max(num_patches, 0))
    if grid * grid != num_patches or not grid:
        raise BadInput(
            f"{num_patches + 1} positions are not a square of patches and a class token.",
            "Positions without the class token, and images that are not square, are not supported.",
        )
    if head_dim < 1 or width % head_dim:
        raise BadInput(f"its width {width} is not a multiple of head_dim {head_dim}.", "Give the right --head-dim.")
    blocks = [int(match[1]) for name in state if (match := re.match(r"blocks\.(\d{1,4})\.", name))]
    head, hidden = state.get("head.weight"), state["blocks.0.mlp.fc1.bias"]
    if hidden.ndim != 1 or (head is not None and head.ndim != 2):
        raise BadInput("its MLP or its classifier is no Linear layer.", "Only plain ViTs are supported.")
    return HydraConfig(
        heads=width // head_dim,
        head_dim=head_dim,
        depth=max(blocks) + 1,
        patch_size=int(patch.shape[2]),
        image_size=grid * int(patch.shape[2]),
        channels=int(patch.shape[1]),
        num_classes=0 if head is None else int(head.shape[0]),
        mlp_ratio=hidden.shape[0] / width,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
    )
