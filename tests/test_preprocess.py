"""From any image to the model's input, against torchvision's own transforms."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from hydra_export.errors import BadInput, UnknownName
from hydra_export.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, hydravit, imagenet, inception, named


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


@pytest.mark.parametrize("size", [(40, 40), (61, 40), (40, 61), (37, 300), (20, 9), (36, 35), (32, 32), (1, 5)])
@pytest.mark.parametrize("crop", [1.0, 0.9, 0.875])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_and_input_are_timms_own_to_the_last_bit(size: tuple[int, int], crop: float, interpolation: Any) -> None:
    from timm.data.transforms_factory import create_transform

    ours = Preprocessing(image_size=32, mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation=interpolation, crop=crop)
    theirs = create_transform(
        (3, 32, 32), mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation=interpolation, crop_pct=crop
    )
    image = picture(*size)
    mine = ours.normalise(ours.fit(image)[None])[0]
    assert mine.dtype == np.float32
    np.testing.assert_array_equal(mine, np.asarray(theirs(image)))


@pytest.mark.parametrize("size", [(40, 40), (61, 40), (40, 61), (37, 300), (300, 37), (20, 9), (48, 20), (1, 5)])
@pytest.mark.parametrize("kept", [(48, 20), (20, 48), (33, 34)])
@pytest.mark.parametrize("crop", [1.0, 0.9, 0.875])
def test_images_that_are_not_square_are_timms_own_to_the_last_bit(
    size: tuple[int, int], kept: tuple[int, int], crop: float
) -> None:
    from timm.data.transforms_factory import create_transform

    ours = Preprocessing(image_size=kept, mean=IMAGENET_MEAN, std=IMAGENET_STD, crop=crop)
    theirs = create_transform((3, *kept), mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="bicubic", crop_pct=crop)
    image = picture(*size)
    mine = ours.normalise(ours.fit(image)[None])[0]
    assert mine.shape == (3, *kept)
    np.testing.assert_array_equal(mine, np.asarray(theirs(image)))


def test_a_square_is_one_number_in_json_and_a_pair_another_size() -> None:
    square = Preprocessing(image_size=(32, 32), mean=(0.5,), std=(0.5,))
    assert square == Preprocessing(image_size=32, mean=(0.5,), std=(0.5,))
    assert b'"image_size":32,' in msgspec.json.encode(square)
    oblong = msgspec.json.decode(msgspec.json.encode(msgspec.structs.replace(square, image_size=(16, 32))))
    assert oblong["image_size"] == [16, 32]
    assert msgspec.convert(oblong, Preprocessing).image_shape == (16, 32)
    with pytest.raises(BadInput, match=r"image_size is \(16, 0\)"):
        msgspec.structs.replace(square, image_size=(16, 0))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_strips_are_cropped_before_they_are_resized_and_are_still_timms_to_the_last_bit(interpolation: Any) -> None:
    from timm.data.transforms_factory import create_transform

    random = np.random.default_rng(0)
    for _ in range(30):
        short, ratio = int(random.integers(1, 90)), random.uniform(6, 40)
        size = [short, int(short * ratio)]
        image_size, crop = int(random.integers(1, 80)), float(random.choice([1.0, 0.9, 0.875, 0.5]))
        width, height = size if random.integers(2) else size[::-1]
        image = picture(width, height, "RGB" if random.integers(2) else "L")
        channels = 3 if image.mode == "RGB" else 1
        ours = Preprocessing(
            image_size=image_size, mean=(0.5,) * channels, std=(0.5,) * channels, interpolation=interpolation, crop=crop
        )
        theirs = create_transform(
            (channels, image_size, image_size), interpolation=interpolation, crop_pct=crop, normalize=False
        )
        np.testing.assert_array_equal(ours.fit(image).transpose(2, 0, 1), np.asarray(theirs(image)))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(65_000, 1), (1, 65_000), (2_000_000, 3), (1, 300)])
def test_a_strip_takes_no_more_memory_than_its_crop(size: tuple[int, int], interpolation: Any) -> None:
    """Resized whole, as before, 65,000 x 1 pixels took 16 GiB."""
    import tracemalloc

    image, data = Image.new("RGB", size, (10, 20, 30)), imagenet(224)
    data = msgspec.structs.replace(data, interpolation=interpolation)
    tracemalloc.start()
    pixels = data.fit(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 2**20
    np.testing.assert_array_equal(pixels, np.broadcast_to([10, 20, 30], (224, 224, 3)))


def test_what_hydravit_s_authors_validate_with_is_what_timm_resolves_for_a_variant_that_it_does_not_know() -> None:
    """Their model is made by ``build_model_with_cfg`` as a variant without a configuration in their timm."""
    from timm.data.config import resolve_data_config
    from timm.models._builder import build_model_with_cfg
    from timm.models.vision_transformer import VisionTransformer

    model = build_model_with_cfg(VisionTransformer, "unknown_patch16_224", False, depth=1, embed_dim=64, num_heads=1)
    resolved = resolve_data_config({}, model=model, use_test_size=True)
    assert hydravit(224) == Preprocessing(
        image_size=resolved["input_size"][1],
        mean=resolved["mean"],
        std=resolved["std"],
        interpolation=resolved["interpolation"],
        crop=resolved["crop_pct"],
    )
    assert resolved["crop_mode"] == "center"


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_kind_of_image_becomes_uint8_of_the_models_channels(mode: str, channels: int) -> None:
    data = Preprocessing(image_size=8, mean=(0.5,) * channels, std=(0.5,) * channels)
    pixels = data.fit(picture(13, 11, mode))
    assert pixels.shape == (8, 8, channels)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 0
    assert data.channels == channels


def test_the_centre_is_kept() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 255
    white = Preprocessing(image_size=20, mean=(0.5,) * 3, std=(0.5,) * 3, crop=1.0).fit(Image.fromarray(image))
    assert white.min() == 255


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = picture(16, 16)
    pixels = Preprocessing(image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3, crop=1.0).fit(image)
    np.testing.assert_array_equal(pixels, np.asarray(image))


def test_normalised_input_is_channels_first_and_follows_the_formula() -> None:
    data = Preprocessing(image_size=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    image = data.normalise(pixels, dtype=np.float64)
    assert image.dtype == np.float64
    assert image.shape == (2, 3, 2, 2)
    assert image.flags.c_contiguous
    assert math.isclose(image[1, 2, 0, 1], (pixels[1, 0, 1, 2] / 255 - 0.3) / 0.7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"mean": (0.5,)}, "1 means and 3 standard deviations"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "2 means"),
        ({"mean": (), "std": ()}, "0 means"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "cannot be used"),
        ({"std": (1.0, 0.0, 1.0)}, "cannot be used"),
        ({"std": (1.0, -1.0, 1.0)}, "cannot be used"),
        ({"std": (1.0, float("inf"), 1.0)}, "cannot be used"),
        ({"crop": 0.0}, "crop is 0.0"),
        ({"crop": 1e-9}, "crop is 1e-09"),
        ({"crop": 1.5}, "crop is 1.5"),
        ({"crop": float("nan")}, "crop is nan"),
    ],
)
def test_an_impossible_preprocessing_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        Preprocessing(**{"image_size": 8, "mean": (0.5,) * 3, "std": (0.5,) * 3, **change})
    assert caught.value.remedy
    assert caught.value.exit_status == 2


def test_a_preprocessing_is_found_by_name_or_in_a_file(tmp_path: Path) -> None:
    assert named("imagenet", 64) == imagenet(64)
    assert named("inception", 64) == inception(64)
    assert named("hydravit", 64) == hydravit(64)
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"image_size": 32, "mean": [0.5], "std": [0.25], "crop": 1}))
    assert named(str(file), 64) == Preprocessing(image_size=32, mean=(0.5,), std=(0.25,), crop=1.0)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"No preprocessing 'imagnet'\. Did you mean 'imagenet'"):
        named("imagnet", 64)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b'{"image_size": 32}',
        b"\xff\xfe",
        b'{"image_size": 32, "mean": [0.5], "std": [0.5], "interpolation": "\xff"}',
        b'{"image_size": 32, "mean": [0.5], "std": [0.5], "x\xed\xa0\x80": 1}',
        b"[" * 100_000,
        b'{"x":' * 10_000,
        b'{"image_size": ' + b"9" * 5_000,
        b" " * 2**20,
    ],
)
def test_a_file_that_holds_no_preprocessing_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"mine\.json cannot be used"):
        named(str(tmp_path / "mine.json"), 64)


def test_a_folder_for_a_preprocessing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be used"):
        named(str(tmp_path), 64)


def test_a_pipe_or_a_device_for_a_preprocessing_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(BadInput, match="cannot be used: it is a") as caught:
            named(str(tmp_path / name), 64)
        assert caught.value.exit_status == 2
