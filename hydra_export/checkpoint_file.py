"""Checkpoints as files: a description and tensors, of our own format, timm's, transformers' or HydraViT's authors'."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch
from torch import Tensor, nn

from hydra_export import files, network
from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadCheckpoint, BadInput
from hydra_export.image_size import ImageSize, as_shape, as_size
from hydra_export.importing import bare, names, places, shapes, sources, tensors, transformers_form
from hydra_export.importing.imported_model import PREPROCESSING, ImportedModel, Original, without
from hydra_export.preprocess import Preprocessing, imagenet, named


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint's description, stored as JSON in the safetensors metadata.

    Attributes:
        trained_heads: head counts that were trained; empty if unknown. For a plain ViT, only its full width.
        export_heads: head counts that an export takes by default; empty for the trained ones.
        labels: one name per class, in the order of the logits; empty where unknown.
        accuracy: top-1 in percent per head count, on *accuracy_data*.
        agreement: with the dense model that it was made from, in percent per head count, on *agreement_data*: the share
            of images with the same largest logit, or 100 times the mean cosine of features.
        training: how it was made (recipe, command, seed, seconds, versions).
        assumed: what had to be assumed when it was imported, one sentence each.
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
    agreement: dict[int, float] = {}
    agreement_data: str = ""
    license: str = ""
    training: dict[str, Any] = {}
    assumed: tuple[str, ...] = ()

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
                f"The checkpoint has {len(self.labels)} labels for {config.num_classes} classes.", "Pass one per class."
            )
        data = self.preprocessing
        if (data.image_shape, data.channels) != (config.image_shape, config.channels):
            raise BadInput(
                f"The checkpoint's preprocessing makes {data.channels}x{data.image_text} images, "
                f"its model takes {config.channels}x{config.image_text}.",
                "Make them agree.",
            )


# Of a model that is another one now.
UNMEASURED: dict[str, Any] = {"accuracy": {}, "accuracy_data": "", "agreement": {}, "agreement_data": ""}


@dataclass(frozen=True)
class CheckpointFile:
    """What a checkpoint holds, without the model that it is of.

    Attributes:
        state: under timm's names, in our form; it may be mapped from the file.
        path: of the file, ``timm:NAME``, or the class of a module.
        sha256: of the file; of several, of their SHA256SUMS; of a module, of all tensors.
        notes: what was assumed or chosen while reading, for the user to see.
        original: what it was imported from, where timm has a name for it: the model must compute the same.
    """

    info: CheckpointInfo
    state: Mapping[str, Tensor]
    path: Path
    sha256: str
    notes: tuple[str, ...] = ()
    original: Original | None = None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Says of whatever is refused that it is of the checkpoint at *path*."""
    try:
        yield
    except BadInput as error:
        raise BadCheckpoint(f"Checkpoint {path}: {error.message}", error.remedy) from error


def read(
    path: Path | str | nn.Module,
    *,
    head_dim: int | None = None,
    preprocessing: str | None = None,
    architecture: str | None = None,
    image_size: ImageSize | None = None,
    drop: Sequence[str] = (),
) -> CheckpointFile:
    """Reads a checkpoint: ours, a ViT of timm's or transformers', or an official HydraViT ``.pth.tar``.

    What nothing says is assumed, and listed in ``info.assumed``.

    Args:
        path: a file, a folder as the Hub has it, a Hub id (``org/name``), ``timm:NAME`` or a torch module.
        head_dim: channels per head, where nothing else says.
        preprocessing: ``hydravit``, ``imagenet``, ``inception`` or a JSON file; overrides, or supplies, what the
            checkpoint says.
        architecture: timm's name of a state dict that does not say.
        image_size: the side, or height and width, that the positions are of, where the checkpoint does not say and
            there are as many; they are not resampled here (``adapted.at_image_size``).
        drop: parameters that inference does not use, by the beginnings of their names.

    Raises:
        BadCheckpoint: missing, damaged, unsafe, contradicting itself, or a ViT variant that is not supported.
    """
    source = places.read(path)
    notes: list[str] = []
    original = None
    with naming(source.path):
        state = names.plain(source.content, source.name, notes, drop)
        if not source.description:
            shapes.check_names(state)
            shapes.check_variant(state)
        tensors.check_plain(state, source.num_bytes)
        if source.description:
            info = _decoded(source.description)
        else:
            vit = _imported_model(source, state, _Hints(head_dim, architecture, _of_positions(state, image_size)))
            state, original, info = vit.state, vit.original, _imported(vit, source.name, preprocessing, image_size)
            if not info.config.num_classes:
                notes.append(f"{source.name} has no classifier: it outputs features, not logits.")
        _check_agrees(info.config, head_dim)
        if source.description and preprocessing is not None:
            info = _with_preprocessing(info, _named(preprocessing, info.config, image_size), notes)
        tensors.check_shapes(network.shapes(info.config), state)
    if info.assumed:
        notes.append(assumed_note(info))
    return CheckpointFile(info, state, source.path, source.sha256, tuple(notes), original)


DEITS_PREPROCESSING = f"{PREPROCESSING}: ImageNet mean and std, bicubic, crop 0.9, as DeiT has them"  # assumed
_PREFIX = ("cls_token", "dist_token", "reg_token")
_HYDRAVIT = "hydravit"  # in timm's name of an architecture that is trained at many head counts


@dataclass(frozen=True)
class _Hints:
    """What the caller knows of a checkpoint."""

    head_dim: int | None
    architecture: str | None
    image_size: tuple[int, int] | None


def _imported_model(source: sources.Source, state: dict[str, Tensor], hints: _Hints) -> ImportedModel:
    """What is said of a checkpoint of others, by whoever knows most of it."""
    from hydra_export.importing import timm_form

    arguments = timm_form.arguments_of(source.content)
    timm_name = timm_form.of_config(source.config) or timm_form.of_arguments(arguments)
    if source.module is not None:
        weights = replace(timm_form.of_option(source.name), of_these_weights=True)
        if not str(source.path).startswith(places.TIMM):  # a module in memory, which may have been trained further
            size: Any = source.module.patch_embed
            weights = replace(weights, of_these_weights=False, image_size=tuple(size.img_size))
        return timm_form.imported_model(state, weights, source.module)
    if hints.architecture is not None:
        if timm_name is not None and timm_name.name.partition(".")[0] != hints.architecture.partition(".")[0]:
            raise BadInput(
                f"{timm_name.who} specifies the architecture {timm_name.name}, not {hints.architecture}.",
                "Leave out `architecture`.",
            )
        timm_name = timm_name or timm_form.of_option(hints.architecture)
    if timm_name is not None:
        vit = timm_form.imported_model(state, timm_name, image_size=hints.image_size)
        return replace(vit, universal=_HYDRAVIT in timm_name.name)
    if transformers_form.is_form(source.config):
        return transformers_form.imported_model(state, source.config, source.preprocessor)
    if bare.is_official(arguments):
        return bare.official(state)
    vit = bare.imported_model(state, hints.head_dim, hints.image_size)
    if hints.image_size is not None:  # as many positions may be of several shapes
        vit = replace(vit, config=msgspec.structs.replace(vit.config, image_size=as_size(*hints.image_size)))
    return replace(vit, universal=_HYDRAVIT in str(arguments.get("model")))


def _imported(vit: ImportedModel, name: str, preprocessing: str | None, image_size: ImageSize | None) -> CheckpointInfo:
    """What is kept of it, with the preprocessing that the caller, or else the checkpoint, says, or an assumed one."""
    config, assumed = vit.config, vit.assumed
    if preprocessing is not None:
        chosen, assumed = _named(preprocessing, config, image_size), without(assumed, PREPROCESSING)
    elif vit.unusable:
        raise BadInput(vit.unusable, "Pass `preprocessing`.")
    elif vit.preprocessing is not None:
        chosen = vit.preprocessing
    elif config.channels != 3:
        raise BadInput("it does not state how its images are preprocessed.", "Pass `preprocessing`.")
    else:
        chosen = imagenet(config.image_size)
        assumed = (*assumed, DEITS_PREPROCESSING)
    name = re.sub(r"\.(pth|tar|safetensors|pt|bin|ckpt)", "", name)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
    return CheckpointInfo(
        name=name,
        config=config,
        preprocessing=chosen,
        trained_heads=() if vit.universal else (config.heads,),
        labels=vit.labels,
        assumed=assumed,
    )


def _named(preprocessing: str, config: HydraConfig, image_size: ImageSize | None) -> Preprocessing:
    """*preprocessing* for images of the model's own size; it may be that of *image_size*, which comes later."""
    chosen = named(preprocessing, config.image_size)
    if image_size is not None and chosen.image_shape == as_shape(image_size):
        chosen = msgspec.structs.replace(chosen, image_size=config.image_size)
    return chosen


def assumed_note(info: CheckpointInfo) -> str:
    """What the user should see of what was assumed."""
    return (
        f"Assumed for {info.name}: {'; '.join(info.assumed)}. Set these with options; a reference output checks all "
        "but the preprocessing."
    )


def _of_positions(state: Mapping[str, Tensor], size: ImageSize | None) -> tuple[int, int] | None:
    """*size* where *state* has as many learned positions as its patches need."""
    patch, positions = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    if size is None or patch is None or positions is None or positions.ndim != 3:
        return None
    if patch.ndim != 4 or not patch.numel():
        return None
    height, width = as_shape(size)
    prefix = sum(state[name].shape[1] for name in _PREFIX if name in state and state[name].ndim == 3)
    num_patches = (height // int(patch.shape[2])) * (width // int(patch.shape[3]))
    return (height, width) if positions.shape[1] - num_patches in (0, prefix) else None


def _check_agrees(config: HydraConfig, head_dim: int | None) -> None:
    """Refuses what the caller says where the checkpoint says otherwise."""
    if head_dim is not None and head_dim != config.head_dim:
        raise BadInput(f"its heads are {config.head_dim} wide, not {head_dim}.", "Pass that head_dim, or none.")


def write(path: Path, state: Mapping[str, Tensor], info: CheckpointInfo, dtype: torch.dtype = torch.float32) -> None:
    """Writes a checkpoint in hydra-export's format, atomically: a kill leaves the old file or the new one."""
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    description = msgspec.to_builtins(info, str_keys=True)  # JSON's keys are strings, head counts are not
    # One entry alone: safetensors writes several in random order, and equal models should have equal hashes.
    metadata = {sources.DESCRIPTION: msgspec.json.encode(description, order="sorted").decode()}
    with files.replaced_file(path) as partial:
        partial.write_bytes(safetensors.torch.save(tensors, metadata))


def _with_preprocessing(info: CheckpointInfo, chosen: Preprocessing, notes: list[str]) -> CheckpointInfo:
    info = msgspec.structs.replace(info, assumed=without(info.assumed, PREPROCESSING))
    if chosen == info.preprocessing:
        return info
    if info.accuracy:
        notes.append(f"The accuracy of {info.name} was measured with other preprocessing and is left out.")
    return msgspec.structs.replace(info, preprocessing=chosen, **UNMEASURED)


def _decoded(description: str) -> CheckpointInfo:
    try:
        return msgspec.json.decode(description, type=CheckpointInfo)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(
            f"its description is not valid: {error}.", "Write it again with hydra_export.save_checkpoint."
        ) from error
