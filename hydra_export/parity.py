"""Artifact against PyTorch: what was computed, what was expected, and how far apart they may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hydra_export.arrays import Array, Pixels
from hydra_export.errors import ParityFailed, UnknownName
from hydra_export.gate import LEAST_AGREEMENT, Gate, JudgedBy, judgement, worst_class
from hydra_export.preprocess import Preprocessing
from hydra_export.target import GATED, Precision, Runtime, Session, Target

if TYPE_CHECKING:
    import torch
    from timm.models.vision_transformer import VisionTransformer

    from hydra_export.architecture import HydraConfig
    from hydra_export.model import HydraViT

_BATCH = 8  # activations of larger ones would need more memory than the weights
# Of runtimes that round on the way. fp16's rounding leaves the direction of the logits alone; a wrong graph does not.
_SMALLEST_AGREEMENT = 0.99  # or all images but one
_SMALLEST_COSINE = 0.999
# Of an image's features, or patch tokens side by side, with the model's; the packaged model's in int8 have 0.9985.
_SAME_DIRECTION = 0.99
# torch adds products in blocks. Runtimes that add one after the other were up to 9 times noisier where few channels are
# much larger than the others, in DINOv2 in the basis of its principal components.
_OTHER_ORDERS = 8
_ROUNDING = 1e-6  # of accuracies in percent, which have four digits

SIMULATION = Runtime("simulation")  # what PyTorch makes of rounded tensors

NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Percent = Annotated[float, Meta(ge=0, le=100)]


class ParityRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How an artifact compared with the float64 subnetwork at one head count.

    Attributes:
        max_abs_error: of logits, the largest over the runtimes that compute in float32; of an fp16 artifact against the
            subnetwork whose weights were rounded to it.
        bound: the largest ``max_abs_error`` that passes; None for int8, where the accuracy decides.
        cosine, top1_agreement: the smallest cosine over images, their patch tokens and runtimes, and the smallest share
            of images whose largest logit, or direction of features, is the same (``agreement``); runtimes that round
            on the way are compared with the unrounded subnetwork.
        runtimes: the largest error in each runtime.
        accuracy, accuracy_fp32: top-1 in percent of an int8 artifact, the worst over the runtimes, and of the unrounded
            subnetwork on the same labelled images; None where there are none. Where the latter is not clearly above
            chance, the former would say nothing and is None.
        judged_by: what decided that it passes.
        worst_class, class_drop: the class of which an int8 artifact loses most, by its number, and percentage points;
            None where no class has enough labelled images.
    """

    max_abs_error: NotNegative
    bound: NotNegative | None
    cosine: Annotated[float, Meta(ge=-1.001, le=1.001)]  # rounding goes beyond 1
    top1_agreement: Share
    num_images: Annotated[int, Meta(ge=1, le=2**31)]
    runtimes: dict[str, NotNegative] = {}
    accuracy: Percent | None = None
    accuracy_fp32: Percent | None = None
    judged_by: JudgedBy = "bound"
    worst_class: Annotated[int, Meta(ge=0)] | None = None
    class_drop: Annotated[float, Meta(ge=-100, le=100)] | None = None

    @property
    def judgement(self) -> str:
        """What decided on an int8 artifact, and why, behind "judged"; nothing for others."""
        if self.bound is not None or self.judged_by == "bound":  # which older manifests say of all
            return ""
        if self.judged_by == "top-1":
            return f"by top-1 on {self.num_images:,} labelled images"
        if self.judged_by == "top-1 and agreement":
            few = f"{self.num_images:,} labelled images are too few to tell a small drop"
            return f"by top-1 and, as {few}, by agreement"
        if self.judged_by == "nothing":
            return "by nothing: accepted unchecked"
        why = "without labels"
        if self.accuracy_fp32 is not None:
            chance = f"fp32 is correct on {self.accuracy_fp32:.1f} % of them, not clearly above chance"
            why = f"because the labels are not informative: {chance}"
        return f"by agreement on {self.num_images:,} images, {why}"


@dataclass(frozen=True)
class Reference:
    """What PyTorch computes at one head count: [num_images, *output_shape] in float64 and in float32.

    Attributes:
        has_classes: the largest output is the answer; otherwise outputs are directions.
    """

    exact: NDArray[np.float64]
    torch_fp32: NDArray[np.float32]
    has_classes: bool = True

    @property
    def bound(self) -> float:
        """How far an fp32 artifact may be off: float32's own noise, as torch shows it on this model, eight times."""
        with np.errstate(invalid="ignore"):
            noise = float(np.abs(self.torch_fp32 - self.exact).max())
        return max(2e-5 * float(np.abs(self.exact).max()), _OTHER_ORDERS * noise)

    def first(self, images: Array) -> Reference:
        """The reference of some of the images, by their numbers."""
        return replace(self, exact=self.exact[images], torch_fp32=self.torch_fp32[images])


def reference(
    model: HydraViT, heads: int, pixels_BHWC: Pixels, preprocessing: Preprocessing, precision: Precision = "fp32"
) -> Reference:
    """Runs the dense subnetwork *heads* on *pixels_BHWC*, in float32 and in float64, a batch at a time.

    With *precision* fp16 every tensor of the normalised form is rounded to it first, and float32 computes with the
    norms' epsilon as float16 has it: there some formats hold it so, and where it matters, artifacts may be off by that.
    Otherwise the subnetwork is a view of *model*; float64 weights exist one layer at a time: this needs hardly any
    memory. For int8, whose gate needs many images and no such exactness, float32 stands for both.
    """
    dense, epsilon = model.subnetwork(heads, copy=False).eval(), model.config.layer_norm_eps
    if precision == "fp16":
        dense = _rounded(model, heads)
        epsilon = float(max(np.float16(epsilon), np.finfo(np.float16).smallest_subnormal))
    outputs = _Outputs(dense, model.config)
    return _computed(outputs, pixels_BHWC, preprocessing.normalise, epsilon, exactly=precision not in GATED)


def of_images(model: HydraViT, heads: int, image_BCHW: NDArray[np.float32]) -> Reference:
    """What the dense subnetwork *heads* computes of normalised images."""
    dense = model.subnetwork(heads, copy=False).eval()
    outputs = _Outputs(dense, model.config)
    return _computed(outputs, image_BCHW, lambda batch, dtype: batch.astype(dtype), model.config.layer_norm_eps)


@dataclass(frozen=True)
class _Outputs:
    """What a graph gives of what a dense subnetwork does: timm's without pooling returns the prefix tokens too."""

    dense: VisionTransformer
    config: HydraConfig

    def set_epsilon(self, epsilon: float) -> None:
        """Of all norms."""
        for layer in self.dense.modules():
            norm: Any = layer
            if hasattr(norm, "eps"):
                norm.eps = epsilon

    def __call__(self, image_BCHW: torch.Tensor) -> Array:
        found: torch.Tensor = self.dense(image_BCHW)
        return np.asarray(found[:, self.config.num_prefix_tokens :] if self.config.pooling == "none" else found)


def _computed(
    outputs: _Outputs, images: Array, normalise: Callable[[Array, Any], Array], epsilon: float, exactly: bool = True
) -> Reference:
    """With *epsilon* in float32 and the model's own in float64."""
    from hydra_export.exact import layers_in_float64

    has_classes = outputs.config.num_classes > 0
    outputs.set_epsilon(epsilon)
    torch_fp32 = _run(outputs, images, normalise, np.float32)
    outputs.set_epsilon(outputs.config.layer_norm_eps)
    if not exactly:
        return Reference(torch_fp32.astype(np.float64), torch_fp32, has_classes)
    with layers_in_float64(outputs.dense):
        return Reference(_run(outputs, images, normalise, np.float64), torch_fp32, has_classes)


def _run(
    outputs: _Outputs,
    images: Array,
    normalise: Callable[[Array, Any], Array],
    dtype: type[np.float32 | np.float64],
) -> Array:
    import torch

    with torch.inference_mode():
        batches = [
            outputs(torch.from_numpy(normalise(images[at : at + _BATCH], dtype)))
            for at in range(0, len(images), _BATCH)
        ]
    return np.concatenate(batches)


def compare(logits: Array, expected: Reference) -> ParityRecord:
    """The figures of one runtime, whether they pass or not.

    Raises:
        ParityFailed: *logits* are not of the expected shape.
    """
    exact = expected.exact
    if logits.shape != exact.shape:
        raise ParityFailed(f"The outputs have shape {list(logits.shape)}; expected {list(exact.shape)}.")
    logits = logits.astype(np.float64)
    with np.errstate(all="ignore"):  # NaN and infinity are reported by check
        cosine = _cosines(logits, exact)
        max_abs_error = float(np.abs(logits - exact).max())
    return ParityRecord(
        max_abs_error=max_abs_error,
        bound=expected.bound,
        cosine=float(cosine.min()),
        top1_agreement=float(agreement(logits, expected).mean()),
        num_images=len(exact),
    )


def agreement(logits: Array, expected: Reference) -> NDArray[np.bool_]:
    """Per image, whether the largest logit is the same one; of features, whether they point the same way."""
    if not expected.has_classes:
        with np.errstate(all="ignore"):
            flat = (outputs.reshape(len(outputs), -1).astype(np.float64) for outputs in (logits, expected.exact))
            return np.asarray(_cosines(*flat) >= _SAME_DIRECTION)
    return np.asarray(logits.argmax(axis=1) == expected.exact.argmax(axis=1))


def _cosines(outputs: NDArray[np.float64], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each image, or of each of its tokens."""
    norms = np.linalg.norm(outputs, axis=-1) * np.linalg.norm(exact, axis=-1)
    cosines: NDArray[np.float64] = (outputs * exact).sum(axis=-1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return cosines


def check(name: str, heads: int, record: ParityRecord, where: str = "") -> None:
    """Raises ParityFailed unless *record* passes; NaN never does, nor a model that overflows in torch itself.

    *where* is the runtime that was used, for the message.
    """
    bound = math.inf if record.bound is None else record.bound
    if not record.max_abs_error <= bound < math.inf:
        raise ParityFailed(
            f"{name} does not compute subnetwork {heads}{where and f' in {where}'}: its logits differ by "
            f"{record.max_abs_error:.3g}, more than the allowed {bound:.3g} ({_figures(record)}).",
            "The export was stopped and nothing was kept. Report it with this message.",
        )


def check_rounding(name: str, heads: int, record: ParityRecord, where: str = "") -> None:
    """Raises ParityFailed where *record*, of a runtime that rounds on the way, says something else than the model."""
    agrees = record.top1_agreement >= min(_SMALLEST_AGREEMENT, 1 - 1 / record.num_images)
    passes = agrees and record.cosine >= _SMALLEST_COSINE
    if not (passes and record.max_abs_error < math.inf):
        raise ParityFailed(
            f"{name} loses subnetwork {heads} to rounding{where and f' in {where}'}: its logits differ by "
            f"{record.max_abs_error:.3g} ({_figures(record)}); at least {_SMALLEST_COSINE} and "
            f"{_SMALLEST_AGREEMENT:.0%} are needed.",
            "The export was stopped and nothing was kept. Pass `precision=fp32`, or `check_images` like the app's.",
        )


def check_quantized(name: str, heads: int, record: ParityRecord, gate: Gate, where: str = "") -> None:
    """Raises ParityFailed where the accuracy of *record*, or its agreement where that decides, is below the *gate*."""
    place = f"{name} at k = {heads}{where and f' in {where}'}"
    remedy = "The export was stopped and nothing was kept. Try another `precision`"
    if not record.max_abs_error < math.inf:
        raise ParityFailed(f"{place} outputs NaN or infinity.", f"{remedy}.")
    if record.accuracy is not None and record.accuracy_fp32 is not None:
        drop = record.accuracy_fp32 - record.accuracy
        if drop > gate.max_drop + _ROUNDING:
            raise ParityFailed(
                f"{place} loses {drop:.2f} points of top-1 ({record.accuracy_fp32:.2f} % to {record.accuracy:.2f} % of "
                f"{record.num_images} images); {gate.max_drop:g} are allowed.",
                f"{remedy}, or allow more with `max_drop`.",
            )
    most = 100.0 if gate.max_class_drop is None else gate.max_class_drop
    if record.class_drop is not None and record.class_drop > most + _ROUNDING:
        raise ParityFailed(
            f"{place} loses {record.class_drop:.2f} points of class {record.worst_class}; {most:g} are allowed.",
            f"{remedy}, or allow more with `max_class_drop`.",
        )
    if "agreement" in record.judged_by and record.top1_agreement < LEAST_AGREEMENT:
        why, instead = _why_agreement(record, gate)
        raise ParityFailed(
            f"{place} agrees with the model on {record.top1_agreement:.1%} of {record.num_images} images; "
            f"{LEAST_AGREEMENT:.0%} are needed{why}.",
            f"{remedy}, or {instead}.",
        )


def _why_agreement(record: ParityRecord, gate: Gate) -> tuple[str, str]:
    """Why the agreement of *record* decides, and what would decide instead."""
    if record.accuracy is not None:
        drop = f"too few to show that top-1 drops by at most {gate.max_drop:g} points"
        return f": {drop}", "pass more labelled images, or allow more with `max_drop`"
    if record.accuracy_fp32 is not None:
        chance = f"the model itself is correct on {record.accuracy_fp32:.1f} %, not clearly above chance"
        return f", because the labels are not informative: {chance}", "pass images whose labels are the model's"
    return "", "pass labelled images, to judge by accuracy"


def verifying(target: Target, precision: Precision, further: Collection[str] = ()) -> tuple[Runtime, ...]:
    """The runtimes here that verify an artifact: the target's own, and those of *further* that it has as well."""
    return tuple(each for each in target.runtimes(precision) if not each.further or each.name in further)


def check_further(names: Iterable[str], among: Iterable[Target]) -> None:
    """Raises UnknownName for a runtime that none of the targets has as a further one here."""
    known = {each.name for target in among for precision in target.precisions for each in target.runtimes(precision)}
    for name in names:
        if name not in known:
            raise UnknownName("additional runtime", name, sorted(known), field="verify_with")


def verify(
    target: Target,
    path: Path,
    heads: int,
    precision: Precision,
    expected: Mapping[Precision, Reference],
    run: Callable[[Session], Array],
    name: str = "",
    gate: Gate | None = None,
    further: Collection[str] = (),
) -> tuple[ParityRecord, NDArray[np.bool_]]:
    """Runs the artifact at *path* in every runtime that verifies it here; *run* gives the images to a session.

    The other arguments, and what is returned and raised, are those of ``judged``.

    Raises:
        CheckFailed: one of them cannot run it.
    """
    runtimes = verifying(target, precision, further)
    outputs = ((each, run(target.load(path, heads, runtime=each.name))) for each in runtimes)
    return judged(outputs, heads, precision, expected, name or str(path), gate)


def judged(
    outputs: Iterable[tuple[Runtime, Array]],
    heads: int,
    precision: Precision,
    expected: Mapping[Precision, Reference],
    name: str,
    gate: Gate | None = None,
) -> tuple[ParityRecord, NDArray[np.bool_]]:
    """What the *outputs* of each runtime say of an artifact.

    Args:
        expected: the reference of *precision*, and for fp16 that of fp32 as well, for runtimes that round on the way.
        name: what messages call the artifact.
        gate: for int8; by default it has to agree with the model.

    Returns:
        The record, and per image whether every runtime agreed with the model.

    Raises:
        ParityFailed: one of them did not compute subnetwork *heads*.
    """
    records: dict[str, ParityRecord] = {}
    held: list[ParityRecord] = []  # to the bound, if there is one
    agreed = np.ones(len(expected[precision].exact), np.bool_)
    for runtime, logits in outputs:
        wanted = expected[precision if runtime.exact or precision in GATED else "fp32"]
        record, where = compare(logits, wanted), runtime.name
        if precision in GATED:
            record = _with_accuracy(record, logits, wanted, gate or Gate())
            check_quantized(name, heads, record, gate or Gate(), where)
        else:
            (check if runtime.exact else check_rounding)(name, heads, record, where)
        if runtime.exact:
            held.append(record)
        records[where] = record
        agreed &= agreement(logits, wanted)
    return _combined(records, held), agreed


def _with_accuracy(record: ParityRecord, logits: Array, expected: Reference, gate: Gate) -> ParityRecord:
    right = right_fp32 = None
    if gate.labels is not None:
        right, right_fp32 = (outputs.argmax(axis=1) == gate.labels for outputs in (logits, expected.exact))
    found, worst = judgement(gate, right_fp32, right), None
    if gate.labels is not None and right_fp32 is not None and right is not None and found.accuracy is not None:
        worst = worst_class(gate.labels, right_fp32, right)
    return msgspec.structs.replace(
        record,
        bound=None,
        accuracy=found.accuracy,
        accuracy_fp32=found.accuracy_fp32,
        judged_by=found.judged_by,
        worst_class=None if worst is None else worst[0],
        class_drop=None if worst is None else round(worst[1], 4),
    )


def _combined(records: dict[str, ParityRecord], held: list[ParityRecord]) -> ParityRecord:
    every = list(records.values())
    accuracies = [record.accuracy for record in every if record.accuracy is not None]
    worst = max(every, key=lambda record: -200 if record.class_drop is None else record.class_drop)
    return ParityRecord(
        max_abs_error=max(record.max_abs_error for record in held),
        bound=held[0].bound,
        cosine=min(record.cosine for record in every),
        top1_agreement=min(record.top1_agreement for record in every),
        num_images=every[0].num_images,
        runtimes={name: record.max_abs_error for name, record in records.items()},
        accuracy=min(accuracies, default=None),
        accuracy_fp32=every[0].accuracy_fp32,
        judged_by=next((r.judged_by for r in every if r.judged_by == "top-1 and agreement"), every[0].judged_by),
        worst_class=worst.worst_class,
        class_drop=worst.class_drop,
    )


def _figures(record: ParityRecord) -> str:
    return f"cosine {record.cosine:.6f}, top-1 agreement {record.top1_agreement:.1%} on {record.num_images} images"


def _rounded(model: HydraViT, heads: int) -> VisionTransformer:
    from hydra_export.model import assembled

    rounded = {name: weight.half().float() for name, weight in model.weights(heads).items()}
    return assembled(model.config, heads, rounded)
