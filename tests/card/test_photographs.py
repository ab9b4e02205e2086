"""A photograph becomes in every language what timm's own transform makes of it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hydra_export import bundle, runtime, targets
from hydra_export.card import plain, snippets
from hydra_export.image_size import ImageSize
from hydra_export.preprocess import Interpolation, Preprocessing
from tests.conftest import best_labels

Pixels = NDArray[np.uint8]
_ALLOWED_LEVELS = 1  # of 255; another compiler may contract a multiplication and an addition into one rounding


def preprocessing(
    image_size: ImageSize, crop: float, interpolation: Interpolation = "bicubic", channels: int = 3
) -> Preprocessing:
    values = (0.4, 0.5, 0.6)[:channels]
    return Preprocessing(image_size=image_size, mean=values, std=values, crop=crop, interpolation=interpolation)


PREPROCESSINGS = (
    preprocessing(224, 0.9),
    preprocessing(224, 0.875, "bilinear"),
    preprocessing(63, 0.95, "bicubic"),
    preprocessing(28, 1.0, "bicubic", channels=1),
    preprocessing((96, 224), 0.9),
    preprocessing((225, 64), 0.875, "bilinear"),
)


def photographs() -> list[Image.Image]:
    """scikit-learn's two, whole and in pieces of odd sizes: high and wide, to be enlarged and to be made smaller."""
    from sklearn.datasets import load_sample_image

    china, flower = (Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))
    found = [china, flower.transpose(Image.Transpose.ROTATE_90)]
    for photo, (left, top, width, height) in (
        (china, (11, 5, 333, 250)),
        (china, (301, 17, 251, 401)),
        (flower, (120, 90, 97, 61)),
        (flower, (200, 150, 31, 57)),
        (china, (0, 170, 640, 97)),
        (flower, (250, 3, 224, 224)),
    ):
        found.append(photo.crop((left, top, left + width, top + height)))
    if runtime._tall_images_down_first():  # with an older Pillow these differ by up to 4 levels
        found += [china.crop((201, 0, 330, 427)), flower.crop((280, 0, 373, 425))]
    return found


def timm_pixels(photo: Image.Image, data: Preprocessing) -> Pixels:
    """uint8 [H, W, C] by timm's transform, which a grey model sees after timm's own conversion of the file."""
    from timm.data.transforms_factory import create_transform

    size = (data.channels, *data.image_shape)
    transform = create_transform(
        size, is_training=False, interpolation=data.interpolation, crop_pct=data.crop, normalize=False
    )
    return np.asarray(transform(photo.convert("RGB" if data.channels == 3 else "L"))).transpose(1, 2, 0)


def filled(folder: Path, data: Preprocessing, where: Path) -> Path:
    """A folder with the programs of a bundle whose model has *data*."""
    manifest = bundle.read(folder)
    manifest = msgspec.structs.replace(manifest, model=msgspec.structs.replace(manifest.model, preprocessing=data))
    entries = [msgspec.structs.replace(manifest.artifacts[0], target=name) for name in targets.names()]
    manifest = msgspec.structs.replace(manifest, artifacts=tuple(entries))
    best = dict.fromkeys((2, 4), (0, 0.5))
    for path, text in {**snippets.files(manifest, best), **plain.files(manifest)}.items():
        (where / path).parent.mkdir(parents=True, exist_ok=True)
        (where / path).write_text(text, encoding="utf-8")
    return where


def check_like_timm(made: Callable[[Image.Image], Pixels], data: Preprocessing) -> None:
    for photo in photographs():
        expected = timm_pixels(photo, data)
        difference = np.abs(made(photo).reshape(expected.shape).astype(int) - expected)
        assert difference.max() <= _ALLOWED_LEVELS, (photo.size, data)
        assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("data", PREPROCESSINGS)
def test_ours_is_timms_to_the_last_bit(data: Preprocessing) -> None:
    for photo in photographs():
        np.testing.assert_array_equal(data.fit(photo), timm_pixels(photo, data))


@pytest.mark.parametrize("data", [*PREPROCESSINGS, preprocessing(40, 0.875, "bilinear", channels=1)])
def test_the_preprocessing_file_leaves_nothing_open(folder: Path, tmp_path: Path, data: Preprocessing) -> None:
    said = json.loads((filled(folder, data, tmp_path) / plain.PREPROCESSING).read_text())
    for photo in photographs():
        difference = np.abs(followed(said, photo).astype(int) - timm_pixels(photo, data))
        assert difference.max() <= _ALLOWED_LEVELS
        assert (difference > 0).mean() < 1e-3


def followed(said: dict[str, Any], photo: Image.Image) -> Pixels:
    """What somebody does who knows preprocessing.json alone, and nothing of Pillow; its formulas are computed."""
    pixels = np.asarray(photo).astype(np.int64)
    red, green, blue = pixels.transpose(2, 0, 1)
    if said["colors"] == "grey":
        pixels = eval(said["pixels"]["grey"], {"red": red, "green": green, "blue": blue})[..., None]
    height, width = pixels.shape[:2]
    resize, crop = said["resize"], said["center_crop"]
    if "covers" in resize:
        names = {"width": width, "height": height, "min": min, "round_half_to_even": round}
        names["ratio"] = eval(resize["ratio"], names)
        new = [eval(resize[side], names) for side in ("width", "height")]
    else:
        given = {"floor": math.floor, "longer": max(photo.size), "shorter": min(photo.size)}
        longer = eval(resize["longer_side"], given)
        new = [longer if side == max(photo.size) else resize["shorter_side"] for side in (width, height)]
        if width == height:
            new = [resize["shorter_side"]] * 2
    tall = height > 2 * width and new[1] < height  # as the sentence says
    for axis in (0, 1) if tall else (1, 0):
        pixels = np.clip(np.floor(along(pixels, axis, new[1 - axis], resize) + 0.5), 0, 255)
    names = {"width": new[0], "height": new[1], "round_half_to_even": round}
    left, top = eval(crop["left"], names), eval(crop["top"], names)
    return pixels[top : top + crop["height"], left : left + crop["width"]].astype(np.uint8)


def along(pixels: NDArray[Any], axis: int, new: int, resize: dict[str, Any]) -> NDArray[Any]:
    old = pixels.shape[axis]
    i, j = np.arange(new)[:, None], np.arange(old)[None]
    distance = np.abs((j + 0.5 - (i + 0.5) * old / new) / max(1, old / new))
    weights = np.zeros_like(distance)
    for part in reversed(resize["kernel"].split(", ")):  # "FORMULA for |x| < LIMIT"
        formula, limit = part.split(" for |x| < ")
        python = formula.replace("|x|", "x").replace("^", "**").replace(" x", "*x")
        python = python.replace("-*", "- ").replace("+*", "+ ")
        weights = np.where(distance < float(limit), eval(python, {"x": distance}), weights)
    weights = np.round(weights / weights.sum(axis=1, keepdims=True) * 2**22) / 2**22
    return np.moveaxis(np.tensordot(weights, pixels, ([1], [axis])), 0, axis)


@pytest.mark.parametrize("data", PREPROCESSINGS)
def test_javascript_makes_of_a_photograph_what_timm_makes(folder: Path, tmp_path: Path, data: Preprocessing) -> None:
    if not shutil.which("node"):
        pytest.skip("no node")
    module = filled(folder, data, tmp_path) / "snippets" / "preprocess.mjs"
    program = f"""
        import {{ readFileSync, writeFileSync }} from "node:fs";
        import {{ fitted, normalised }} from {json.dumps(module.as_uri())};
        const preprocessing = {msgspec.json.encode(data).decode()};
        const [width, height, step] = process.argv.slice(1).map(Number);
        const pixels = fitted({{ data: readFileSync(0), width, height }}, preprocessing);
        writeFileSync(1, pixels);
        writeFileSync({json.dumps(str(tmp_path / "normalised"))}, normalised(pixels, preprocessing));
    """

    def made(photo: Image.Image) -> Pixels:
        photo = photo.convert("RGBA") if photo.width % 2 else photo  # a page has four bytes a pixel
        command = ["node", "--input-type=module", "--eval", program, str(photo.width), str(photo.height)]
        done = subprocess.run(command, input=photo.tobytes(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return np.frombuffer(done.stdout, np.uint8)

    check_like_timm(made, data)
    last = timm_pixels(photographs()[-1], data)
    ours = np.fromfile(tmp_path / "normalised", np.float32)
    np.testing.assert_allclose(ours, data.normalise(last[None]).ravel(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("data", PREPROCESSINGS)
def test_cpp_makes_of_a_photograph_what_timm_makes(folder: Path, tmp_path: Path, data: Preprocessing) -> None:
    if not shutil.which("g++"):
        pytest.skip("no g++")
    filled(folder, data, tmp_path)
    (tmp_path / "main.cpp").write_text("""
        #include "snippets/preprocess.hpp"
        #include <iostream>
        int main(int, char** arguments) try {
          for (uint8_t byte : preprocess::fitted(std::string(arguments[1]))) std::cout.put(static_cast<char>(byte));
        } catch (const std::runtime_error& error) { std::cerr << error.what(); return 2; }
    """)
    strict = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["g++", *strict, str(tmp_path / "main.cpp"), "-o", str(tmp_path / "main")], check=True)

    def run(photo: Path) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([tmp_path / "main", photo], capture_output=True, check=False)

    def made(photo: Image.Image) -> Pixels:
        photo.save(tmp_path / "photo.ppm")
        return np.frombuffer(run(tmp_path / "photo.ppm").stdout, np.uint8)

    check_like_timm(made, data)
    whole = (tmp_path / "photo.ppm").read_bytes()
    for damaged in (b"", whole[:-1], b"P6 0 4 255\n", b"P6 999999999 999999999 255\n", whole.replace(b"P6", b"P5", 1)):
        (tmp_path / "photo.ppm").write_bytes(damaged)
        assert run(tmp_path / "photo.ppm").returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("data", PREPROCESSINGS)
def test_kotlin_makes_of_a_photograph_what_timm_makes(folder: Path, tmp_path: Path, data: Preprocessing) -> None:
    compiler = os.environ.get("HYDRA_EXPORT_KOTLINC")
    if not compiler or not shutil.which("java"):
        pytest.skip("no java, or no HYDRA_EXPORT_KOTLINC: the path of kotlinc")
    sources = [filled(folder, data, tmp_path) / "snippets" / "Preprocess.kt", tmp_path / "Main.kt"]
    sources[1].write_text("""
        fun main(arguments: Array<String>) {
            val (width, height) = arguments.map { it.toInt() }
            val argb = java.nio.IntBuffer.allocate(width * height)
            argb.put(java.nio.ByteBuffer.wrap(System.`in`.readBytes()).asIntBuffer())
            System.out.write(fitted(argb.array(), width, height))
            System.out.flush()
        }
    """)
    jar = tmp_path / "main.jar"
    subprocess.run([compiler, "-Werror", *map(str, sources), "-include-runtime", "-d", str(jar)], check=True)

    def made(photo: Image.Image) -> Pixels:
        argb = np.dstack([np.full(photo.size[::-1], 255, np.uint8), np.asarray(photo)]).tobytes()
        command = ["java", "-cp", str(jar), "MainKt", str(photo.width), str(photo.height)]
        return np.frombuffer(subprocess.run(command, input=argb, capture_output=True, check=True).stdout, np.uint8)

    check_like_timm(made, data)


def test_python_names_the_best_labels_of_a_photograph_that_lies_on_its_side(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    photographs()[2].save(tmp_path / "photo.png", exif=exif)
    upright = photographs()[2].transpose(Image.Transpose.ROTATE_270)
    for name in ("tensor", "image", "three"):
        manifest = bundle.read(bundles[name])
        done = python(bundles[name], "--image", tmp_path / "photo.png", "--heads", 4)
        assert done.returncode == 0, done.stderr
        lines = dict(line.split(", k = 4: ") for line in done.stdout.splitlines())
        assert lines.keys() == {each.path for each in manifest.artifacts if 4 in each.heads}
        exact = [line for path, line in lines.items() if not re.search("fp16|int8", path)]
        assert exact == [best_labels(bundles[name], manifest, upright)] * len(exact)


def python(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "snippets" / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_python_says_what_it_cannot_name(bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    unreadable = python(bundles["image"], "--image", tmp_path / "text.jpg")
    assert (unreadable.returncode, "text.jpg cannot be read" in unreadable.stderr) == (2, True)
    for name in ("backbone", "projection"):
        features = python(bundles[name], "--image", tmp_path / "text.jpg")
        assert (features.returncode, "no classes" in features.stderr) == (2, True)
