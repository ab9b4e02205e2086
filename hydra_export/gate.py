"""What an int8 artifact has to keep, and how much some images can tell of it.

Labelled images judge it by its accuracy: of the float model's it may lose ``max_drop`` points, and a larger drop on
these images fails. A small drop says little where the labels or the images do not carry it:

- Labels that the float model meets no better than chance judge nothing, as there is nothing to lose. Chance is the
  share of the most frequent label, what always giving one answer would score (the "no information rate" of
  caret::confusionMatrix, https://search.r-project.org/CRAN/refmans/caret/html/confusionMatrix.html): an exact
  one-sided binomial test has to reject it at 1 %. Otherwise the artifact's agreement with the float model decides.
- A few images do not tell a drop of one point from one of five. Where the 95 % upper limit of the drop (Bonett & Price
  2012, doi:10.3102/1076998611411915, for paired proportions) is above ``max_drop``, agreement has to hold as well.

Agreement, the share of images with the same largest logit, needs no labels: 97 % at least. Of features, an image agrees
whose features, or patch tokens side by side, have a cosine of 0.99 or more with the model's. From 50 images on, an
artifact that would agree on 90 % of all images passes in fewer than one of 20 cases; fewer images judge nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hydra_export.errors import BadInput

JudgedBy = Literal["bound", "top-1", "top-1 and agreement", "agreement", "nothing"]

LEAST_IMAGES = 50
LEAST_CLASS_IMAGES = 10  # of fewer, one image is more than ten points
LEAST_AGREEMENT = 0.97
_CHANCE_LEVEL = 0.01
_Z = 1.6449  # of a normal distribution, 95 % lie below it


@dataclass(frozen=True)
class Gate:
    """What an int8 artifact has to keep.

    Attributes:
        labels: int64 [num_images]; None where unknown: then the share of images on which it agrees decides.
        max_drop: of top-1, in percentage points.
        max_class_drop: of the images of one class, likewise; None for any.
        open: nothing is held against it.
    """

    labels: NDArray[np.int64] | None = None
    max_drop: float = 1.0
    open: bool = False
    max_class_drop: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise BadInput(f"`max_drop` is {self.max_drop}.", "Use percentage points from 0 to 100.")
        if self.max_class_drop is not None and not 0 <= self.max_class_drop <= 100:
            raise BadInput(f"`max_class_drop` is {self.max_class_drop}.", "Use percentage points from 0 to 100.")


@dataclass(frozen=True)
class Judgement:
    """What labelled images tell of an artifact.

    Attributes:
        accuracy: top-1 in percent; None where it says nothing: without labels, or where the float model is not clearly
            above chance on them.
        accuracy_fp32: of the float model; None without labels.
    """

    judged_by: JudgedBy
    accuracy: float | None = None
    accuracy_fp32: float | None = None


def judgement(gate: Gate, right_fp32: NDArray[np.bool_] | None, right: NDArray[np.bool_] | None) -> Judgement:
    """What decides on an artifact: per labelled image, whether the float model and the artifact are right."""
    if gate.open:
        return Judgement("nothing")
    if gate.labels is None or right_fp32 is None or right is None:
        return Judgement("agreement")
    accuracy_fp32, accuracy = _percent(right_fp32), _percent(right)
    if not above_chance(int(right_fp32.sum()), len(right_fp32), chance(gate.labels)):
        return Judgement("agreement", None, accuracy_fp32)
    settled = largest_drop(right_fp32, right) <= gate.max_drop
    return Judgement("top-1" if settled else "top-1 and agreement", accuracy, accuracy_fp32)


def worst_class(
    labels: NDArray[np.int64], right_fp32: NDArray[np.bool_], right: NDArray[np.bool_]
) -> tuple[int, float] | None:
    """The class of which an artifact loses most, and percentage points; None where no class has enough images."""
    classes, counts = np.unique(labels, return_counts=True)
    drops = [
        (int(c), 100 * float(right_fp32[labels == c].mean() - right[labels == c].mean()))
        for c, count in zip(classes, counts, strict=True)
        if count >= LEAST_CLASS_IMAGES
    ]
    return max(drops, key=lambda each: each[1], default=None)


def chance(labels: NDArray[np.int64]) -> float:
    """The share of right answers that always giving the most frequent of *labels* would have."""
    return float(np.unique(labels, return_counts=True)[1].max()) / len(labels)


def above_chance(num_right: int, num_images: int, by_chance: float) -> bool:
    """Whether so many right answers are more than a share of *by_chance* would give in 99 of 100 cases."""
    from scipy.special import bdtrc

    return float(bdtrc(num_right - 1, num_images, by_chance)) < _CHANCE_LEVEL


def largest_drop(right_fp32: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    """Percentage points of top-1 that an artifact loses at most: the one-sided 95 % limit of Bonett and Price."""
    num = len(right)
    lost = (int((right_fp32 & ~right).sum()) + 1) / (num + 2)
    won = (int((right & ~right_fp32).sum()) + 1) / (num + 2)
    return 100 * (lost - won + _Z * math.sqrt((lost + won - (lost - won) ** 2) / (num + 2)))


def _percent(right: NDArray[np.bool_]) -> float:
    return round(100 * float(right.mean()), 4)
