"""A checkpoint: the model that a file holds, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from torch import Tensor, nn

from hydra_export import adapted, checkpoint_file
from hydra_export.adapted import Adapted
from hydra_export.checkpoint_file import CheckpointFile, CheckpointInfo
from hydra_export.errors import BadInput
from hydra_export.image_size import ImageSize, as_shape
from hydra_export.importing import sources, tensors

if TYPE_CHECKING:
    from hydra_export.model import HydraViT
    from hydra_export.quantized.grid import Ranges
    from hydra_export.target import Precision


@dataclass(frozen=True)
class Checkpoint:
    """A loaded universal model and what is known about it.

    Attributes:
        state: the parameters, under timm's names, in float32; they may be mapped from the file.
        path: of the file, ``timm:NAME``, or the class of a module.
        sha256: of the file; for several files, of their SHA256SUMS; for a module, of all tensors.
        notes: what was assumed or chosen while reading, for the user to see.
        activations: by precision and head count, the scales of the tensors in graphs with integer activations.
    """

    state: Mapping[str, Tensor]
    info: CheckpointInfo
    path: Path
    sha256: str
    notes: tuple[str, ...] = ()
    activations: Mapping[Precision, Mapping[int, Ranges]] | None = None

    @cached_property
    def model(self) -> HydraViT:
        """In eval mode; it shares the tensors of *state*, so clone before training in place."""
        from hydra_export.model import HydraViT

        return HydraViT.of(CheckpointFile(self.info, self.state, self.path, self.sha256))


def packaged_path() -> Path:
    """The trained model that comes with the package (see its model card beside it)."""
    return Path(str(resources.files("hydra_export") / "data" / "hydravit-fashion-mnist.safetensors"))


def load(
    path: Path | str | nn.Module | None = None,
    *,
    head_dim: int | None = None,
    preprocessing: str | None = None,
    architecture: str | None = None,
    image_size: ImageSize | None = None,
    drop: Sequence[str] = (),
) -> Checkpoint:
    """Reads a checkpoint of hydra-export, a ViT from timm or transformers, or an official HydraViT ``.pth.tar``.

    What nothing states is assumed, and listed in ``info.assumed``. If timm knows the architecture, the import is
    compared with timm's own module.

    Args:
        path: a file, a folder in the Hub's layout, a Hub id (``org/name``), ``timm:NAME``, or a ViT in memory, from
            timm, transformers or your own code, whose tensors are shared; None for the packaged model.
        head_dim: channels per head, if nothing else states it.
        preprocessing: ``hydravit``, ``imagenet``, ``inception`` or a JSON file; used instead of the checkpoint's.
        architecture: timm's name of the ViT, if the checkpoint does not state it.
        image_size: the side, or height and width, of images. If the checkpoint states no size and its positions fit,
            they are assumed to be for this size; otherwise they are resampled (``with_image_size``).
        drop: name prefixes of parameters that inference does not use.

    Raises:
        BadCheckpoint: it is missing, damaged, unsafe or contradicts itself, or the ViT variant is not supported.
    """
    if isinstance(path, nn.Module) and (own := _of_own_model(path)):
        return own
    file = checkpoint_file.read(
        packaged_path() if path is None else path,
        head_dim=head_dim,
        preprocessing=preprocessing,
        architecture=architecture,
        image_size=image_size,
        drop=drop,
    )
    loaded = _of(file)
    return loaded if image_size is None else with_image_size(loaded, image_size)


def _of(file: CheckpointFile) -> Checkpoint:
    if file.original is not None:  # which the model has to be equal to
        from hydra_export.model import HydraViT

        HydraViT.of(file)
    with checkpoint_file.naming(file.path):
        state = tensors.as_float32(file.state)
    return Checkpoint(state, file.info, file.path, file.sha256, file.notes)


def _of_own_model(module: nn.Module) -> Checkpoint | None:
    from hydra_export.model import HydraViT

    if not isinstance(module, HydraViT):
        return None
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    info = module.description("hydravit")
    notes = (checkpoint_file.assumed_note(info),) if info.assumed else ()
    return _of(CheckpointFile(info, state, Path("HydraViT"), sources.digest(state), notes))


def with_image_size(checkpoint: Checkpoint, image_size: ImageSize) -> Checkpoint:
    """*checkpoint* for images of another size: its learned positions are resampled as timm does.

    Raises:
        BadCheckpoint: its patch size does not divide them.
    """
    with checkpoint_file.naming(checkpoint.path):
        return _adapted(checkpoint, adapted.at_image_size(checkpoint.info, checkpoint.state, as_shape(image_size)))


def with_output(checkpoint: Checkpoint, output: str) -> Checkpoint:
    """*checkpoint* that gives ``logits``, an ``embedding`` or the patches' ``tokens``; its name says which.

    Raises:
        BadInput: there is no such output, or the model does not have it.
    """
    return _adapted(checkpoint, adapted.with_output(checkpoint.info, checkpoint.state, output))


def _adapted(checkpoint: Checkpoint, to: Adapted) -> Checkpoint:
    return Checkpoint(to.state, to.info, checkpoint.path, checkpoint.sha256, checkpoint.notes + to.notes)


def with_labels(checkpoint: Checkpoint, labels: tuple[str, ...]) -> Checkpoint:
    """*checkpoint* with class names, one per class in the order of the logits."""
    num_classes = checkpoint.info.config.num_classes
    if not num_classes:
        raise BadInput(f"{checkpoint.info.name} has no classes to label with `labels`.", "Leave them out.")
    if len(labels) != num_classes:
        raise BadInput(
            f"`labels` has {len(labels)} names, {checkpoint.info.name} has {num_classes} classes.",
            "Pass one name per line, in the order of the logits.",
        )
    return replace(checkpoint, info=msgspec.structs.replace(checkpoint.info, labels=labels))


def check_trained(info: CheckpointInfo, heads: Sequence[int], allow_untrained: bool) -> str:
    """The warning to show for exporting *heads*, or nothing; refuses head counts that were not trained.

    Slices of a plain ViT are what whoever asks for them wants to see: they are warned of and not refused.
    """
    if not info.trained_heads:
        return f"{info.name} does not state which head counts were trained. Check their accuracy yourself."
    warning = untrained(info, heads)
    if warning and not allow_untrained and not info.config.is_plain(info.trained_heads):
        wanted, trained = (_joined(counts) for counts in (_untrained(info, heads), info.trained_heads))
        raise BadInput(
            f"Head counts {wanted} of {info.name} were not trained.",
            f"Choose from {trained}, or pass `allow_untrained`.",
        )
    return warning


def untrained(info: CheckpointInfo, heads: Sequence[int]) -> str:
    """What has to be said of those of *heads* that are known to be untrained; nothing where none is."""
    counts = _untrained(info, heads)
    if not counts:
        return ""
    if not info.config.is_plain(info.trained_heads):
        return f"Head counts {_joined(counts)} of {info.name} were not trained. Expect useless accuracy."
    if info.training.get("elastic"):
        measured = info.accuracy or info.agreement
        shown = ", ".join(f"k={k} {measured[k]:.1f} %" for k in counts if k in measured)
        known = f" ({'top-1' if info.accuracy else 'agreement'} {shown})" if shown else ""
        return f"{info.name} was not trained in its new basis: k = {_joined(counts)} only have the new basis{known}."
    return (
        f"{info.name} is a plain ViT, of which only the full width, {info.config.heads} heads, is known to be "
        f"trained: k = {_joined(counts)} is an untrained slice. Expect useless accuracy."
    )


def _untrained(info: CheckpointInfo, heads: Sequence[int]) -> list[int]:
    return [k for k in heads if info.trained_heads and k not in info.trained_heads]


def _joined(counts: Sequence[int]) -> str:
    return ",".join(map(str, counts))


def default_heads(info: CheckpointInfo) -> tuple[int, ...]:
    """The head counts that a command takes when none are given."""
    return info.export_heads or info.trained_heads or tuple(range(1, info.config.heads + 1))
