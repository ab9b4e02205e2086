"""Temperatures and cascades: fitted on some images, counted on others, kept in the bundle."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from hydra_export import api, archive, bundle, checkpoint
from hydra_export.arrays import Array
from hydra_export.calibrating import calibrate
from hydra_export.calibration import LEAST_IMAGES, calibrated
from hydra_export.cli import main
from hydra_export.data import FASHION_MNIST_LABELS, packaged_images
from hydra_export.errors import BadInput, VerificationFailed
from hydra_export.exporting import export, jobs

Capture = pytest.CaptureFixture[str]
GMACS = {1: 1.0, 2: 4.0, 4: 16.0}
_CLASSES = 5


def answers(count: int = 4000, temperature: float = 0.5, seed: int = 0) -> tuple[dict[int, Array], Any]:
    """Logits of made-up head counts, which are as sure as they are right when divided by *temperature*, and labels."""
    rng = np.random.default_rng(seed)
    labels, logits = rng.integers(0, _CLASSES, count), {}
    hard = rng.normal(size=(count, _CLASSES))
    for k, sharpness in ((1, 2.0), (2, 3.0), (4, 4.0)):
        true = sharpness * np.eye(_CLASSES)[labels] + 0.7 * hard + 0.7 * rng.normal(size=(count, _CLASSES))
        probable = true * sharpness  # of normal noise of this size, the posterior's logits
        logits[k] = (temperature * probable).astype(np.float32)
    return logits, labels


def test_a_temperature_makes_the_model_as_sure_as_it_is_right() -> None:
    logits, labels = answers()
    found = calibrated(logits, labels, GMACS, "made up")
    assert (found.num_fitted, found.num_reported, found.labels) == (1200, 2800, True)
    for each in found.subnetworks:
        assert each.temperature == pytest.approx(0.5, rel=0.25)
        assert each.ece_after < 2.5
        assert each.ece_after < 0.5 * each.ece_before
        assert each.low < each.accuracy < each.high


def test_a_temperature_is_the_best_of_all_on_the_fitted_images() -> None:
    logits, labels = answers()
    found = calibrated(logits, labels, GMACS, "made up").subnetworks[1]
    chosen = np.random.default_rng(0).permutation(len(labels))[:1200]

    def surprise(temperature: float) -> float:
        shares = softmax(logits[2][chosen].astype(float) / temperature, axis=1)
        return float(-np.log(shares[np.arange(1200), labels[chosen]]).mean())

    best = min(np.geomspace(0.1, 5, 2000), key=surprise)
    assert found.temperature == pytest.approx(best, rel=0.01)


def test_a_cascade_is_the_cheapest_that_is_as_good_on_both_halves_and_told_of_the_other_images() -> None:
    logits, labels = answers(count=900)
    found = calibrated(logits, labels, GMACS, "made up", within=0.5)
    temperatures = {each.heads: each.temperature for each in found.subnetworks}
    order = np.random.default_rng(0).permutation(900)
    fitted, reported = order[:270], order[270:]
    surest = {k: softmax(logits[k].astype(float) / temperatures[k], axis=1).max(axis=1) for k in logits}
    right = {k: logits[k].argmax(axis=1) == labels for k in logits}

    def outcome(heads: tuple[int, ...], thresholds: tuple[float, ...], images: Any) -> tuple[Any, float]:
        correct, gmacs = np.zeros(len(images)), 0.0
        for at, image in enumerate(images):
            for k, threshold in zip(heads, (*thresholds, 0.0), strict=True):
                gmacs += GMACS[k]
                if surest[k][image] >= threshold:
                    correct[at] = right[k][image]
                    break
        return correct, gmacs / len(images)

    grid = {k: np.unique([0.0, *np.round(np.quantile(surest[k][fitted], np.arange(40) / 40), 4)]) for k in logits}
    for as_good_as in (2, 4):
        best, chosen = GMACS[as_good_as], None
        for heads in (*itertools.combinations((1, 2, 4), 2), (1, 2, 4)):
            for thresholds in itertools.product(*(grid[k] for k in heads[:-1])):
                if len(heads) == 3 and thresholds[0] not in grid[1][::3]:
                    continue  # a third of them is enough for a check, and quick
                correct, gmacs = outcome(heads, thresholds, fitted)
                gains = correct - right[as_good_as][fitted]
                if gmacs < best and all(gains[half::2].sum() >= -0.005 * len(gains[half::2]) for half in (0, 1)):
                    best, chosen = gmacs, heads
        kept = [each for each in found.cascades if each.as_good_as == as_good_as]
        assert bool(kept) == (chosen is not None)
        for each in kept:
            correct, gmacs = outcome(each.heads, each.thresholds, fitted)
            gains = correct - right[as_good_as][fitted]
            assert all(gains[half::2].sum() >= -0.005 * len(gains[half::2]) for half in (0, 1))
            assert gmacs <= best + 1e-9
            correct, gmacs = outcome(each.heads, each.thresholds, reported)
            assert each.gmacs == pytest.approx(gmacs, rel=1e-5)
            assert each.accuracy == pytest.approx(100 * correct.mean(), abs=0.006)
            assert each.gain == pytest.approx(100 * (correct - right[as_good_as][reported]).mean(), abs=0.006)
            assert each.gain_low <= each.gain <= each.gain_high
            assert each.shares[0] == 1


def test_a_small_head_count_that_is_as_good_needs_no_other() -> None:
    """Then nobody has to be asked twice: the threshold is the lowest there is."""
    logits, labels = answers()
    logits[4] = logits[2] = logits[1]
    (two, four) = calibrated(logits, labels, GMACS, "made up").cascades
    assert (two.as_good_as, four.as_good_as) == (2, 4)
    assert four.gmacs == pytest.approx(1.0)
    assert four.shares[1] == 0


def test_where_no_cascade_is_cheaper_there_is_none() -> None:
    logits, labels = answers()
    rng = np.random.default_rng(1)
    logits[1] = rng.normal(size=logits[1].shape).astype(np.float32)
    logits[2] = rng.normal(size=logits[2].shape).astype(np.float32)
    assert [each.as_good_as for each in calibrated(logits, labels, GMACS, "noise").cascades] in ([], [2])


def test_without_labels_the_largest_head_count_is_right() -> None:
    logits, labels = answers()
    found = calibrated(logits, None, GMACS, "made up", within=1.0)
    assert (found.labels, found.within) == (False, 1.0)
    last = found.subnetworks[-1]
    assert (last.temperature, last.accuracy) == (1.0, 100.0)
    reported = np.random.default_rng(0).permutation(len(labels))[1200:]
    agreed = (logits[1].argmax(axis=1) == logits[4].argmax(axis=1))[reported]
    assert found.subnetworks[0].accuracy == pytest.approx(100 * agreed.mean(), abs=0.006)


def test_too_few_images_are_refused() -> None:
    logits, labels = answers(count=LEAST_IMAGES - 1)
    with pytest.raises(BadInput, match="299 images are too few"):
        calibrated(logits, labels, GMACS, "made up")
    with pytest.raises(BadInput, match="`within` is 101"):
        calibrated(*answers(), GMACS, "made up", within=101)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration") / "bundle"
    export(checkpoint.load(), folder, jobs(["onnx"], ["universal"]), heads=[3, 6])
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def test_a_bundle_keeps_all_but_its_card_and_manifest_and_verifies(copy: Path, whole: Path) -> None:
    found = calibrate(copy, packaged_images(checkpoint.load().info.preprocessing))
    before, after = bundle.read(whole), bundle.read(copy)
    assert after.calibration == found
    assert msgspec.structs.replace(after, calibration=None, files=before.files) == before
    changed = {a.path for a, b in zip(after.files, before.files, strict=True) if a != b}
    assert changed == {"README.md"}
    assert api.open_bundle(copy).verify()
    readme = (copy / "README.md").read_text()
    assert "## Confidence and cascades" in readme
    assert "Fitted on 300 of 1,000 test images of Fashion-MNIST" in readme
    for each in found.cascades:
        assert f"| k = {each.as_good_as} | {' > '.join(map(str, each.heads))} |" in readme


def test_an_archive_is_replaced_by_one_that_verifies(copy: Path, tmp_path: Path) -> None:
    packed = tmp_path / "bundle.zip"
    archive.write(copy, packed, "bundle")
    images = packaged_images(checkpoint.load().info.preprocessing)
    found = calibrate(packed, images)
    assert api.open_bundle(packed).verify()
    assert found == calibrate(copy, images)
    again = tmp_path / "again.zip"
    archive.write(copy, again, "bundle")
    assert again.read_bytes() == packed.read_bytes()


def test_what_fails_leaves_the_bundle_as_it_was(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: (copy / path).read_bytes() for path in bundle.tree(copy)}
    images = packaged_images(checkpoint.load().info.preprocessing)
    with pytest.raises(BadInput, match="too few"):
        calibrate(copy, first(images, 100))

    def failing(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("hydra_export.calibrating.card.write", failing)
    with pytest.raises(OSError, match="no space"):
        calibrate(copy, images)
    assert {path: (copy / path).read_bytes() for path in bundle.tree(copy)} == before
    assert [*copy.parent.iterdir()] == [copy]


def first(images: Any, count: int) -> Any:
    from dataclasses import replace

    return replace(images, pixels=images.pixels[:count], labels=images.labels[:count])


def test_the_command_says_what_it_found(copy: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["calibrate", str(copy), "--plot", str(tmp_path / "cascades.png"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["data"].startswith("1,000 test images of Fashion-MNIST")
    assert [each["heads"] for each in document["subnetworks"]] == [3, 6]
    with Image.open(tmp_path / "cascades.png") as picture:
        assert picture.width > 300
    assert main(["calibrate", str(copy), "--max-images", "400"]) == 0
    shown = capsys.readouterr().out
    assert "fitted on 120 of 400 of 1,000 test images" in " ".join(shown.split())
    assert "k = 6" in shown


def test_the_report_shows_the_calibration(copy: Path, capsys: Capture) -> None:
    from hydra_export import report

    assert 'id="calibration"' not in report.page(report.gather(copy))
    found = calibrate(copy, packaged_images(checkpoint.load().info.preprocessing))
    findings = report.gather(copy)
    page, text = report.page(findings), report.markdown(findings)
    assert 'id="calibration"' in page
    assert found.cascades
    for each in found.cascades:
        assert each.cells(findings.model.gmacs)[4] in page
        assert f"k = {each.as_good_as} " in text


def test_a_flat_folder_is_judged_by_the_largest_head_count(copy: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "photos").mkdir()
    for number, pixels in enumerate(packaged_images(checkpoint.load().info.preprocessing, 320).pixels):
        Image.fromarray(pixels[..., 0]).save(tmp_path / "photos" / f"{number:03}.png")
    assert main(["calibrate", str(copy), "--data", str(tmp_path / "photos"), "--within", "2"]) == 0
    assert "Correct means agreeing with k = 6" in " ".join(capsys.readouterr().out.split())
    found = bundle.read(copy).calibration
    assert found is not None
    assert (found.labels, found.within) == (False, 2.0)


def test_models_without_classes_of_their_own_are_refused(copy: Path, tmp_path: Path, capsys: Capture) -> None:
    api.export(checkpoint.load(), tmp_path / "features", output="embedding", heads=3)
    assert main(["calibrate", str(tmp_path / "features")]) == 2
    assert "no classes, so it cannot be calibrated" in " ".join(capsys.readouterr().err.split())
    assert main(["calibrate", str(copy), "--data", "digits"]) == 2
    assert "has 10 classes" in " ".join(capsys.readouterr().err.split())
    assert main(["calibrate", str(copy), "--max-images", "0"]) == 2
    assert "`max-images` is 0" in capsys.readouterr().err.replace("--max-images", "`max-images`")


def test_a_manifest_whose_calibration_contradicts_itself_is_refused(copy: Path) -> None:
    calibrate(copy, packaged_images(checkpoint.load().info.preprocessing))
    manifest = json.loads((copy / bundle.MANIFEST).read_text())
    good = manifest["calibration"]
    assert good["cascades"]
    for change in (
        {"subnetworks": [{**good["subnetworks"][0], "heads": 4}]},
        {"cascades": [{**good["cascades"][0], "heads": [6, 3]}]},
        {"cascades": [{**good["cascades"][0], "thresholds": []}]},
        {"cascades": [{**good["cascades"][0], "as_good_as": 12}]},
    ):
        manifest["calibration"] = {**good, **change}
        (copy / bundle.MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(VerificationFailed, match="contradicts itself"):
            bundle.read(copy)


def test_predict_asks_a_cascade(copy: Path, tmp_path: Path, capsys: Capture) -> None:
    paths = []
    for number, pixels in enumerate(packaged_images(checkpoint.load().info.preprocessing, 24).pixels):
        Image.fromarray(pixels[..., 0]).save(path := tmp_path / f"{number}.png")
        paths.append(str(path))
    assert main(["predict", str(copy), *paths, "--cascade", "6"]) == 2
    assert "Calibrate it" in " ".join(capsys.readouterr().err.split())
    found = calibrate(copy, packaged_images(checkpoint.load().info.preprocessing))
    cascade = next(each for each in found.cascades if each.as_good_as == 6)
    assert main(["predict", str(copy), *paths, "--cascade", "6", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {each["heads"] for each in document["images"]} == {3, 6}
    for each in document["images"]:
        assert each["classes"][0]["name"] in FASHION_MNIST_LABELS
        assert each["heads"] == 6 or each["classes"][0]["probability"] >= cascade.thresholds[0]
    assert main(["predict", str(copy), paths[0], "--cascade", "6", "--heads", "3"]) == 2


def test_an_export_can_be_calibrated_by_the_model_itself(copy: Path, tmp_path: Path) -> None:
    """PyTorch and onnxruntime differ by rounding alone, so that the same is found."""
    made = api.export(checkpoint.load(), tmp_path / "made", heads=[3, 6], calibrate="packaged")
    found, opened = made.manifest.calibration, api.open_bundle(copy)
    assert found is not None
    again = opened.calibrate("packaged")
    assert opened.manifest.calibration == again
    assert [each.heads for each in found.cascades] == [each.heads for each in again.cascades]
    for one, other in zip(found.subnetworks, again.subnetworks, strict=True):
        assert one.temperature == pytest.approx(other.temperature, abs=1e-3)
        assert one.accuracy == pytest.approx(other.accuracy, abs=0.3)
    assert made.verify()
    with pytest.raises(BadInput, match="no classes, so it cannot be calibrated"):
        api.export(checkpoint.load(), tmp_path / "features", heads=3, output="embedding", calibrate="packaged")
