"""Checkpoints in and out: ours (safetensors and a JSON description), timm's ViTs, official HydraViT ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch
from torch import Tensor

from hydra_export import files
from hydra_export.architecture import HydraConfig
from hydra_export.errors import BadCheckpoint, BadInput
from hydra_export.importing import bare, names, shapes, sources, tensors, timm_form, transformers_form
from hydra_export.importing.described import PREPROCESSING, Described, without
from hydra_export.model import HydraViT
from hydra_export.preprocess import Preprocessing, imagenet, named


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint says of itself, kept as JSON in the safetensors metadata.

    Attributes:
        trained_heads: head counts that were trained; empty where unknown. Of a plain ViT that is its full width alone.
        export_heads: head counts that an export takes by default; empty for the trained ones.
        labels: one name per class, in the order of the logits; empty where unknown.
        accuracy: top-1 in percent per head count, on *accuracy_data*.
        training: how it was made (recipe, command, seed, seconds, versions).
        assumed: what nothing said when it was imported, one sentence each.
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
        path: of the file, or ``timm:NAME``.
        sha256: of the file; of several, of their SHA256SUMS; of timm's, of all tensors.
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


def load(
    path: Path | str | None = None,
    *,
    head_dim: int | None = None,
    preprocessing: str | None = None,
    architecture: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    drop: Sequence[str] = (),
) -> Checkpoint:
    """Reads a checkpoint: ours, a plain ViT of timm's or transformers', or an official HydraViT ``.pth.tar``.

    What nothing says is assumed, and listed in ``info.assumed``. Where timm knows the architecture, the import is
    compared with timm's own module.

    Args:
        path: a file, a folder as the Hub has it, a Hub id (``org/name``) or ``timm:NAME``; None for the packaged
            model.
        head_dim: channels per head, where nothing else says.
        preprocessing: ``hydravit``, ``imagenet``, ``inception`` or a JSON file; overrides, or supplies, what the
            checkpoint says.
        architecture: timm's name of a state dict that does not say.
        image_size: the side, or height and width, that the positions are of.
        drop: parameters that inference does not use, by the beginnings of their names.

    Raises:
        BadCheckpoint: missing, damaged, unsafe, contradicting itself, or a ViT variant that is not supported.
    """
    source = sources.read(packaged_path() if path is None else path)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    notes: list[str] = []
    try:
        state = names.plain(source.content, source.name, notes, drop)
        tensors.check_plain(state, source.num_bytes)
        if source.description:
            found, info = None, _decoded(source.description)
        else:
            found = _described(source, state, _Given(head_dim, architecture, size))
            state, info = found.state, _imported(found, source.name, preprocessing)
        _check_agrees(info.config, head_dim, size)
        if found is None and preprocessing is not None:
            info = _with_preprocessing(info, named(preprocessing, info.config.image_size), notes)
        model = _built(info.config, state)
        if found is not None and found.module is not None:
            timm_form.check_equal(found.module, model.state_dict(), model)
        if found is not None and not info.config.num_classes:
            notes.append(f"{source.name} has no classifier: it gives features, not logits.")
    except BadInput as error:
        raise BadCheckpoint(f"Checkpoint {source.path}: {error.message}", error.remedy) from error
    if info.assumed:
        notes.append(_assumed_note(info))
    model.info = info
    return Checkpoint(model, info, source.path, source.sha256, tuple(notes))


_HYDRAVIT = "hydravit"  # in timm's name of an architecture that is trained at many head counts


@dataclass(frozen=True)
class _Given:
    """What the caller knows of a checkpoint."""

    head_dim: int | None
    architecture: str | None
    image_size: tuple[int, int] | None


def _described(source: sources.Source, state: dict[str, Tensor], given: _Given) -> Described:
    """What is said of a checkpoint of others, by whoever knows most of it."""
    arguments = timm_form.arguments_of(source.content)
    said = timm_form.of_config(source.config) or timm_form.of_arguments(arguments)
    if source.module is not None:
        named_weights = timm_form.of_option(source.name)
        return timm_form.described(state, replace(named_weights, of_these_weights=True), source.module)
    if given.architecture is not None:
        if said is not None and said.name.partition(".")[0] != given.architecture.partition(".")[0]:
            raise BadInput(
                f"{said.who} names the architecture {said.name}, not {given.architecture}.", "Leave out --architecture."
            )
        said = said or timm_form.of_option(given.architecture)
    if said is not None:
        found = timm_form.described(state, said, image_size=given.image_size)
        return replace(found, universal=_HYDRAVIT in said.name)
    if transformers_form.is_form(source.config):
        return transformers_form.described(state, source.config, source.preprocessor)
    if bare.is_official(arguments):
        return bare.official(state)
    found = bare.described(state, given.head_dim, given.image_size)
    return replace(found, universal=_HYDRAVIT in str(arguments.get("model")))


def _imported(found: Described, name: str, preprocessing: str | None) -> CheckpointInfo:
    """What is kept of it, with the preprocessing that the caller, or else the checkpoint, says, or an assumed one."""
    config, assumed = found.config, found.assumed
    if preprocessing is not None:
        chosen, assumed = named(preprocessing, config.image_size), without(assumed, PREPROCESSING)
    elif found.unusable:
        raise BadInput(found.unusable, "Give --preprocessing.")
    elif found.preprocessing is not None:
        chosen = found.preprocessing
    elif config.channels != 3:
        raise BadInput("it does not say how its images are preprocessed.", "Give --preprocessing.")
    else:
        chosen = imagenet(config.image_size)
        assumed = (*assumed, f"{PREPROCESSING}: ImageNet mean and std, bicubic, crop 0.9, as DeiT has them")
    name = re.sub(r"\.(pth|tar|safetensors|pt|bin|ckpt)", "", name)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
    return CheckpointInfo(
        name=name,
        config=config,
        preprocessing=chosen,
        trained_heads=() if found.universal else (config.heads,),
        labels=found.labels,
        assumed=assumed,
    )


def _assumed_note(info: CheckpointInfo) -> str:
    return (
        f"Assumed of {info.name}: {'; '.join(info.assumed)}. Options settle these, and a reference output checks all "
        "but the preprocessing."
    )


def _check_agrees(config: HydraConfig, head_dim: int | None, image_size: tuple[int, int] | None) -> None:
    """Refuses what the caller says where the checkpoint says otherwise."""
    if head_dim is not None and head_dim != config.head_dim:
        raise BadInput(
            f"its heads are {config.head_dim} wide, not {head_dim}.", "Give the head_dim that it has, or none."
        )
    if image_size is not None:
        shapes.check_size(image_size, config.image_size, "--image-size")


def save(path: Path, state: Mapping[str, Tensor], info: CheckpointInfo, dtype: torch.dtype = torch.float32) -> None:
    """Writes our format, atomically: a kill leaves the old file or the new one."""
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    description = msgspec.to_builtins(info, str_keys=True)  # JSON's keys are strings, head counts are not
    # One entry alone: safetensors writes several in random order, and equal models should have equal hashes.
    metadata = {sources.DESCRIPTION: msgspec.json.encode(description, order="sorted").decode()}
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
    info = msgspec.structs.replace(info, assumed=without(info.assumed, PREPROCESSING))
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
    """The warning to show for exporting *heads*, or nothing; refuses head counts that were not trained.

    Slices of a plain ViT are what whoever asks for them wants to see: they are warned of and not refused.
    """
    if not info.trained_heads:
        return f"{info.name} does not say which head counts were trained; check their accuracy yourself."
    warning = untrained(info, heads)
    if warning and not allow_untrained and not info.config.is_plain(info.trained_heads):
        given, trained = (_listed(counts) for counts in (_untrained(info, heads), info.trained_heads))
        raise BadInput(
            f"Head counts {given} of {info.name} were not trained.",
            f"Trained: {trained}. Choose among these, or give --allow-untrained.",
        )
    return warning


def untrained(info: CheckpointInfo, heads: Sequence[int]) -> str:
    """What has to be said of those of *heads* that are known to be untrained; nothing where none is."""
    counts = _untrained(info, heads)
    if not counts:
        return ""
    if not info.config.is_plain(info.trained_heads):
        return f"Head counts {_listed(counts)} of {info.name} were not trained; expect their accuracy to be useless."
    return (
        f"{info.name} is a plain ViT, of which the full width, {info.config.heads} heads, is all that is known to be "
        f"trained: k = {_listed(counts)} is an untrained slice; expect its accuracy to be useless."
    )


def _untrained(info: CheckpointInfo, heads: Sequence[int]) -> list[int]:
    return [k for k in heads if info.trained_heads and k not in info.trained_heads]


def _listed(counts: Sequence[int]) -> str:
    return ",".join(map(str, counts))


def default_heads(info: CheckpointInfo) -> tuple[int, ...]:
    """The head counts that a command takes when none are given."""
    return info.export_heads or info.trained_heads or tuple(range(1, info.config.heads + 1))


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
    model.load_state_dict(tensors.as_float32(state), assign=True)
    return model.eval()
