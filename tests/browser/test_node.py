"""The JavaScript in a bundle, in Node with the onnxruntime-web that the example page uses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hydra_export import bundle
from tests.browser.conftest import PACKAGES, onnx, resigned
from tests.conftest import best_labels


@pytest.fixture
def bundles(tiny: dict[str, Path]) -> dict[str, Path]:
    if not shutil.which("node") or not (PACKAGES / "node_modules").exists():
        pytest.skip("no node, or no onnxruntime-web: `make browser` installs it and runs this")
    return tiny


def node(folder: Path, *arguments: object, where: Path = PACKAGES) -> subprocess.CompletedProcess[str]:
    command = ["node", str(folder / "snippets" / "run.mjs"), *map(str, arguments)]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)


def said(output: str) -> dict[tuple[str, int], str]:
    """The verdict on each artifact at each head count."""
    lines = [re.fullmatch(r"(\S+), k = (\d+): best .*, (same|DIFFERS)", line) for line in output.splitlines()]
    return {(line[1], int(line[2])): line[3] for line in lines if line}


@pytest.mark.parametrize("name", ["tensor", "three", "image", "dynamic", "tokens"])
def test_every_artifact_runs_as_the_golden_data_say(bundles: dict[str, Path], name: str) -> None:
    done = node(bundles[name])
    assert done.returncode == 0, done.stderr
    wanted = {(artifact.path, k) for artifact in onnx(bundles[name]) for k in artifact.heads}
    assert said(done.stdout) == dict.fromkeys(wanted, "same")


def test_it_runs_what_it_was_asked_for(bundles: dict[str, Path], tmp_path: Path) -> None:
    done = node(bundles["tensor"], "--heads", 4, "--artifact", "onnx/tiny-universal.onnx")
    assert (done.returncode, said(done.stdout)) == (0, {("onnx/tiny-universal.onnx", 4): "same"})
    assert node(bundles["tensor"], "--heads", 3).returncode == 2
    elsewhere = node(bundles["tensor"], where=tmp_path)
    assert (elsewhere.returncode, elsewhere.stderr) == (
        2,
        "Install one where you call this: npm install onnxruntime-node\n",
    )


@pytest.mark.parametrize("artifact", ["onnx/tiny-k2.onnx", "onnx/tiny-universal-int8.onnx"])
def test_it_fails_where_an_artifact_computes_something_else(
    bundles: dict[str, Path], tmp_path: Path, artifact: str
) -> None:
    copy = Path(shutil.copytree(bundles["tensor"], tmp_path / "copy"))
    with np.load(copy / bundle.GOLDEN) as arrays:
        changed = {
            name: np.ascontiguousarray(arrays[name][:, ::-1]) if "logits" in name else arrays[name] for name in arrays
        }
    np.savez(copy / bundle.GOLDEN, **changed)  # type: ignore[arg-type]  # numpy types its allow_pickle among them
    resigned(copy, lambda text: re.sub(r'"bound": [0-9.e-]+', '"bound": 1e308', text))  # nothing to judge by
    done = node(copy, "--heads", 2, "--artifact", artifact)
    assert (done.returncode, said(done.stdout)) == (1, {(artifact, 2): "DIFFERS"})


def test_a_damaged_file_is_not_run(bundles: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundles["three"], tmp_path / "copy"))
    weights = bytearray((copy / "onnx/tiny-universal.bin").read_bytes())
    weights[100] ^= 1
    (copy / "onnx/tiny-universal.bin").write_bytes(weights)
    done = node(copy, "--artifact", "onnx/tiny-universal.onnx")
    assert done.returncode == 1
    assert "onnx/tiny-universal.bin does not match the manifest" in done.stderr


@pytest.mark.parametrize("name", ["tensor", "three", "image", "dynamic"])
def test_a_photograph_gets_the_labels_that_pytorch_gives_it(
    bundles: dict[str, Path], tmp_path: Path, name: str
) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 23, 3), np.uint8))
    photo.resize((230, 370)).save(tmp_path / "photo.ppm")
    with Image.open(tmp_path / "photo.ppm") as upright:
        best = best_labels(bundles[name], bundle.read(bundles[name]), upright)
    done = node(bundles[name], "--image", tmp_path / "photo.ppm", "--heads", 4)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(", k = 4: ") for line in done.stdout.splitlines())
    assert lines.keys() == {each.path for each in onnx(bundles[name]) if 4 in each.heads}
    assert {line for path, line in lines.items() if not re.search("fp16|int8", path)} == {best}


def test_a_budget_and_a_cascade_choose_the_head_count_of_a_photograph(bundles: dict[str, Path], tmp_path: Path) -> None:
    photo, copy = tmp_path / "photo.ppm", Path(shutil.copytree(bundles["tensor"], tmp_path / "copy"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 23, 3), np.uint8)).save(photo)
    cascades = [{"as_good_as": 4, "heads": [2, 4], "thresholds": [1.1]}]  # never sure enough
    resigned(copy, lambda text: json.dumps({**json.loads(text), "calibration": {"cascades": cascades}}))
    for asked, tried in (
        (("--budget-ms", 1e6), "4"),
        (("--budget-ms", 1e-6), "2"),
        (("--cascade", 4), "2, then 4"),
        (("--cascade", 4, "--budget-ms", 1e6), "2, then 4"),
        (("--cascade", 4, "--budget-ms", 1e-6), "2"),
        (("--cascade", 4, "--artifact", "onnx/tiny-universal-int8.onnx"), "2, then 4"),
    ):
        done = node(copy, "--image", photo, *asked)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(rf"k = {tried}: class \d \d+\.\d%, .*%, \d+\.\d ms\n", done.stdout)
    for wrong, said in (
        (("--cascade", 3), "It has some for 4."),
        (("--budget-ms", "x"), "A budget of NaN ms is invalid."),
        (("--cascade", 4, "--artifact", "onnx/none.onnx"), "The bundle has no artifacts for onnx/none.onnx."),
        (("--cascade", 4, "--artifact", "onnx/tiny-k4.onnx"), "no cascade as good as k = 4"),
    ):
        done = node(copy, "--image", photo, *wrong)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_a_photograph_that_node_cannot_read_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("not an image")
    done = node(bundles["three"], "--image", tmp_path / "photo.jpg")
    assert (done.returncode, done.stderr) == (2, "Install one where you call this: npm install sharp\n")
    assert node(bundles["three"], "--image", tmp_path / "none.ppm").returncode == 2
