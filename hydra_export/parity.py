"""Artifact against PyTorch: what was computed, what was expected, and how far apart they may be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from hydra_export.errors import ParityFailed
from hydra_export.preprocess import Preprocessing
from hydra_export.target import Array, Pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hydra_export.model import HydraViT

_BATCH = 8  # activations of larger ones would need more memory than the weights


class ParityRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How an artifact compared with the float64 subnetwork at one head count.

    Attributes:
        bound: the largest ``max_abs_error`` that passes, in logits.
        cosine: the smallest over the images.
        top1_agreement: share of the images whose largest logit is the same.
    """

    max_abs_error: float
    bound: float
    cosine: float
    top1_agreement: float
    num_images: int


@dataclass(frozen=True)
class Reference:
    """What PyTorch computes at one head count: [num_images, num_classes] in float64 and in float32."""

    exact: NDArray[np.float64]
    torch_fp32: NDArray[np.float32]

    @property
    def bound(self) -> float:
        """How far an fp32 artifact may be off: float32's own noise, as torch shows it on this model, four times."""
        with np.errstate(invalid="ignore"):
            noise = float(np.abs(self.torch_fp32 - self.exact).max())
        return max(1e-5 * float(np.abs(self.exact).max()), 4 * noise)


def reference(model: HydraViT, heads: int, pixels_BHWC: Pixels, preprocessing: Preprocessing) -> Reference:
    """Runs the dense subnetwork *heads* on *pixels_BHWC*, in float32 and in float64, a batch at a time.

    The subnetwork is a view of *model*, and float64 weights exist one layer at a time: this needs hardly any memory.
    """
    import torch

    dense = model.subnetwork(heads, copy=False).eval()

    def logits(dtype: type[np.float32 | np.float64]) -> Array:
        batches = [
            dense(torch.from_numpy(preprocessing.normalise(pixels_BHWC[at : at + _BATCH], dtype))).numpy()
            for at in range(0, len(pixels_BHWC), _BATCH)
        ]
        return np.concatenate(batches)

    with torch.inference_mode():
        torch_fp32 = logits(np.float32)
        with _layers_in_float64(dense):
            exact = logits(np.float64)
    return Reference(exact, torch_fp32)


def compare(logits: Array, expected: Reference) -> ParityRecord:
    """The figures, whether they pass or not.

    Raises:
        ParityFailed: *logits* are not of the expected shape.
    """
    exact = expected.exact
    if logits.shape != exact.shape:
        raise ParityFailed(f"The logits have shape {list(logits.shape)}, expected is {list(exact.shape)}.")
    logits = logits.astype(np.float64)
    with np.errstate(all="ignore"):  # NaN and infinity are reported by check
        norms = np.linalg.norm(logits, axis=1) * np.linalg.norm(exact, axis=1)
        cosine = (logits * exact).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
        max_abs_error = float(np.abs(logits - exact).max())
    return ParityRecord(
        max_abs_error=max_abs_error,
        bound=expected.bound,
        cosine=float(cosine.min()),
        top1_agreement=float((logits.argmax(axis=1) == exact.argmax(axis=1)).mean()),
        num_images=len(exact),
    )


def check(name: str, heads: int, record: ParityRecord) -> None:
    """Raises ParityFailed unless *record* passes; NaN never does, nor a model that overflows in torch itself."""
    if not record.max_abs_error <= record.bound < math.inf:
        raise ParityFailed(
            f"{name} does not compute subnetwork {heads}: its logits differ by {record.max_abs_error:.3g}, "
            f"allowed is {record.bound:.3g} (cosine {record.cosine:.6f}, top-1 agreement "
            f"{record.top1_agreement:.1%} on {record.num_images} images).",
            "The export was stopped and nothing was kept. Try another --opset, or report it with this message.",
        )


@contextmanager
def _layers_in_float64(model: nn.Module) -> Iterator[None]:
    """Each layer's own weights are float64 while it runs and what they were after."""

    narrow: dict[nn.Parameter, Tensor] = {}

    def widen(layer: nn.Module, _inputs: object = None) -> None:
        for parameter in layer.parameters(recurse=False):
            narrow[parameter] = parameter.data
            parameter.data = parameter.data.double()

    def restore(layer: nn.Module, _inputs: object = None, _output: object = None) -> None:
        for parameter in layer.parameters(recurse=False):
            parameter.data = narrow.pop(parameter)

    layers = [layer for layer in model.modules() if layer is not model]
    handles = [layer.register_forward_pre_hook(widen) for layer in layers]
    handles += [layer.register_forward_hook(restore) for layer in layers]
    widen(model)
    try:
        yield
    finally:
        restore(model)
        for handle in handles:
            handle.remove()
