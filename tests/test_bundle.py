"""Bundles as files: hashes that anyone can check, replaced as a whole, and what is not ours left alone."""

from __future__ import annotations

import copy
import functools
import io
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hydra_export import bundle, files, network
from hydra_export.errors import BadInput, OutputRefused, VerificationFailed


def test_the_manifest_reads_back_as_it_was_written(folder: Path) -> None:
    manifest = bundle.read(folder)
    assert manifest.generator == "hydra-export"
    assert manifest.schema_version == bundle.SCHEMA_VERSION == 1
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=bundle.Manifest) == manifest


def test_the_manifest_lists_every_file_but_itself_and_the_sums(folder: Path) -> None:
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    listed = {entry.path: entry for entry in bundle.read(folder).files}
    assert listed.keys() == present.keys() - {"manifest.json", "SHA256SUMS"}
    for name, entry in listed.items():
        assert entry.bytes == present[name].stat().st_size
        assert entry.sha256 == files.sha256(present[name])


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum (GNU coreutils) is not installed")
def test_sha256sum_checks_the_bundle(folder: Path) -> None:
    def sha256sum() -> subprocess.CompletedProcess[str]:
        command = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    good = sha256sum()
    assert good.returncode == 0, good.stderr
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {line.removesuffix(": OK") for line in good.stdout.splitlines()} == present - {"SHA256SUMS"}
    (folder / "README.md").write_text("other")
    bad = sha256sum()
    assert bad.returncode == 1
    assert "README.md: FAILED" in bad.stdout


def test_paths_in_the_manifest_are_relative_and_inside(folder: Path) -> None:
    manifest = bundle.read(folder)
    paths = [entry.path for entry in manifest.files]
    paths += [name for artifact in manifest.artifacts for name in (artifact.path, *artifact.files)]
    assert all(not name.startswith("/") and ".." not in name.split("/") and "\\" not in name for name in paths)
    assert str(folder.parent) not in (folder / "manifest.json").read_text() + (folder / "README.md").read_text()


def test_the_golden_data_are_read_back(folder: Path) -> None:
    manifest = bundle.read(folder)
    golden = bundle.read_golden(folder, manifest)
    assert golden.expected.keys() == {2, 4}
    assert golden.pixels.shape == (4, 16, 16, 3)
    assert golden.image.shape == (4, 3, 16, 16)
    np.testing.assert_array_equal(golden.image, manifest.model.preprocessing.normalise(golden.pixels))
    assert golden.expected[2]["fp32"].exact.shape == (4, 7)


def _without_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _manifest_of_others(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"schema_version": 1, "generator": "other"}')


def _empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"")


def _deep_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"schema_version": 1, "x": ' + "[" * 100_000)


def _without_sums(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()


def _sums_in_another_encoding(folder: Path) -> None:
    (folder / "SHA256SUMS").write_bytes(b"\xff\xfe\x00")


def _with_a_note(folder: Path) -> None:
    (folder / "onnx" / "my notes.txt").write_text("mine")


def _with_a_link(folder: Path) -> None:
    (folder / "link").symlink_to("/")


def _with_a_linked_folder(folder: Path) -> None:
    (folder / "golden" / "more").symlink_to(folder.parent)


@pytest.mark.parametrize(
    "change",
    [
        _without_manifest,
        _manifest_of_others,
        _empty_manifest,
        _deep_manifest,
        _without_sums,
        _sums_in_another_encoding,
        _with_a_note,
        _with_a_link,
        _with_a_linked_folder,
    ],
    ids=lambda change: change.__name__.strip("_"),
)
def test_what_is_not_a_bundle_of_ours_is_not_replaced(folder: Path, change: Callable[[Path], None]) -> None:
    change(folder)
    before = snapshot(folder)
    with pytest.raises(OutputRefused, match="Choose another `out`"):
        bundle.check_replaceable(folder)
    with pytest.raises(OutputRefused, match="Choose another `out`"), bundle.written(folder):
        pass
    assert snapshot(folder) == before


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Everything below *folder*, with its content, or where it points."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
    return found


def test_a_bundle_that_was_damaged_may_be_replaced(folder: Path) -> None:
    (folder / "README.md").write_text("edited")
    (folder / "onnx" / "tiny-k2.onnx").unlink()
    bundle.check_replaceable(folder)


def test_nothing_and_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    bundle.check_replaceable(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    bundle.check_replaceable(tmp_path / "empty")


def test_a_failure_while_writing_leaves_the_old_bundle_and_nothing_else(folder: Path) -> None:
    before = snapshot(folder.parent)
    with pytest.raises(ZeroDivisionError), bundle.written(folder) as partial:
        (partial / "half").write_text("x")
        raise ZeroDivisionError
    assert snapshot(folder.parent) == before


@pytest.mark.parametrize("read", [bundle.read, bundle.check_present])
def test_a_folder_that_is_no_bundle_is_bad_input(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(BadInput, match="There is no folder"):
        read(tmp_path / "none")
    with pytest.raises(BadInput, match="is not a bundle"):
        read(tmp_path)


@pytest.mark.parametrize("version", [0, 2, 999, -1])
def test_other_schema_versions_are_refused_with_what_to_do(folder: Path, version: int) -> None:
    change(folder, lambda manifest: manifest.update(schema_version=version))
    with pytest.raises(VerificationFailed, match=f"schema version {version}; this release reads 1"):
        bundle.read(folder)


def change(folder: Path, edit: Callable[[Any], Any]) -> None:
    """Edits the manifest as plain JSON; hashes are left to be wrong."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: m["artifacts"].clear(), "no artifact is listed"),
        (lambda m: m["artifacts"][0].update(bytes=1), "listed in two ways"),
        (lambda m: m["artifacts"][0].update(sha256="0" * 64), "listed in two ways"),
        (lambda m: m["artifacts"][0].update(files=m["artifacts"][0]["files"] * 2), "listed in two ways"),
        (lambda m: m["artifacts"][0].update(path="../../evil.onnx"), "listed in two ways"),
        (lambda m: m["artifacts"][0].update(path="/etc/passwd", files=["/etc/passwd"]), "listed in two ways"),
        (lambda m: m["artifacts"][0]["files"].append("onnx/more.bin"), "onnx/more.bin, which .* needs, is not listed"),
        (lambda m: m["artifacts"][0].update(heads=[]), r"has heads \[\]"),
        (lambda m: m["artifacts"][0].update(heads=[3]), r"has heads \[3\], but \[2, 4\] are listed"),
        (lambda m: m["artifacts"][0]["parity"].clear(), "parity of .* is for other heads"),
        (lambda m: m["files"].append(m["files"][0]), "listed twice"),
        (lambda m: m["model"]["subnetworks"].reverse(), "do not ascend"),
        (lambda m: m["model"]["subnetworks"][0].update(heads=5), "do not ascend"),
        (lambda m: m["model"]["preprocessing"].update(image_size=17), "preprocessing produces other images"),
        (lambda m: m["model"]["preprocessing"].update(crop=7), "crop"),
        (lambda m: m["model"]["config"].update(depth=-1), "depth"),
        (lambda m: m["model"]["config"].update(unknown=1), "unknown"),
        (lambda m: m.pop("tool"), "tool"),
        (lambda m: m.update(generator="other"), "generator"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(folder: Path, edit: Callable[[Any], Any], said: str) -> None:
    change(folder, edit)
    with pytest.raises(VerificationFailed, match=said):
        bundle.read(folder)


def mutated(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON document with one place changed: its type, its value, or what it holds."""
    value = copy.deepcopy(value)
    place = value
    while isinstance(place, dict | list) and place:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.25:
            odd: list[Any] = [
                None,
                True,
                -1,
                0,
                1,
                2**53,
                -(2**63),
                1e300,
                0.5,
                "",
                "..",
                "/",
                "\x00",
                "é" * 9,
                [],
                {},
                [[]],
                {"": 0},
            ]
            match rng.randrange(4):
                case 0 if isinstance(place, dict):
                    place[str(key) + "x"] = place.pop(key)
                case 0 | 1:
                    del place[key]
                case 2 if isinstance(inner, int | float):
                    place[key] = inner + rng.choice([-1, 1, 2**31, -inner, 0.5])
                case _:
                    place[key] = rng.choice(odd)
            break
        place = inner
    return value


@pytest.mark.slow
def test_a_mutated_manifest_is_read_or_refused_but_never_an_error_of_ours(folder: Path) -> None:
    good, rng, refused = json.loads((folder / "manifest.json").read_bytes()), random.Random(0), 0
    for _ in range(3000):
        (folder / "manifest.json").write_text(json.dumps(mutated(good, rng)))
        try:
            bundle.read_golden(folder, bundle.read(folder))
        except VerificationFailed:
            refused += 1
    assert refused > 2000


def test_mutated_bytes_of_a_manifest_are_read_or_refused(folder: Path) -> None:
    good, rng, refused = (folder / "manifest.json").read_bytes(), random.Random(0), 0
    for _ in range(2000):
        content = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        (folder / "manifest.json").write_bytes(content)
        try:
            bundle.read(folder)
        except VerificationFailed:
            refused += 1
    assert refused > 1000


def saved(arrays: dict[str, NDArray[Any]]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy types its allow_pickle among them
    return file.getvalue()


@pytest.fixture
def golden_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    with np.load(folder / bundle.GOLDEN) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _objects(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["image"] = np.array([{}, None], object)


@pytest.mark.parametrize(
    "edit",
    [
        lambda a: a.pop("pixels"),
        lambda a: a.pop("image"),
        lambda a: a.pop("logits_k2"),
        lambda a: a.pop("torch_fp32_logits_k4"),
        lambda a: a.update(pixels=a["pixels"][:0]),
        lambda a: a.update({name: array[:0] for name, array in a.items()}),
        lambda a: a.update(pixels=a["pixels"].astype(np.float32)),
        lambda a: a.update(image=a["image"][:, :1]),
        lambda a: a.update(image=a["image"] + 0.01),
        lambda a: a.update(pixels=255 - a["pixels"]),
        lambda a: a.update(logits_k2=a["logits_k2"][:, :3]),
        lambda a: a.update(logits_k2=a["logits_k2"] * np.nan),
        lambda a: a.update(logits_k2=a["logits_k2"] * 1000),
        lambda a: a.update(torch_fp32_logits_k2=a["torch_fp32_logits_k2"] + np.float32(10)),
        lambda a: a.update(torch_fp32_logits_k2=a["torch_fp32_logits_k2"] * np.float32(np.inf)),
        _objects,
    ],
)
def test_golden_data_that_contradict_the_manifest_are_refused(
    folder: Path, golden_arrays: dict[str, NDArray[Any]], edit: Callable[[dict[str, NDArray[Any]]], object]
) -> None:
    manifest = bundle.read(folder)
    edit(golden_arrays)
    (folder / bundle.GOLDEN).write_bytes(saved(golden_arrays))
    with pytest.raises(VerificationFailed, match=r"golden\.npz is not valid golden data"):
        bundle.read_golden(folder, manifest)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"\x80\x04K\x01.", b"text"])
def test_a_golden_file_of_another_kind_is_refused(folder: Path, content: bytes) -> None:
    (folder / bundle.GOLDEN).write_bytes(content)
    with pytest.raises(VerificationFailed, match=r"golden\.npz"):
        bundle.read_golden(folder, bundle.read(folder))


def test_a_golden_file_with_one_array_alone_is_refused(folder: Path) -> None:
    with (folder / bundle.GOLDEN).open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(VerificationFailed, match=r"golden\.npz"):
        bundle.read_golden(folder, bundle.read(folder))


def test_mutated_golden_files_are_read_or_refused(folder: Path) -> None:
    manifest, rng, refused = bundle.read(folder), random.Random(0), 0
    good = (folder / bundle.GOLDEN).read_bytes()
    directory = good.index(b"PK\x01\x02")
    for _ in range(1500):
        content = bytearray(good)
        for _ in range(rng.randrange(1, 5)):  # headers of the zip and of the arrays, rarely the data
            start = rng.choice([good.find(b"PK\x03\x04", rng.randrange(directory)), directory])
            content[min(start + rng.randrange(200), len(content) - 1)] = rng.randrange(256)
        if rng.random() < 0.1:
            del content[rng.randrange(len(content)) :]
        (folder / bundle.GOLDEN).write_bytes(content)
        try:
            bundle.read_golden(folder, manifest)
        except VerificationFailed:
            refused += 1
    assert refused > 500


# What a manifest answers.


def test_what_several_artifacts_share_is_fetched_once(exported: Path) -> None:
    manifest = bundle.read(exported)
    sizes = {file.path: file.bytes for file in manifest.files}
    shared = [artifact for artifact in manifest.artifacts if artifact.graph == "shared"]
    graphs, weights = {a.path for a in shared}, {path for a in shared for path in a.files} - {a.path for a in shared}
    assert weights
    assert manifest.fetch_bytes(shared[0]) == sum(sizes[path] for path in shared[0].files)
    assert manifest.fetch_bytes(*shared) == sum(sizes[path] for path in graphs | weights)
    assert manifest.fetch_bytes() == 0


def test_weights_count_as_runtimes_hold_them(exported: Path) -> None:
    manifest = bundle.read(exported)
    small = next(artifact for artifact in manifest.artifacts if artifact.heads == (2,))
    of_both = msgspec.structs.replace(small, heads=(2, 4))
    params = functools.partial(network.num_params, manifest.model.config)
    assert manifest.weight_bytes(of_both) == 4 * (params(2) + params(4))
    assert manifest.weight_bytes(small) == max(4 * params(2), manifest.fetch_bytes(small))


def test_a_universal_graph_without_a_choice_fixes_its_head_count(exported: Path) -> None:
    one = bundle.read(exported).artifacts[0]
    assert (one.kind, one.fixes_heads) == ("onnx separate", False)
    universal = msgspec.structs.replace(one, graph="universal", precision="int8")
    assert (universal.kind, universal.fixes_heads) == ("onnx universal fixed int8", True)
    takes_k = msgspec.structs.replace(universal, inputs=(*universal.inputs, universal.inputs[0]))
    assert (takes_k.kind, takes_k.fixes_heads) == ("onnx universal int8", False)
    assert not msgspec.structs.replace(universal, heads=(2, 4)).fixes_heads


def test_the_model_is_told_to_the_latency_model(exported: Path) -> None:
    model = bundle.read(exported).model
    two, four = model.subnetworks
    known = msgspec.structs.replace(model, subnetworks=(two, msgspec.structs.replace(four, accuracy=70.0)))
    assert known.heads == (2, 4)
    assert known.accuracy == known.workload.accuracy == {4: 70.0}
    assert known.gmacs == {2: two.gmacs, 4: four.gmacs}
    assert known.workload.gmacs == pytest.approx(known.gmacs, rel=0, abs=5e-7)  # six digits are stored
    assert known.macs((2, 4), 3) == 3 * (network.macs(model.config, 2) + network.macs(model.config, 4))
