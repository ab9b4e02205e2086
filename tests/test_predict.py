"""``hydra-export predict``: a bundle names what is on images."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from hydra_export import api, archive, bundle, checkpoint
from hydra_export.cli import main
from hydra_export.data.packaged import packaged_images
from hydra_export.errors import BadInput, VerificationFailed
from hydra_export.exporting import export, jobs
from hydra_export.prediction import predict
from hydra_export.preprocess import Preprocessing

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the packaged model."""
    out = tmp_path_factory.mktemp("predict") / "bundle"
    export(checkpoint.load(), out, jobs(graphs=["separate", "universal"]), heads=(3, 6))
    return out


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[list[Path], list[str]]:
    """Ten test images of Fashion-MNIST as files, and what is on them."""
    preprocessing: Preprocessing = checkpoint.load().info.preprocessing
    images = packaged_images(preprocessing, 10)
    assert images.labels is not None
    paths = [tmp_path / f"{index}.png" for index in range(10)]
    for path, pixels in zip(paths, images.pixels, strict=True):
        Image.fromarray(pixels.squeeze()).save(path)
    return paths, [images.label_names[label] for label in images.labels]


def test_the_model_names_most_of_what_is_on_images(
    named: Path, pictures: tuple[list[Path], list[str]], capsys: Capture
) -> None:
    paths, names = pictures
    assert main(["predict", str(named), *map(str, paths), "--top", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["heads"] == 6
    assert [one["image"] for one in document["images"]] == [*map(str, paths)]
    best = [one["classes"][0]["name"] for one in document["images"]]
    assert sum(a == b for a, b in zip(best, names, strict=True)) >= 8
    for one in document["images"]:
        first, second = one["classes"]
        assert 1 >= first["probability"] >= second["probability"] >= 0
        assert first["index"] != second["index"]


def test_every_artifact_and_the_archive_answer_alike(
    named: Path, pictures: tuple[list[Path], list[str]], tmp_path: Path
) -> None:
    paths, _ = pictures
    manifest = bundle.read(named)
    archive.write(named, tmp_path / "bundle.zip", "bundle")
    answers = [predict(named, paths, heads=3, artifact=entry.path) for entry in manifest.artifacts if 3 in entry.heads]
    assert len(answers) > 1
    answers += [predict(tmp_path / "bundle.zip", paths, heads=3)]
    for answer in answers:
        assert answer.heads == (3,)
        for one, first in zip(answer.images, answers[0].images, strict=True):
            assert [guess.index for guess in one.guesses[:1]] == [guess.index for guess in first.guesses[:1]]
            theirs = [guess.probability for guess in first.guesses]
            assert np.allclose([guess.probability for guess in one.guesses], theirs, atol=1e-4)


@pytest.mark.parametrize(("output", "shape"), [("embedding", (96,)), ("tokens", (16, 96))])
def test_what_has_no_classes_is_shown_by_its_shape_and_written(
    output: Literal["embedding", "tokens"],
    shape: tuple[int, ...],
    pictures: tuple[list[Path], list[str]],
    tmp_path: Path,
    capsys: Capture,
) -> None:
    whole, paths = checkpoint.load(), list(map(str, pictures[0][:3]))
    api.export(whole, tmp_path / "bundle", output=output, heads=6)
    command = ["predict", str(tmp_path / "bundle"), *paths, "--out", str(tmp_path / "given.npy")]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    given = np.load(tmp_path / "given.npy", allow_pickle=False)
    assert (given.dtype, given.shape) == (np.float32, (3, *shape))
    images_BCHW = whole.info.preprocessing.normalise(packaged_images(whole.info.preprocessing, 3).pixels)
    dense = whole.model.subnetwork(6).eval()
    with torch.no_grad():
        tokens_BND = dense.forward_features(torch.from_numpy(images_BCHW)).numpy()
    expected = tokens_BND[:, 0] if output == "embedding" else tokens_BND[:, 1:]
    np.testing.assert_allclose(given, expected, atol=1e-4)
    for one, row in zip(document["images"], expected, strict=True):
        assert (one["classes"], one["shape"]) == ([], list(shape))
        assert one["norm"] == pytest.approx(np.linalg.norm(row), rel=1e-4)
    assert document["output"] == {"embedding": "features", "tokens": "patch_tokens"}[output]
    other = tmp_path / "other.npy"
    other.write_text("notes")
    for path, said in ((other, "is not an array"), (tmp_path / "given.txt", "does not end in .npy")):
        assert main([*command[:-1], str(path)]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert other.read_text() == "notes"
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert " x ".join(map(str, shape)) in shown
    assert "given.npy: float32 [3, " in shown


def test_what_the_bundle_does_not_hold_is_refused(named: Path, pictures: tuple[list[Path], list[str]]) -> None:
    paths, _ = pictures
    with pytest.raises(BadInput, match="k = 3, 6") as refused:
        predict(named, paths, heads=5)
    assert refused.value.field == "artifact"
    with pytest.raises(BadInput, match="contains no such artifact"):
        predict(named, paths, target="tflite")
    with pytest.raises(BadInput, match="`top` is 0"):
        predict(named, paths, top=0)


def test_an_image_that_cannot_be_read_is_named(named: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["predict", str(named), str(tmp_path / "none.png")]) == 2
    assert "none.png cannot be read" in capsys.readouterr().err
    assert main(["predict", str(named)]) == 2
    assert "images" in capsys.readouterr().err.lower()


def test_an_artifact_that_was_changed_is_not_run(
    named: Path, pictures: tuple[list[Path], list[str]], tmp_path: Path
) -> None:
    changed = shutil.copytree(named, tmp_path / "changed")
    path = next(changed.glob("onnx/*-k6.onnx"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # within a weight: the file still opens
    path.write_bytes(content)
    with pytest.raises(VerificationFailed, match=r"k6\.onnx is damaged \(its SHA-256 differs\)"):
        predict(changed, pictures[0][:1], artifact=f"onnx/{path.name}")


def test_of_an_archive_errors_name_the_archive(
    named: Path, pictures: tuple[list[Path], list[str]], tmp_path: Path
) -> None:
    changed = shutil.copytree(named, tmp_path / "changed")
    path = next(changed.glob("onnx/*-k6.onnx"))
    path.write_bytes(b"nothing")
    zipped = tmp_path / "changed.zip"
    archive.write(changed, zipped, "changed")
    with pytest.raises(VerificationFailed) as failed:
        predict(zipped, pictures[0][:1], artifact=f"onnx/{path.name}")
    assert failed.value.message.startswith(f"{zipped} failed: onnx/{path.name} is damaged")
    assert str(failed.value).startswith(failed.value.message)
    assert tempfile.gettempdir() not in str(failed.value).replace(str(tmp_path), "")


@pytest.mark.parametrize("form", ["tensor", "image"])
def test_targets_that_the_run_time_library_does_not_run_answer_by_their_own_sessions(
    form: Literal["tensor", "image"], pictures: tuple[list[Path], list[str]], tmp_path: Path
) -> None:
    api.export(checkpoint.load(), tmp_path / "bundle", targets=["onnx", "coreml"], heads=3, input=form)
    one, other = (predict(tmp_path / "bundle", pictures[0], target=target) for target in ("onnx", "coreml"))
    assert (one.runtime, other.runtime) == ("onnxruntime", "mil")
    np.testing.assert_allclose(one.outputs, other.outputs, atol=0.05)  # of weights in float16
    assert [a.guesses[0].index for a in one.images] == [b.guesses[0].index for b in other.images]
