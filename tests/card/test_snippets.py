"""The programs in a bundle run its artifacts, say when one differs, and hold nothing that a name could break."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hydra_export import bundle
from hydra_export.card import snippets
from hydra_export.verification import verify

BEST = {2: (1, 0.25), 4: (2, -1.5)}
NAMES = ("tensor", "image", "three", "dynamic", "backbone", "projection", "tokens", "normalised")
PROGRAMS = {
    "onnx": ("run.py", snippets.LIBRARY, *snippets.MODULES, "run.mjs", "run.cpp", "preprocess.hpp", "budget.hpp"),
    "tflite": ("run.py", snippets.LIBRARY, *snippets.MODULES, "Run.kt", "Preprocess.kt", "Budget.kt"),
    "coreml": ("run.swift", "preprocess.swift", "budget.swift"),
}
TEMPLATES = sorted({name for names in PROGRAMS.values() for name in names} - {snippets.LIBRARY})


def python(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "snippets" / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def runs(folder: Path, *targets: str) -> set[tuple[str, int]]:
    return {(each.path, k) for each in bundle.read(folder).artifacts if each.target in targets for k in each.heads}


def said(output: str) -> dict[tuple[str, int], str]:
    """The verdict on each artifact at each head count."""
    lines = [re.fullmatch(r"(\S+), k = (\d+): best .*, (same|DIFFERS)", line) for line in output.splitlines()]
    return {(line[1], int(line[2])): line[3] for line in lines if line}


@pytest.mark.parametrize("name", NAMES)
def test_python_runs_every_artifact_as_the_golden_data_say(bundles: dict[str, Path], name: str) -> None:
    done = python(bundles[name])
    assert done.returncode == 0, done.stderr
    assert said(done.stdout) == dict.fromkeys(runs(bundles[name], "onnx", "tflite"), "same")


def test_python_leaves_the_bundle_as_it_was(bundles: dict[str, Path]) -> None:
    assert python(bundles["image"], "--heads", 2).returncode == 0
    assert verify(bundles["image"])


def test_python_runs_what_it_was_asked_for(bundles: dict[str, Path]) -> None:
    done = python(bundles["tensor"], "--heads", 4, "--artifact", "onnx/tiny-universal.onnx")
    assert (done.returncode, said(done.stdout)) == (0, {("onnx/tiny-universal.onnx", 4): "same"})
    for asked in (("--heads", 3), ("--artifact", "onnx/none.onnx"), ("--heads", "x")):
        assert python(bundles["tensor"], *asked).returncode == 2


@pytest.mark.parametrize("artifact", ["onnx/tiny-k2.onnx", "onnx/tiny-universal-int8.onnx"])
def test_python_fails_where_an_artifact_computes_something_else(
    bundles: dict[str, Path], tmp_path: Path, artifact: str
) -> None:
    folder = reversed_golden(bundles["tensor"], tmp_path / "copy")
    manifest = (folder / bundle.MANIFEST).read_text()  # whose bound is nothing to judge by
    (folder / bundle.MANIFEST).write_text(re.sub(r'"bound": [0-9.e-]+', '"bound": 1e308', manifest))
    digest, sums = bundle.file_entry(folder, bundle.MANIFEST).sha256, (folder / bundle.SUMS).read_text()
    (folder / bundle.SUMS).write_text(re.sub(r".{64}  manifest.json", f"{digest}  manifest.json", sums))
    done = python(folder, "--heads", 2, "--artifact", artifact)
    assert (done.returncode, said(done.stdout)) == (1, {(artifact, 2): "DIFFERS"})


def reversed_golden(folder: Path, copy: Path) -> Path:
    """A copy whose expected logits are in another order."""
    shutil.copytree(folder, copy)
    with np.load(copy / bundle.GOLDEN) as arrays:
        changed = {name: arrays[name][:, ::-1] if "logits" in name else arrays[name] for name in arrays.files}
    np.savez(copy / bundle.GOLDEN, **changed)
    return copy


@pytest.mark.parametrize("target", PROGRAMS)
def test_a_bundle_has_the_programs_of_its_own_targets(bundles: dict[str, Path], target: str) -> None:
    manifest = bundle.read(bundles["tensor"])
    entries = tuple(msgspec.structs.replace(entry, target=target) for entry in manifest.artifacts)
    texts = snippets.files(msgspec.structs.replace(manifest, artifacts=entries), BEST)
    assert texts.keys() == {f"snippets/{name}" for name in PROGRAMS[target]}
    if target == "coreml":
        row = 'heads: 4, function: "k4", pixels: false, batch: 1, best: 2, value: -1.5),'
        assert f'    Artifact(path: "onnx/tiny-universal.onnx", {row}\n' in texts["snippets/run.swift"]


def test_the_programs_are_listed_and_hashed(bundles: dict[str, Path]) -> None:
    listed = {entry.path for entry in bundle.read(bundles["tensor"]).files}
    assert {path.name for path in (bundles["tensor"] / "snippets").iterdir()} == {
        Path(path).name for path in listed if path.startswith("snippets/")
    }
    assert {"preprocessing.json", "labels.txt", "LICENSES/Apache-2.0.txt", snippets.PIXELS} < listed


@pytest.mark.parametrize("name", NAMES)
def test_programs_are_filled_with_every_artifact_at_every_head_count(bundles: dict[str, Path], name: str) -> None:
    folder = bundles[name]
    for path in (folder / "snippets").iterdir():
        assert "{{" not in path.read_text(encoding="utf-8")
    for program, target in (("run.cpp", "onnx"), ("Run.kt", "tflite")):
        rows = re.findall(
            r"^    (?:\{|Artifact\()\"([^\"]+)\", (\d+),", (folder / "snippets" / program).read_text(), re.MULTILINE
        )
        assert {(path, int(k)) for path, k in rows} == runs(folder, target)


def test_the_class_that_programs_expect_is_that_of_the_image_beside_them(bundles: dict[str, Path]) -> None:
    folder = bundles["tensor"]
    golden = bundle.read_golden(folder, bundle.read(folder))
    assert (folder / snippets.PIXELS).read_bytes() == golden.pixels[-1].tobytes()
    rows = re.findall(
        r"^    \{.*, (\d+), \w+, \w+, \d+, (\d+), (.*)\},$", (folder / "snippets/run.cpp").read_text(), re.MULTILINE
    )
    assert {int(k): (int(best), float(value)) for k, best, value in rows} == {
        k: (outputs.argmax(), outputs.max()) for k, outputs in said_by_pytorch(folder).items()
    }


def said_by_pytorch(folder: Path) -> dict[int, Any]:
    """By head count, the outputs for the last golden image."""
    golden = bundle.read_golden(folder, bundle.read(folder))
    return {k: by_precision["fp32"].exact[-1] for k, by_precision in golden.expected.items()}


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a$b", "a\nb", "ä", "a b", "{{size}}"])
def test_a_name_that_would_mean_something_in_a_program_is_refused(folder: Path, name: str) -> None:
    manifest = bundle.read(folder)
    entry = msgspec.structs.replace(manifest.artifacts[0], path=name)
    with pytest.raises(ValueError, match="cannot stand in a program"):
        snippets.files(msgspec.structs.replace(manifest, artifacts=(entry,)), BEST)


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_is_short_and_says_its_licence(template: str) -> None:
    text = (resources.files("hydra_export.data") / "snippets" / template).read_text(encoding="utf-8")
    assert "SPDX-License-Identifier: Apache-2.0" in text
    assert len(text.splitlines()) <= (250 if template.startswith("hydra_runtime.") else 170)
    assert max(map(len, text.splitlines())) <= 130
    if template.endswith((".kt", ".swift")):
        assert re.match("// (Not run by us|.*on no phone)", text)


@pytest.mark.parametrize("name", NAMES)
def test_cpp_compiles_and_runs_every_artifact(bundles: dict[str, Path], tmp_path: Path, name: str) -> None:
    include = os.environ.get("HYDRA_EXPORT_ORT_INCLUDE")
    if not include or not shutil.which("g++"):
        pytest.skip("no g++, or no HYDRA_EXPORT_ORT_INCLUDE: the folder of onnxruntime_cxx_api.h")
    import onnxruntime

    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.1.*"), None)
    if library is None:
        pytest.skip("onnxruntime's wheel brings no libonnxruntime.so to link with")
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)
    (tmp_path / "libonnxruntime.so").symlink_to(library)
    strict = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-isystem", include]
    linked = ["-L", str(tmp_path), "-lonnxruntime", f"-Wl,-rpath,{tmp_path}", "-o", str(tmp_path / "run")]
    subprocess.run(["g++", *strict, str(bundles[name] / "snippets/run.cpp"), *linked], check=True)

    def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run([tmp_path / "run", *arguments], capture_output=True, text=True, check=False)

    done = run(bundles[name])
    assert done.returncode == 0, done.stderr
    assert said(done.stdout) == dict.fromkeys(runs(bundles[name], "onnx"), "same")
    assert run(bundles[name], "3").returncode == 2
    expected = said_by_pytorch(bundles[name])
    for path, k, best, value in re.findall(r"(\S+), k = (\d+): best (\d+) \((\S+)\),", done.stdout):
        # int8 rounds, fp16's weights are rounded; six digits are printed.
        if name == "tokens" and "int8" in path:
            continue  # another position may be as large
        rounding = {"int8": 0.2, "fp16": 0.02}.get(path.removesuffix(".onnx").rsplit("-", 1)[-1], 1e-4)
        assert float(value) == pytest.approx(expected[int(k)].flat[int(best)], rel=rounding, abs=1e-5)
    kept = run(bundles[name], "--budget", "1e6")  # which all of them keep: the largest at once
    assert (kept.returncode, kept.stdout.split()) == (0, ["4"] * 100)
    exceeded = run(bundles[name], "--budget", "1e-6")
    assert (exceeded.returncode, exceeded.stdout.split()) == (0, ["2"] * 100)
    assert run(bundles[name], "--budget", "x").returncode == 2
    assert run(tmp_path).returncode == 2
