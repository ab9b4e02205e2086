"""Everything that a training run needs to know; a run is reproducible from it."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from hydra_export import documents
from hydra_export.architecture import HydraConfig, check_heads
from hydra_export.errors import BadInput, UnknownName
from hydra_export.preprocess import Preprocessing

REBASE_IMAGES = 256  # with 200 tokens each, sixty times as many vectors as a ViT-B has channels


class Augmentation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How training images are augmented, each with its own random draws.

    Without ``crop`` an image is fitted as in evaluation, then flipped, shifted and erased: cheap, for small images.
    With it, timm's ImageNet transforms augment the whole image.

    Attributes:
        flip: probability of a left-right flip.
        shift: largest move in pixels, up, down, left and right; black comes in from the border. Not with ``crop``.
        erase: probability that a rectangle is erased (random erasing, arXiv 1708.04896), with ``crop``
            after mixing.
        erase_area: smallest and largest share of the image that is erased; with ``crop`` timm's own.
        crop: smallest and largest share of the image that a random resized crop keeps.
        auto_augment: timm's name of a policy, such as rand-m9-mstd0.5-inc1. Only with ``crop``.
        color_jitter: timm's factor; a policy of ``auto_augment`` replaces it. Only with ``crop``.
        erase_mode: const (the mean colour) or pixel (noise, only with ``crop``).
        mixup, cutmix: alpha of their Beta distributions, 0 for none (timm's FastCollateMixup, one draw per
            process and step).
        mix: probability that a batch is mixed at all.
        mix_switch: probability of CutMix where both are on.
    """

    flip: float = 0.5
    shift: int = 0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.2)
    crop: tuple[float, float] | None = None
    auto_augment: str = ""
    color_jitter: float = 0.0
    erase_mode: Literal["const", "pixel"] = "const"
    mixup: float = 0.0
    cutmix: float = 0.0
    mix: float = 1.0
    mix_switch: float = 0.5

    def __post_init__(self) -> None:
        for name in ("flip", "erase", "mix", "mix_switch", "color_jitter"):
            _check(f"augmentation.{name}", getattr(self, name), 0, 1)
        for name in ("mixup", "cutmix"):
            _check(f"augmentation.{name}", getattr(self, name), 0, 1e3)
        _check("augmentation.shift", self.shift, 0, 1024)
        low, high = self.erase_area
        if not 0 < low <= high < 1:
            raise BadInput(
                f"augmentation.erase_area is {self.erase_area}.", "Use two shares in (0, 1), the smaller first."
            )
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise BadInput(f"augmentation.crop is {self.crop}.", "Use two shares in (0, 1], the smaller first.")
        if self.crop is not None and self.shift:
            raise BadInput(
                "augmentation.shift and augmentation.crop exclude each other.", "Set `augmentation.shift=0`."
            )
        needs_crop = self.auto_augment or self.color_jitter or self.erase_mode == "pixel"
        if self.crop is None and needs_crop:
            raise BadInput(
                "auto_augment, color_jitter and erase_mode pixel belong to timm's transforms.",
                "Set augmentation.crop too, for instance to [0.08, 1].",
            )


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training run.

    Attributes:
        dataset: a name of data/datasets.py.
        data: folder or file of the dataset, if it has one.
        held_out: share of each class that is kept for testing if *data* has no test split.
        classes: ``recipe``: the data must have the model's classes; ``data``: its classes replace the model's.
        start: the checkpoint for the initial weights; empty for random ones.
        rebase: a change of basis before training that keeps the full width: heads, hidden units and channels are sorted
            (``sort``), or the channels rotated to their principal components (``rotate``).
        rebase_images: how many training images the basis is computed from.
        labels: whether to learn from the images' labels; ``auto``: if the model and the images have classes.
        scheme: the random initialization: ``fan-in`` (std 1 / sqrt(inputs)), ``timm`` (std 0.02, as DeiT) or
            ``hydravit`` (as its authors').
        trained_heads: the head counts that steps draw from.
        export_heads: the head counts that an export takes by default, if they were trained.
        name, license: of the checkpoint that the run makes.
        sampling: a name of train/sampling.py.
        weights: for weighted or per-rank sampling, one positive number per trained head count.
        between: for the sandwich rule, how many head counts between the smallest and the largest a step trains.
        distill: the teacher whose logits the subnetworks learn in addition to the labels: none, ``largest`` (the
            largest of the step's universal model), ``self`` (the checkpoint that the run starts from, as it was),
            ``timm:NAME`` (a pretrained timm model) or a checkpoint file.
        distill_share: its share of the loss. distill_temperature: softens both sides.
        steps: total number of updates; 0 to compute it from ``epochs``, passes over the images with as many steps as
            there are full batches.
        batch_size: images per update, over all processes and accumulated parts.
        accumulate: number of parts that each process splits its share of a batch into, computed one after the other.
        workers: processes that read images, at most the number of usable cores; 0 for none. The result does not depend
            on it.
        optimizer: timm's name; betas: if the optimiser has them.
        active_slices: the optimiser does not change weights that the step did not use (docs/training.md).
        layer_decay: factor on the learning rate per layer below the last, as in timm; 1 for none.
        lr: peak learning rate, reached after ``warmup`` (a share of the steps) from ``lr_warmup``, then cosine to
            ``lr_min`` and ``cooldown`` (a share) at that. lr_per_epoch: it only changes between ``epochs``.
        clip: largest gradient norm, None for no clipping.
        drop_path: timm's stochastic depth rate at the last block.
        ema_decay: decay of timm's ModelEmaV3, 0 for none; with ``ema_warmup`` it grows to that.
        kept_weights: which weights are monitored and stored: the moving average or the last ones.
        precision: of the arithmetic; bfloat16 and float16 mean automatic mixed precision.
        tf32: on CUDA, products of float32 numbers in TF32. cudnn_benchmark: cuDNN times its kernels and takes the
            fastest, which may differ after a resumption.
        compile: torch.compile, one graph per head count.
        checkpoint_blocks: recomputes blocks in the backward pass instead of storing them: less memory, more time, the
            same gradients.
        stored: precision of the weights in the final checkpoint, whose accuracy is measured after rounding.
        monitor_images: test images for the accuracy shown during training; only ``keep`` uses it, to choose the best
            checkpoint.
        keep: how many of the last saved checkpoints to keep by step, in addition to the best one; 0 for only the last.
    """

    recipe: str
    dataset: str
    model: HydraConfig
    preprocessing: Preprocessing
    trained_heads: tuple[int, ...]
    export_heads: tuple[int, ...]
    name: str
    steps: int = 0
    epochs: float = 0.0
    data: str = ""
    held_out: float = 0.1
    classes: Literal["recipe", "data"] = "recipe"
    start: str = ""
    rebase: Literal["none", "sort", "rotate"] = "none"
    rebase_images: int = REBASE_IMAGES
    labels: Literal["use", "ignore", "auto"] = "use"
    scheme: Literal["fan-in", "timm", "hydravit"] = "fan-in"
    license: str = ""
    sampling: str = "uniform"
    weights: tuple[float, ...] = ()
    between: int = 1
    distill: str = ""
    distill_share: float = 0.5
    distill_temperature: float = 1.0
    batch_size: int = 128
    accumulate: int = 1
    workers: int = 0
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    active_slices: bool = True
    layer_decay: float = 1.0
    lr: float = 1e-3
    lr_min: float = 1e-6
    lr_warmup: float | None = None
    lr_per_epoch: bool = False
    warmup: float = 0.05
    cooldown: float = 0.0
    weight_decay: float = 0.05
    clip: float | None = 1.0
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    augmentation: Augmentation = msgspec.field(default_factory=Augmentation)
    ema_decay: float = 0.999
    ema_warmup: bool = True
    kept_weights: Literal["ema", "raw"] = "ema"
    precision: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    tf32: bool = True
    cudnn_benchmark: bool = False
    compile: bool = False
    checkpoint_blocks: bool = False
    stored: Literal["float32", "float16"] = "float32"
    seed: int = 0
    log_every: int = 50
    save_every: int = 500
    monitor_every: int = 500
    monitor_images: int = 2000
    keep: int = 0

    def __post_init__(self) -> None:
        if check_heads(self.trained_heads, self.model.heads) != self.trained_heads:
            raise BadInput(f"trained_heads is {list(self.trained_heads)}.", "List them in ascending order.")
        _check("steps", self.steps, 0, 10**9)
        _check("epochs", self.epochs, 0, 1e6)
        if not self.steps and not self.epochs and self.rebase == "none":
            raise BadInput("A training run needs steps.", "Set steps or epochs.")
        if not self.start and (self.rebase != "none" or self.distill == "self"):
            raise BadInput(
                f"A run with rebase {self.rebase} and distill {self.distill} needs a start.", "Pass `start`."
            )
        if self.labels == "ignore" and self.distill in ("", "largest"):
            raise BadInput(
                f"There is nothing to learn: no labels, and distill {self.distill or 'nothing'}.",
                "Set `distill=self`, or labels to use.",
            )
        _check("rebase_images", self.rebase_images, 1, 10**6)
        if self.lr_per_epoch and not self.epochs:
            raise BadInput("lr_per_epoch is set, but epochs is 0.", "Set epochs.")
        _check("batch_size", self.batch_size, 1, 10**6)
        _check("accumulate", self.accumulate, 1, 10**4)
        _check("workers", self.workers, 0, 1024)
        _check("lr", self.lr, 1e-12, 1e3)
        _check("lr_min", self.lr_min, 0, self.lr)
        if self.lr_warmup is not None:
            _check("lr_warmup", self.lr_warmup, 0, self.lr)
        _check("warmup", self.warmup, 0, 1)
        _check("cooldown", self.cooldown, 0, 1 - self.warmup)
        _check("weight_decay", self.weight_decay, 0, 1e3)
        _check("layer_decay", self.layer_decay, 1e-6, 1)
        if self.clip is not None:
            _check("clip", self.clip, 1e-12, 1e12)
        _check("keep", self.keep, 0, 10**6)
        _check("seed", self.seed, 0, 2**63 - 1)
        _check("held_out", self.held_out, 0.001, 0.9)
        _check("distill_temperature", self.distill_temperature, 1e-3, 1e3)
        for name in ("label_smoothing", "drop_path", "ema_decay", "distill_share"):
            _check(name, getattr(self, name), 0, 1)
        for name in ("log_every", "save_every", "monitor_every", "monitor_images"):
            _check(name, getattr(self, name), 1, 10**9)
        classifiers = self.model.separate_classifiers or self.trained_heads
        if without := sorted({*self.trained_heads} - {*classifiers}):
            raise BadInput(
                f"Head counts {without} are trained, but have no classifier of their own.",
                "List every trained head count in model.separate_classifiers.",
            )
        if self.ema_decay == 1:
            raise BadInput("ema_decay is 1: the moving average never moves.", "Use a number below 1, or 0 for none.")
        if self.kept_weights == "ema" and not self.ema_decay:
            raise BadInput(
                "kept_weights is ema, but there is no moving average.",
                "Set `kept_weights=raw`, or ema_decay above 0.",
            )

    @property
    def measure(self) -> str:
        """What is measured of subnetworks: top-1, or, without labels, the agreement with the dense model."""
        return "agreement" if self.labels == "ignore" else "top-1"


def overridden(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """*config* with other values by dotted name, such as ``augmentation.flip``; texts are read as JSON, or as text.

    Raises:
        UnknownName: there is no such field; the remedy names the nearest.
        BadInput: the value is of another type, or out of range.
    """
    tree = msgspec.to_builtins(config, str_keys=True)
    for name, value in values.items():
        *parents, last = _field(name).split(".")
        place = tree
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise UnknownName("field of a training run", name, _field_names(tree))
        place[last] = _read(value, place[last]) if isinstance(value, str) else value
    # What the model takes is made from the images and decides their size: one value, in two places.
    if "model.image_size" in values and "preprocessing.image_size" not in values:
        tree["preprocessing"]["image_size"] = tree["model"]["image_size"]
    try:
        return msgspec.convert(tree, TrainConfig)
    except msgspec.ValidationError as error:
        raise _refusal(values, error) from error


def _refusal(values: Mapping[str, Any], error: msgspec.ValidationError) -> BadInput:
    """Names the field that msgspec refuses and, where it has few choices, lists them."""
    path = str(error).rpartition("`$.")[2].rstrip("`").partition("[")[0]
    given = ", ".join(f"{name}={value}" for name, value in values.items() if not path or path.startswith(_field(name)))
    choices = _choices(path)
    remedy = f"Use one of {', '.join(choices)}." if choices else "Use a value of that type."
    return BadInput(f"Training cannot take {given}: {error}.", remedy, field=path)


def _field(name: str) -> str:
    return name.replace("-", "_")


def _choices(path: str) -> tuple[str, ...]:
    """The values that the field at a dotted *path* may have, if they are few."""
    kind: Any = TrainConfig
    for name in path.split("."):
        kind = typing.get_type_hints(kind).get(name) if isinstance(kind, type) else None
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _read(text: str, present: Any) -> Any:
    """*text* as JSON where it is that; a text field takes it as it stands, a list also without its brackets."""
    if isinstance(present, str):
        return text
    for attempt in (text, f"[{text}]"):
        try:
            read = documents.decode_json(attempt.encode(errors="surrogateescape"))
        except msgspec.DecodeError:
            continue
        return [read] if isinstance(present, (list, tuple)) and not isinstance(read, list) else read
    return {"none": None, "true": True, "false": False}.get(text.lower(), text)


def _field_names(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = []
    for name, value in tree.items():
        names += _field_names(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]
    return names


def _check(name: str, value: float, smallest: float, largest: float) -> None:
    if not (math.isfinite(value) and smallest <= value <= largest):
        raise BadInput(f"`{name}` of a training run is {value}.", f"Use {smallest:g} to {largest:g}.")
