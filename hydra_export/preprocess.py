"""How an image becomes the model's input: the one truth for training, parity and bundles."""

# B batch, H height, W width, C channels
from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hydra_export import documents, files, runtime
from hydra_export.errors import BadInput, UnknownName, Unreadable
from hydra_export.image_size import ImageSize, as_shape, as_size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Interpolation = Literal["nearest", "bilinear", "bicubic"]
_LARGEST_FILE = 2**16  # bytes of a preprocessing in JSON


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From any image to the model's input: resize, centre crop, then (pixel / 255 - mean) / std.

    The shorter side is resized to ``image_size / crop`` pixels and the centre ``image_size`` square is kept, with
    torchvision's rounding, so that published accuracies apply. With a height and a width, the image is resized until
    it covers both, divided by ``crop``, as timm's ResizeKeepRatio does, and the centre is kept.

    Attributes:
        image_size: pixels: the side, or height and width.
    """

    image_size: ImageSize
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bicubic"
    crop: float = 0.875

    def __post_init__(self) -> None:
        if min(self.image_shape) < 1:
            raise BadInput(f"Preprocessing image_size is {self.image_size}.", "Pass a positive number of pixels.")
        msgspec.structs.force_setattr(self, "image_size", as_size(*self.image_shape))
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise BadInput(
                f"Preprocessing has {len(self.mean)} means and {len(self.std)} standard deviations.",
                "Pass one of each per channel, for 1 or 3 channels.",
            )
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(s) and s > 0 for s in self.std):
            raise BadInput(
                f"Preprocessing mean {self.mean} and std {self.std} cannot be used.",
                "Use finite means and positive standard deviations.",
            )
        if not 0.1 <= self.crop <= 1:
            raise BadInput(f"Preprocessing crop is {self.crop}.", "Use a share from 0.1 to 1.")

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return len(self.mean)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width that are kept."""
        return as_shape(self.image_size)

    @property
    def image_text(self) -> str:
        """The size as people write it: ``224x224``, height first."""
        return "{}x{}".format(*self.image_shape)

    @property
    def is_square(self) -> bool:
        """Whether images are as wide as high."""
        return isinstance(self.image_size, int)

    @property
    def covered_shape(self) -> tuple[int, int]:
        """Height and width that the resized image covers before the crop; of a square, its shorter side twice."""
        height, width = (math.floor(side / self.crop) for side in self.image_shape)
        return height, width

    def fit(self, image: Image.Image) -> NDArray[np.uint8]:
        """*image* resized, cropped and converted: uint8 [H, W, C] in 0-255."""
        pixels: NDArray[np.uint8] = runtime.cropped(image, msgspec.to_builtins(self))
        return pixels

    def normalise(
        self, pixels_BHWC: NDArray[np.uint8], dtype: type[np.float32] | type[np.float64] = np.float32
    ) -> NDArray[Any]:
        """uint8 [B, H, W, C] in 0-255 as the model's normalised input [B, C, H, W]."""
        image_BHWC: NDArray[Any] = pixels_BHWC.astype(dtype) / np.asarray(255, dtype)
        image_BHWC = (image_BHWC - np.asarray(self.mean, dtype)) / np.asarray(self.std, dtype)
        return np.ascontiguousarray(image_BHWC.transpose(0, 3, 1, 2))


def imagenet(image_size: ImageSize) -> Preprocessing:
    """The preprocessing of DeiT on ImageNet-1K (timm's deit_*_patch16_224: bicubic, crop 0.9)."""
    return Preprocessing(image_size=image_size, mean=IMAGENET_MEAN, std=IMAGENET_STD, crop=0.9)


def inception(image_size: ImageSize) -> Preprocessing:
    """timm's preprocessing of the original ViTs (vit_*_patch16_224: mean and std 0.5, bicubic, crop 0.9)."""
    half = (0.5, 0.5, 0.5)
    return Preprocessing(image_size=image_size, mean=half, std=half, crop=0.9)


def hydravit(image_size: ImageSize) -> Preprocessing:
    """The preprocessing by which HydraViT's authors validate: ImageNet's mean and std, bicubic, crop 0.875.

    Their validate.py takes timm's data configuration of the model, which is created as a variant that their timm
    registers no configuration for, so that timm's defaults hold; the one in hydravit.py (mean and std 0.5, crop 0.9) is
    never used (github.com/ds-kiel/HydraViT at 45a78ae: validate.py, timm/models/hydravit.py, timm/models/__init__.py).
    """
    return Preprocessing(image_size=image_size, mean=IMAGENET_MEAN, std=IMAGENET_STD, crop=0.875)


def named(given: str, image_size: ImageSize) -> Preprocessing:
    """The preprocessing called *given*, or the one in the JSON file at that path.

    Raises:
        BadInput: neither a known name nor a readable file of the right fields.
    """
    if given in (known := {"hydravit": hydravit, "imagenet": imagenet, "inception": inception}):
        return known[given](image_size)
    remedy = f'Use {", ".join(known)}, or a JSON file: {{"image_size": 224, "mean": [..], "std": [..]}}.'
    try:
        return documents.decode_json(files.read(given, _LARGEST_FILE), Preprocessing)
    except Unreadable as error:
        if error.missing:
            raise UnknownName("preprocessing", given, known) from None
        raise BadInput(f"`preprocessing` {given} cannot be used: {error.reason}.", remedy) from error
    except msgspec.DecodeError as error:
        raise BadInput(f"`preprocessing` {given} cannot be used: {error}.", remedy) from error
