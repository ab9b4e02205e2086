"""The run-time library on real bundles, and alone: as one file, with numpy and a runtime."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hydra_export.runtime as hydra_runtime
from hydra_export import bundle, checkpoint
from hydra_export.data import packaged_images
from hydra_export.exporting import export, jobs
from hydra_export.runtime import RuntimeFailure, load
from tests.conftest import shares_of

KINDS = [
    ("onnx", "universal"),
    ("onnx", "shared"),
    ("onnx", "separate"),
    ("tflite", "universal"),
    ("tflite", "separate"),
]
SOURCE = Path(hydra_runtime.__file__)


@pytest.fixture(scope="module")
def golden(bundles: dict[str, Path]) -> Any:
    with np.load(bundles["all"] / bundle.GOLDEN) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize(("target", "graph"), KINDS)
@pytest.mark.parametrize("memory", ["all", "one"])
def test_every_kind_of_artifact_gives_the_golden_logits_whatever_ran_before(
    bundles: dict[str, Path], golden: Any, target: str, graph: str, memory: str
) -> None:
    model = load(bundles["all"], target=target, graph=graph, memory=memory)
    assert model.heads == (3, 6, 12)
    for k in (12, 3, 6, 3):
        for pixels, logits in zip(golden["pixels"], golden[f"logits_k{k}"], strict=True):
            answer = model.answer(pixels, k)
            np.testing.assert_allclose(answer.outputs, logits, atol=1e-4)
            assert (answer.heads, answer.index, answer.tried) == (k, int(logits.argmax()), (k,))


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_pixels_by_threes_are_answered_as_well(bundles: dict[str, Path], golden: Any, target: str) -> None:
    model = load(bundles["images"], target=target)
    for k in model.heads:
        np.testing.assert_allclose(model.answer(golden["pixels"][0], k).outputs, golden[f"logits_k{k}"][0], atol=1e-4)


def test_an_archive_is_read_from_a_folder_that_goes_with_the_model(bundles: dict[str, Path], golden: Any) -> None:
    model = load(bundles["all.zip"])
    folder = model._folder
    assert model.answer(golden["pixels"][1]).index == golden["logits_k12"][1].argmax()
    del model
    assert not folder.exists()


def test_a_file_that_holds_every_head_count_is_taken_or_one_for_each(bundles: dict[str, Path]) -> None:
    def paths(**how: Any) -> set[str]:
        return {artifact["path"].partition("-mnist-")[2] for artifact in load(bundles["all"], **how).artifacts.values()}

    assert paths() == {"universal.onnx"}
    assert paths(memory="one") == {"k3.onnx", "k6.onnx", "k12.onnx"}
    assert paths(target="tflite") == {"universal.tflite"}
    assert paths(graph="shared", heads=(3, 6)) == {"shared-k3.onnx", "shared-k6.onnx"}
    assert paths(artifact="onnx/hydravit-fashion-mnist-k6.onnx") == {"k6.onnx"}


def test_with_one_in_memory_a_switch_lets_go_of_the_other(bundles: dict[str, Path], golden: Any) -> None:
    model = load(bundles["all"], memory="one")
    for k in (3, 12):
        model.answer(golden["pixels"][0], k)
        assert len(model._opened) == len(model._runs) == 1
    model = load(bundles["all"], graph="separate")
    for k in (3, 12):
        model.answer(golden["pixels"][0], k)
    assert len(model._opened) == 2


@pytest.mark.parametrize("form", ["path", "pillow", "array", "rgba", "lying"])
def test_a_photograph_in_any_form_gets_the_labels_that_pytorch_gives_it(
    bundles: dict[str, Path], tmp_path: Path, form: str
) -> None:
    colours = np.random.default_rng(3).integers(0, 256, (5, 4, 3), np.uint8)
    photo = Image.fromarray(colours).resize((300, 371), Image.Resampling.BICUBIC)
    given: Any = photo
    if form == "path":
        photo.save(given := tmp_path / "photo.png")
    elif form == "array":
        given = np.asarray(photo)
    elif form == "rgba":
        given = np.asarray(photo.convert("RGBA"))
    elif form == "lying":
        exif = Image.Exif()
        exif[0x0112] = 6
        photo.transpose(Image.Transpose.ROTATE_90).save(given := tmp_path / "photo.png", exif=exif)
    model = load(bundles["images"])
    said = ", ".join(f"{label} {share:.1%}" for label, share in model.top(model(given), 3))
    assert said == shares_of(checkpoint.load().model, bundle.read(bundles["images"]), photo, 12)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)],
)
def test_arrays_that_are_no_image_are_refused(bundles: dict[str, Path], image: Any) -> None:
    with pytest.raises(RuntimeFailure, match=re.escape(f"An image is {image.dtype} {list(image.shape)}.")):
        load(bundles["all"])(image)


def test_probabilities_are_calibrated_and_cascades_come_out_of_the_manifest(
    bundles: dict[str, Path], golden: Any
) -> None:
    found = bundle.read(bundles["all"]).calibration
    assert found is not None
    model = load(bundles["all"])
    pixels, logits = golden["pixels"][0], golden["logits_k12"][0] / found.subnetworks[-1].temperature
    shares = np.exp(logits) / np.exp(logits).sum()
    assert model.answer(pixels).confidence == pytest.approx(shares.max(), abs=1e-4)
    cascade = next(each for each in found.cascades if each.as_good_as == 12)
    model.cascade(as_good_as=12)
    images = packaged_images(checkpoint.load().info.preprocessing, 60).pixels
    answers = [model.answer(image) for image in images]
    for answer in answers:
        assert answer.tried == cascade.heads[: len(answer.tried)]
        assert answer.heads == answer.tried[-1]
        sure = dict(zip(cascade.heads, cascade.thresholds, strict=False))
        assert answer.heads == cascade.heads[-1] or (answer.confidence or 0) >= sure[answer.heads]
    assert {answer.heads for answer in answers} > {cascade.heads[0]}
    assert {model.fixed().answer(image).tried for image in images[:3]} == {(12,)}


def test_under_a_budget_it_takes_what_fits_and_measures_for_itself(bundles: dict[str, Path], golden: Any) -> None:
    model, pixels = load(bundles["all"]), golden["pixels"][0]
    assert {model.budget(ms=10_000).answer(pixels).heads for _ in range(3)} == {12}
    assert {model.budget(ms=1e-3).answer(pixels).heads for _ in range(3)} == {3}
    assert model.budget(ms=50, references={3: 1.0, 6: 40.0, 12: 60.0}).answer(pixels).heads == 6
    assert model.answer(pixels, heads=12).heads == 12
    assert model.budget(None).answer(pixels).heads == 12
    times = model.measure()
    assert [*times] == [3, 6, 12]
    assert all(ms > 0 for ms in times.values())


def test_what_loading_takes_is_no_time_of_a_call(bundles: dict[str, Path], golden: Any) -> None:
    """Nor is the first run of a head count counted where times are measured."""
    model = load(bundles["all"], graph="separate")
    opens, calls = model._open, list[int]()

    def slowly(*of: Any) -> Any:
        time.sleep(0.3)
        at = opens(*of)

        def counted(heads: int) -> Any:
            run, before = at(heads), len(calls)

            def first_slow(image: Any) -> Any:
                calls.append(heads)
                if len(calls) == before + 1:
                    time.sleep(0.2)
                return run(image)

            return first_slow

        return counted

    model._open = slowly
    assert all(ms < 150 for ms in model.measure().values())
    assert calls == [3] * 4 + [6] * 4 + [12] * 4
    fresh = load(bundles["all"], graph="separate")

    def late(*of: Any) -> Any:
        time.sleep(0.3)
        return opens(*of)

    fresh._open = late
    fresh.budget(ms=150, references={3: 1.0, 6: 2.0, 12: 4.0})
    assert fresh.answer(golden["pixels"][0]).ms < 150
    assert {fresh.answer(golden["pixels"][0]).heads for _ in range(5)} == {12}


def test_a_cascade_under_a_budget_runs_only_where_all_of_it_fits(bundles: dict[str, Path], golden: Any) -> None:
    model, references = load(bundles["all"]), {3: 1.0, 6: 2.0, 12: 4.0}
    model.cascade(12, heads=(3, 6, 12), thresholds=(1.1, 1.1))  # never sure
    assert model.budget(ms=1e6, references=references).answer(golden["pixels"][0]).tried == (3, 6, 12)
    assert len(model.budget(ms=6.5, references=references).answer(golden["pixels"][0]).tried) == 1
    assert model.budget(ms=1e6, references={3: 1.0, 6: 2.0}).answer(golden["pixels"][0]).tried == (6,)


def test_threads_wait_for_each_other(bundles: dict[str, Path], golden: Any) -> None:
    for target in ("onnx", "tflite"):
        model, wrong = load(bundles["all"], target=target), list[int]()

        def work(model: hydra_runtime.Model, wrong: list[int], first: int) -> None:
            for call in range(30):
                k, at = (3, 6, 12)[(first + call) % 3], call % len(golden["pixels"])
                outputs = model.answer(golden["pixels"][at], k).outputs
                if not np.allclose(outputs, golden[f"logits_k{k}"][at], atol=1e-4):
                    wrong.append(k)

        threads = [threading.Thread(target=work, args=(model, wrong, first)) for first in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"target": "coreml"}, "no artifacts for coreml"),
        ({"heads": (4,)}, "no artifacts for k = 4"),
        ({"precision": "int8"}, "no artifacts for int8"),
        ({"memory": "some"}, "memory is 'some'"),
    ],
)
def test_what_a_bundle_does_not_hold_is_refused(bundles: dict[str, Path], how: dict[str, Any], said: str) -> None:
    with pytest.raises(RuntimeFailure, match=said):
        load(bundles["all"], **how)


def test_what_a_model_does_not_have_is_refused(bundles: dict[str, Path], golden: Any) -> None:
    model = load(bundles["all"])
    with pytest.raises(RuntimeFailure, match=r"no head count 4 here\. Choose from 3, 6, 12"):
        model.answer(golden["pixels"][0], 4)
    with pytest.raises(RuntimeFailure, match="no head count 4"):
        model.fixed(4)
    with pytest.raises(RuntimeFailure, match=r"no cascade as good as k = 3\. It has some for 6, 12"):
        model.cascade(as_good_as=3)
    with pytest.raises(RuntimeFailure, match="not calibrated"):
        load(bundles["images"]).cascade(as_good_as=12)
    with pytest.raises(RuntimeFailure, match="budget of 0 ms"):
        model.budget(ms=0)


@pytest.mark.parametrize("damaged", ["manifest.json", "onnx/hydravit-fashion-mnist-universal.bin", "SHA256SUMS"])
def test_a_damaged_or_missing_file_is_not_run(bundles: dict[str, Path], tmp_path: Path, damaged: str) -> None:
    copy = Path(shutil.copytree(bundles["all"], tmp_path / "copy"))
    content = bytearray((copy / damaged).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / damaged).write_bytes(content)
    if damaged == "SHA256SUMS":
        (copy / damaged).write_text("")
    with pytest.raises(RuntimeFailure, match="is not the file that"):
        load(copy)
    (copy / damaged).unlink()
    with pytest.raises(RuntimeFailure, match=r"cannot be read|is not a bundle"):
        load(copy)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="is not a bundle"):
        load(tmp_path)
    (tmp_path / "file.zip").write_text("notes")
    with pytest.raises(RuntimeFailure, match="is not a bundle"):
        load(tmp_path / "file.zip")
    with pytest.raises(RuntimeFailure, match="is not a bundle"):
        load(tmp_path / "nothing")
    (tmp_path / "manifest.json").write_text("notes")
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(b'notes').hexdigest()}  manifest.json\n")
    with pytest.raises(RuntimeFailure, match=r"manifest\.json is not JSON"):
        load(tmp_path)


def test_nothing_is_read_or_unpacked_outside_of_a_bundle(bundles: dict[str, Path], tmp_path: Path) -> None:
    import zipfile

    copy = Path(shutil.copytree(bundles["all"], tmp_path / "copy"))
    (tmp_path / "secret").write_text("secret")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"].append({"path": "../secret", "bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()})
    for artifact in manifest["artifacts"]:
        artifact["files"].append("../secret")
    text = json.dumps(manifest).encode()
    (copy / "manifest.json").write_bytes(text)
    (copy / "SHA256SUMS").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")
    with pytest.raises(RuntimeFailure, match=r"does not list \.\./secret"):
        load(copy)
    for name in ("../outside", "/outside", "a/..\\outside", "c:outside"):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.writestr(name, "x")
        with pytest.raises(RuntimeFailure, match="not as an export writes it"):
            load(tmp_path / "bad.zip")
    assert not (tmp_path / "outside").exists()


def test_features_have_no_label_and_no_confidence(tmp_path: Path) -> None:
    whole = checkpoint.with_output(checkpoint.load(), "embedding")
    export(whole, tmp_path / "bundle", jobs(["onnx"], ["universal"]), heads=[3, 6])
    model = load(tmp_path / "bundle")
    answer = model(np.zeros((28, 28), np.uint8))
    with pytest.raises(RuntimeFailure, match="no classes"):
        model.cascade(6, heads=(3, 6), thresholds=(0.5,))
    assert (answer.label, answer.index, answer.confidence, answer.outputs.shape) == ("", None, None, (96,))


def test_it_is_one_file_that_python_3_9_reads_and_that_imports_nothing_of_ours() -> None:
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    packages = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert packages == {"numpy", "PIL"}
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_alone_it_needs_numpy_and_a_runtime_and_no_pillow(
    bundles: dict[str, Path], golden: Any, tmp_path: Path, target: str
) -> None:
    """Among the packages of this environment, in a process that may import no others."""
    np.save(tmp_path / "pixels.npy", golden["pixels"][0])
    other = {"onnx": "ai_edge_litert", "tflite": "onnxruntime"}[target]
    program = f"""
import importlib.util, sys
real = importlib.util.find_spec
blocked = ("PIL", "torch", "hydra_export", {other!r})
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in blocked else real(name, *rest)
sys.path.insert(0, {str(bundles["all"] / "snippets")!r})
import hydra_runtime, numpy as np
model = hydra_runtime.load({str(bundles["all"])!r})
answer = model(np.load({str(tmp_path / "pixels.npy")!r}))
print(model.runtime, answer.index, [name for name in blocked if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    runtime = {"onnx": "onnxruntime", "tflite": "litert-compiled"}[target]
    assert done.stdout.split("\n")[0] == f"{runtime} {golden['logits_k12'][0].argmax()} []"
