"""The images that an export is verified on, and what int8 is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hydra_export.arrays import Array, Pixels
from hydra_export.checkpoint_file import CheckpointInfo
from hydra_export.data import FASHION_MNIST_LABELS, ImageSet, packaged_images
from hydra_export.errors import BadInput
from hydra_export.exporting.plan import Plan
from hydra_export.gate import LEAST_IMAGES, Gate
from hydra_export.target import GATED, InputForm, Precision


@dataclass(frozen=True)
class Sample:
    """As many *images* as the plan takes, those that each precision takes, and the *gate* of int8 with its labels."""

    images: ImageSet
    pixels: dict[Precision, Pixels]
    gate: Gate

    @property
    def source(self) -> str:
        """What they are, in words."""
        used = max(map(len, self.pixels.values()))
        return f"{self.images.source} ({used} used)" if used < len(self.images) else self.images.source

    def given(self, plan: Plan) -> dict[InputForm, Array]:
        """The images in each input form that an artifact of *plan* takes."""
        pixels = self.images.pixels[: plan.most_images]
        forms = {write.job.spec.input for write in plan.writes}
        return {
            form: pixels if form == "image" else plan.checkpoint.info.preprocessing.normalise(pixels) for form in forms
        }


def sampled(plan: Plan, images: ImageSet | Callable[[int], ImageSet] | None, gate: Gate) -> Sample:
    """The images of *plan*, read here where *images* is what reads them; without, those of the package.

    Raises:
        BadInput: they cannot judge int8.
    """
    info = plan.checkpoint.info
    of_the_model = images is not None or info.labels == FASHION_MNIST_LABELS
    if images is None:
        images = packaged_images(info.preprocessing, plan.most_images)
    else:
        images = _with_own_labels(images if isinstance(images, ImageSet) else images(plan.most_images), info)
    judged = [limit for name, limit in plan.num_images.items() if name in GATED]
    gate = _gate(gate, images, max(judged, default=0), of_the_model)
    return Sample(images, {name: images.pixels[:limit] for name, limit in plan.num_images.items()}, gate)


def _with_own_labels(images: ImageSet, info: CheckpointInfo) -> ImageSet:
    """*images* with labels where they count the model's classes; others would judge it by what it never learnt."""
    same = images.label_names == info.labels if info.labels else len(images.label_names) == info.config.num_classes
    if images.labels is None or (same and info.config.num_classes):
        return images
    return replace(images, labels=None, source=f"{images.source}, unlabelled: their classes are not the model's")


def _gate(gate: Gate, images: ImageSet, limit: int, of_the_model: bool) -> Gate:
    """*gate* with the labels of the images that int8 is judged by: *limit* at most, which is 0 without int8."""
    if gate.open or not limit:
        return gate
    if not of_the_model:
        raise BadInput(
            "int8 needs images like the model's training images to judge its accuracy, and there are none.",
            "Pass `check_images`, best with a folder per class, or `accept_unchecked` to skip the check.",
        )
    if len(images) < LEAST_IMAGES:
        raise BadInput(
            f"{len(images)} images are too few to judge int8: an artifact that is often wrong would pass.",
            f"Pass `check_images` with {LEAST_IMAGES} or more, or `accept_unchecked` to skip the check.",
        )
    return replace(gate, labels=None if images.labels is None else images.labels[:limit])
