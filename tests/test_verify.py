"""Verification: whatever happened to a bundle is found and named."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest

from hydra_export import bundle, checkpoint, files
from hydra_export.cli import main
from hydra_export.errors import BadInput, CheckFailed, VerificationFailed
from hydra_export.exporting import export, jobs
from hydra_export.guard import RunLimits, new_worker
from hydra_export.verification import _verify, verify
from tests.conftest import available_targets

FLIPS = 6  # per file


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def reseal(folder: Path, edit: Callable[[Any], object] = lambda _manifest: None) -> None:
    """Makes every hash and size right again after a change, as someone would who wants it not to be found."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for entry in (*manifest["files"], *manifest["artifacts"]):
        path = folder / entry["path"]
        entry.update(bytes=path.stat().st_size, sha256=files.sha256(path))
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = [f"{files.sha256(folder / name)}  {name}\n" for name in names(folder) if name != "SHA256SUMS"]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_a_whole_bundle_passes_and_every_artifact_ran(folder: Path) -> None:
    verified = verify(folder)
    assert {(run.path, run.heads) for run in verified} == {
        ("onnx/tiny-k2.onnx", 2),
        ("onnx/tiny-k4.onnx", 4),
        ("onnx/tiny-shared-k2.onnx", 2),
        ("onnx/tiny-shared-k4.onnx", 4),
    }
    for run in verified:
        assert run.record.bound is not None
        assert 0 < run.record.max_abs_error <= run.record.bound
        assert run.record.num_images == 4


def test_a_bundle_passes_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another place" / "renamed"
    elsewhere.parent.mkdir()
    folder.rename(elsewhere)
    assert verify(elsewhere)


def test_a_bundle_that_was_hashed_again_unchanged_passes(folder: Path) -> None:
    reseal(folder)
    assert verify(folder)


def test_one_flipped_byte_anywhere_is_found_and_its_file_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(0)
    for name in names(folder):
        good = (folder / name).read_bytes()
        for position in (0, len(good) - 1, *(rng.randrange(len(good)) for _ in range(FLIPS - 2))):
            content = bytearray(good)
            content[position] ^= 1 << rng.randrange(8)
            (folder / name).write_bytes(content)
            assert main(["verify", str(folder)]) == 1, f"{name} at {position}"
            out, err = capsys.readouterr()
            assert not out
            assert name in err, f"{name} at {position}: {err}"
        (folder / name).write_bytes(good)
    assert main(["verify", str(folder)]) == 0


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def _link(path: Path) -> None:
    target = path.with_name("target of the link")
    path.rename(target)
    path.symlink_to(target.name)


def _link_outside(path: Path) -> None:
    outside = path.parents[2] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def _folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES = [_remove, _empty, _truncate, _append, _link, _link_outside, _folder_instead]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_every_file_of_a_bundle_is_needed_as_it_is(
    exported: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    for index, name in enumerate(names(exported)):
        folder = Path(shutil.copytree(exported, tmp_path / str(index) / "bundle"))
        change(folder / name)
        with pytest.raises(VerificationFailed) as caught:
            verify(folder)
        assert name in caught.value.message


@pytest.mark.parametrize("name", ["more", "onnx/more.onnx", "golden/.hidden", "new folder/x", "manifest.json.bak"])
def test_an_added_file_is_named(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    with pytest.raises(VerificationFailed, match=f"{name} is not listed"):
        verify(folder)


def test_an_added_link_is_named(folder: Path) -> None:
    (folder / "onnx" / "more").symlink_to(folder / "golden")
    with pytest.raises(VerificationFailed, match="onnx/more is a link"):
        verify(folder)


def test_an_added_pipe_is_named_and_not_read(folder: Path) -> None:
    import os

    os.mkfifo(folder / "pipe")
    with pytest.raises(VerificationFailed, match="pipe is a link or a special file"):
        verify(folder)


def test_two_swapped_files_are_both_named(folder: Path) -> None:
    first, second = folder / "onnx/tiny-k2.onnx", folder / "onnx/tiny-k4.onnx"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(VerificationFailed, match=r"tiny-k2\.onnx is damaged.*tiny-k4\.onnx is damaged"):
        verify(folder)


@pytest.mark.parametrize("edit", [str.upper, lambda t: t + t[:80], lambda t: t.replace("  ", " "), lambda t: t[:-1]])
def test_sums_in_another_form_are_refused(folder: Path, edit: Callable[[str], str]) -> None:
    path = folder / "SHA256SUMS"
    path.write_text(edit(path.read_text()))
    with pytest.raises(VerificationFailed, match="SHA256SUMS"):
        verify(folder)


def test_a_missing_folder_and_one_that_is_no_bundle_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There is no folder"):
        verify(tmp_path / "none")
    with pytest.raises(BadInput, match="is not a bundle"):
        verify(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is not an archive"):
        verify(tmp_path / "file")


def test_a_bundle_that_cannot_be_read_is_bad_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "sha256", denied)
    with pytest.raises(BadInput, match=r"cannot be read.*Permission denied"):
        verify(folder)


# What only running the artifacts can find: every hash is right.


@pytest.mark.parametrize(("path", "other"), list(itertools.permutations(["tiny-k2", "tiny-k4", "tiny-shared-k4"], 2)))
def test_another_artifact_under_its_name_is_found(folder: Path, path: str, other: str) -> None:
    """The shared and the separate graph of one head count, too, though they compute the same."""
    shutil.copyfile(folder / f"onnx/{other}.onnx", folder / f"onnx/{path}.onnx")
    reseal(folder)
    with pytest.raises(VerificationFailed, match=rf"{path}\.onnx states (heads '{other[-1]}'|graph '\w+')"):
        verify(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("graph", "universal"), ("input", "image"), ("labels", '["cat"]'), ("license", "none"), ("preprocessing", "{}")],
)
def test_what_an_artifact_says_of_itself_is_what_the_manifest_says(folder: Path, key: str, value: str) -> None:
    path = folder / "onnx/tiny-k2.onnx"
    model = onnx.load(path)
    onnx.helper.set_model_props(
        model, {entry.key: entry.value for entry in model.metadata_props} | {f"hydra_export.{key}": value}
    )
    onnx.save(model, path)
    reseal(folder)
    with pytest.raises(VerificationFailed, match=rf"tiny-k2\.onnx states {key} "):
        verify(folder)


@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_what_an_artifact_takes_and_gives_is_what_the_manifest_says(folder: Path, field: str) -> None:
    reseal(folder, lambda manifest: manifest["artifacts"][0][field][0].update(name="picture"))
    with pytest.raises(VerificationFailed, match=r"(takes image|gives logits) .*, but manifest.json states picture"):
        verify(folder)


def test_a_changed_weight_is_found(folder: Path) -> None:
    model = onnx.load(folder / "onnx/tiny-k4.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "blocks.0.mlp.fc1.weight")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0] += 0.01
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, folder / "onnx/tiny-k4.onnx")
    reseal(folder)
    with pytest.raises(VerificationFailed, match=r"tiny-k4\.onnx"):
        verify(folder)


def test_a_changed_shell_is_found(folder: Path) -> None:
    path = folder / "onnx/tiny-shared-k2.bin"
    array = np.fromfile(path, "<f4")
    array[100] += 0.1
    array.tofile(path)
    reseal(folder)
    with pytest.raises(VerificationFailed, match=r"tiny-shared-k[24]\.onnx"):
        verify(folder)


def test_changed_golden_logits_are_found(folder: Path) -> None:
    with np.load(folder / bundle.GOLDEN) as arrays:
        golden = {name: arrays[name] for name in arrays.files}
    golden["logits_k2"][0, 0] += 0.001
    golden["torch_fp32_logits_k2"][0, 0] += 0.001
    np.savez(folder / bundle.GOLDEN, **golden)
    reseal(folder)
    with pytest.raises(VerificationFailed, match=r"tiny-k2\.onnx"):
        verify(folder)


@pytest.mark.parametrize("content", [b"", b"\x08\x08", b"not a model"])
def test_an_artifact_that_is_no_model_is_a_failed_check(folder: Path, content: bytes) -> None:
    (folder / "onnx/tiny-k2.onnx").write_bytes(content)
    reseal(folder)
    with pytest.raises(CheckFailed, match=r"tiny-k2\.onnx"):
        verify(folder)


def test_a_graph_that_reads_outside_of_the_bundle_is_refused(folder: Path) -> None:
    path = folder / "onnx/tiny-shared-k2.onnx"
    (folder.parent / "outside.bin").write_bytes((folder / "onnx/tiny-shared-k2.bin").read_bytes())
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../outside.bin"
    path.write_bytes(model.SerializeToString())
    reseal(folder)
    with pytest.raises(CheckFailed, match=r"tiny-shared-k2\.onnx"):
        verify(folder)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: m["artifacts"][0].update(target="tfite"), "unknown target 'tfite'"),
        (lambda m: m["artifacts"][0].update(target="../onnx"), "unknown target"),
        (lambda m: m["artifacts"][0].update(heads=[4], parity={"4": m["artifacts"][0]["parity"]["2"]}), "heads 4"),
        (lambda m: m["artifacts"][0].update(input="image"), "tiny-k2"),
        (lambda m: m["files"][0].update(bytes=m["files"][0]["bytes"] + 1), "bytes, but manifest.json states"),
        (lambda m: m["files"][0].update(sha256="0" * 64), "damaged"),
        (lambda m: m["files"].pop(0), "is not listed in manifest.json"),
        (lambda m: m["files"].append({"path": "../x", "bytes": 1, "sha256": "0" * 64}), "../x': it is outside"),
        (lambda m: m["model"]["preprocessing"].update(mean=[0, 0, 0]), "golden"),
    ],
)
def test_a_manifest_that_says_something_else_is_found(folder: Path, edit: Callable[[Any], Any], said: str) -> None:
    reseal(folder, edit)
    with pytest.raises(CheckFailed) as caught:
        verify(folder)
    assert said in caught.value.message


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON document with each of its keys."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def test_a_manifest_mutated_and_sealed_again_is_verified_or_refused_but_never_an_error_of_ours(folder: Path) -> None:
    good = (folder / "manifest.json").read_bytes()
    odd: list[Any] = [None, -1, 0, 10**18, 0.5, "", "../x", "\x00", [], {}, [["x"]]]
    rng, outcomes = random.Random(0), {"passed": 0, "refused": 0}
    sealed = {
        name: files.sha256(folder / name) for name in names(folder) if name not in ("SHA256SUMS", "manifest.json")
    }
    worker = new_worker()  # one for all: to start it takes longer than what it does
    for _ in range(250):
        manifest = json.loads(good)
        container, key = rng.choice(list(places(manifest)))
        container[key] = rng.choice(odd)
        content = json.dumps(manifest).encode()
        (folder / "manifest.json").write_bytes(content)
        hashes = {**sealed, "manifest.json": hashlib.sha256(content).hexdigest()}
        (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in hashes.items()))
        try:
            _verify(folder, bundle.silent, RunLimits(), worker)
            outcomes["passed"] += 1
        except (BadInput, CheckFailed):
            outcomes["refused"] += 1
    worker.close()
    assert outcomes["refused"] > 150, outcomes


@pytest.mark.slow
def test_a_graph_mutated_and_sealed_again_is_verified_or_refused_but_never_an_error_of_ours(folder: Path) -> None:
    path, rng, refused, worker = folder / "onnx/tiny-shared-k2.onnx", random.Random(0), 0, new_worker()
    good = path.read_bytes()
    for _ in range(150):
        content = bytearray(good)
        content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        reseal(folder)
        try:
            _verify(folder, bundle.silent, RunLimits(), worker)
        except CheckFailed:
            refused += 1
    worker.close()
    assert refused > 75


def test_progress_is_told_from_start_to_end(folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    verify(folder, lambda *step: told.append(step))
    assert told[0] == ("hashing", 0, 1)
    assert told[-1] == ("done", 4, 4)
    assert ("running onnx/tiny-k2.onnx", 0, 4) in told


@pytest.mark.slow
def test_one_flipped_byte_in_any_file_of_the_packaged_models_shared_bundle_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rng = tmp_path / "dist", random.Random(0)
    assert main(["--target", "onnx", "--heads", "all", "--graph", "shared", "--out", str(folder)]) == 0
    assert main(["verify", str(folder)]) == 0
    capsys.readouterr()
    for name in names(folder):
        good = (folder / name).read_bytes()
        content = bytearray(good)
        content[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(content)
        assert main(["verify", str(folder)]) == 1
        assert name in capsys.readouterr().err
        (folder / name).write_bytes(good)
    assert main(["verify", str(folder)]) == 0


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda a: a.update(target="coreml"), r"onnx/tiny-k2\.onnx"),
        (lambda a: a.update(input="image"), r"onnx/tiny-k2\.onnx"),
        (lambda a: a.update(target="tflite", graph="shared"), "which target 'tflite' does not write"),
    ],
    ids=["another target", "another form", "a graph kind that the target lacks"],
)
def test_an_artifact_that_is_said_to_be_another_is_a_failed_check(
    folder: Path, edit: Callable[[Any], object], said: str
) -> None:
    reseal(folder, lambda manifest: edit(manifest["artifacts"][0]))
    with pytest.raises(CheckFailed, match=said):
        verify(folder)


@pytest.mark.parametrize(
    ("field", "edit"),
    [
        ("precision", lambda manifest: manifest["artifacts"][1].update(precision="int8")),
        ("model", lambda manifest: manifest["model"].update(name="another")),
        ("checkpoint_sha256", lambda manifest: manifest["model"].update(checkpoint_sha256="0" * 64)),
    ],
    ids=["precision", "model", "checkpoint"],
)
def test_a_manifest_that_says_something_else_than_the_artifact_is_found(
    folder: Path, field: str, edit: Callable[[Any], object]
) -> None:
    def relabel(manifest: Any) -> None:
        edit(manifest)
        if field == "precision":  # which has no bound
            for record in manifest["artifacts"][1]["parity"].values():
                record["bound"] = None

    reseal(folder, relabel)
    with pytest.raises(VerificationFailed, match=rf"onnx/tiny-.*\.onnx states {field} "):
        verify(folder)


class Here:
    """A worker that answers in this process, where calls can be counted."""

    def start(self) -> None:
        """Nothing to start."""

    def call(self, function: str, *, what: str, seconds: float, **arguments: Any) -> Any:
        """What the function returns."""
        module, name = function.split(":")
        return getattr(importlib.import_module(module), name)(**arguments)


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Path]:
    """The paths that a function is called with from now on."""
    paths: list[Path] = []
    function = getattr(owner, name)

    def called(path: Path) -> Any:
        paths.append(path)
        return function(path)

    monkeypatch.setattr(owner, name, called)
    return paths


@pytest.mark.parametrize("target", [name for name in available_targets() if name != "onnx"])
def test_an_artifact_of_many_head_counts_is_linted_and_parsed_once(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    manifest = export(
        checkpoint.load(tiny_checkpoint), tmp_path / "out", jobs([target], ["universal"]), heads=range(1, 5)
    )
    (artifact,) = manifest.artifacts
    time.sleep(0.1)  # until nobody can take the file for one that still changes
    linting = importlib.import_module(f"hydra_export.targets.{target}.lint")
    lints = counted(monkeypatch, *((linting.linted, "_read") if target == "tflite" else (linting, "lint")))
    if target == "tflite":
        parses = counted(monkeypatch, linting, "read")
    else:
        latest = linting.reader.described if target == "coreai" else linting.opened
        parses = counted(monkeypatch, latest, "_read")
    verified = _verify(tmp_path / "out", bundle.silent, RunLimits(), cast(Any, Here()))
    assert [run.heads for run in verified] == [1, 2, 3, 4]
    assert lints == parses == [tmp_path / "out" / artifact.path]
