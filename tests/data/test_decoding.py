"""An image file is decoded upright and in 8 bits, or refused with its name; whoever wrote it, nothing is waited for."""

from __future__ import annotations

import io
import os
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hydra_export.data import folder_images
from hydra_export.data.decoding import decoded
from hydra_export.errors import BadData
from hydra_export.preprocess import imagenet


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG of 8-bit RGB that claims this size, whatever it holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).convert(mode)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_an_image_is_turned_as_its_exif_orientation_says(orientation: int, kind: str) -> None:
    quadrants = Image.new("L", (48, 32), 0)
    quadrants.paste(255, (0, 0, 24, 16))  # the first pixel of the stored rows lies in the bright one
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(decoded(io.BytesIO(saved(quadrants.convert("RGB"), kind, exif=exif)), "photo").convert("L"))
    assert upright.shape == ((32, 48) if orientation < 5 else (48, 32))
    row, column = np.argwhere(upright > 128).mean(axis=0) // (np.array(upright.shape) / 2)
    # TIFF 6.0, "Orientation": where the stored first row and first column are seen.
    assert (row, column) == {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[
        orientation
    ]


def palette_with_transparency() -> bytes:
    return saved(noise().quantize(16), "PNG", transparency=bytes(range(16)))


def animation() -> bytes:
    return saved(noise(), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 30), n) for n in ("red", "blue")])


@pytest.mark.parametrize(
    "content",
    [
        saved(noise("CMYK"), "JPEG"),
        saved(noise("1"), "PNG"),
        saved(noise("LA"), "PNG"),
        saved(noise("RGBA"), "PNG"),
        palette_with_transparency(),
        animation(),
        saved(noise(), "PPM"),
        saved(noise(), "BMP"),
        saved(noise(), "MPO", save_all=True, append_images=[noise()]),
    ],
)
def test_every_usual_kind_of_image_is_decoded(content: bytes) -> None:
    image = decoded(io.BytesIO(content), "photo")
    assert imagenet(32).fit(image).std() > 10
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as plain:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(plain.convert("RGB")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (png(20_000, 20_000), "exceeds limit of 178956970 pixels"),
        (png(2**31 - 1, 2**31 - 1), "exceeds limit of 178956970 pixels"),
        (png(40, 30, b"\0" * 100), "[Tt]runcated"),
        (saved(noise(), "PNG")[:200], "[Tt]runcated"),
        (saved(noise(), "JPEG")[:300], "[Tt]runcated"),
        (saved(Image.fromarray(np.full((30, 30), 40_000, np.uint16)), "PNG"), "more than 8 bits"),
        (saved(Image.fromarray(np.full((30, 30), 0.5, np.float32)), "TIFF"), "more than 8 bits"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify image file"),
        (b"", "cannot identify image file"),
    ],
)
def test_what_cannot_be_decoded_is_refused_with_its_name(content: bytes, said: str) -> None:
    with pytest.raises(BadData, match=f"Image photo .*{said}") as caught:
        decoded(io.BytesIO(content), "photo")
    assert caught.value.exit_status == 2
    assert caught.value.remedy


def test_an_image_above_pillow_s_warning_and_below_its_limit_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30 * 40 - 1)
    assert decoded(io.BytesIO(saved(noise(), "PNG")), "photo").size == (40, 30)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


MAKERS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "sparse": sparse,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_no_regular_file_of_a_sensible_size_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    MAKERS[kind](tmp_path / "photo.png")
    with pytest.raises(BadData, match=r"Image .*photo\.png cannot be read: it "):
        decoded(tmp_path / "photo.png")


def test_damage_of_any_kind_is_an_error_of_ours() -> None:
    """Of Pillow's, which have no common base, and of odd metadata, whose warnings are errors here."""
    chance, exif = random.Random(0), Image.Exif()
    exif.update({0x0112: 6, 0x010F: "maker"})
    seeds = [saved(noise(), kind, exif=exif) for kind in ("PNG", "JPEG", "TIFF", "WEBP")]
    seeds += [
        animation(),
        palette_with_transparency(),
        saved(noise(), "PPM"),
        saved(noise(), "TIFF", compression="lzma"),
    ]
    refused = 0
    for number in range(1500):
        content = bytearray(seeds[number % len(seeds)])
        for _ in range(chance.choice([1, 3, 20])):
            content[min(int(chance.expovariate(1 / 200)), len(content) - 1)] = chance.randrange(256)
        try:
            imagenet(16).fit(decoded(io.BytesIO(content), "photo"))
        except BadData:
            refused += 1
    assert 300 < refused < 1450


def test_a_pipe_in_a_folder_of_images_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved(noise(), "PNG"))
    os.mkfifo(tmp_path / "b.png")
    assert len(folder_images(tmp_path, imagenet(32))) == 1
