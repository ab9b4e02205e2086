"""The command line: what is refused and how, what goes where, exit statuses, help."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import io
import json
import os
import pickle
import pty
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors
import safetensors.torch
import torch
from rich.console import Console

from hydra_export import checkpoint, checkpoint_file, targets
from hydra_export.cli import main
from hydra_export.commands import app
from hydra_export.commands.choices import Choices
from hydra_export.commands.target_options import options_of
from hydra_export.exporting import export as export_bundle
from hydra_export.target import Options
from hydra_export.targets.coreml import CoreMLOptions
from hydra_export.targets.onnx import OnnxOptions
from hydra_export.targets.tflite import TFLiteOptions

COMMANDS = sorted(name for name in app.app if not name.startswith("-"))
LINES = [*COMMANDS, *(f"{one} {other}" for one in COMMANDS for other in app.app[one] if not other.startswith("-"))]
Capture = pytest.CaptureFixture[str]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.fixture
def refused(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that has to be refused as bad input with nothing written; returns its one message."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        before = snapshot(tmp_path)
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert not out
        messages = [line for line in err.splitlines() if not line.startswith(("note: ", "warning: "))]
        assert len(messages) == 1, err
        assert messages[0].startswith("error: ")
        assert "Traceback" not in err
        assert snapshot(tmp_path) == before
        assert main([*(str(argument) for argument in arguments), "--json"]) == 2
        captured = capsys.readouterr()
        document = json.loads(captured.out)
        assert document.keys() == {"schema_version", "error"}
        assert document["error"].keys() == {"code", "message", "remedy", "field"}
        assert document["error"]["message"]
        assert document["error"]["remedy"]
        assert "error:" not in captured.err
        assert snapshot(tmp_path) == before
        return messages[0].removeprefix("error: ")

    return run


# Head counts


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        ("0", "--heads: 0 is out of range. Use head counts from 1 to 4"),
        ("5", "--heads: 5 is out of range. Use head counts from 1 to 4"),
        ("2,13", "--heads: 13 is out of range. Use head counts from 1 to 4"),
        ("-1", "--heads '-1': '-1' is not a head count. Use head counts from 1 to 4"),
        ("3,,6", "--heads '3,,6': '' is not a head count. Use head counts from 1 to 4"),
        ("2,", "--heads '2,': '' is not a head count. Use head counts from 1 to 4"),
        ("abc", "--heads 'abc': 'abc' is not a head count. Use head counts from 1 to 4"),
        ("2;4", "--heads '2;4': '2;4' is not a head count. Use head counts from 1 to 4"),
        ("2.0", "--heads '2.0': '2.0' is not a head count. Use head counts from 1 to 4"),
        ("2,4,2", "--heads: 2 is listed twice. Use head counts from 1 to 4, each once"),
        ("", "--heads '': '' is not a head count. Use head counts from 1 to 4"),
        ("99999", "--heads: 99999 is out of range. Use head counts from 1 to 4"),
        ("9" * 5000, "'9999999999999999999999999999999999999...' is not a head count. Use head counts from 1 to 4"),
    ],
    ids=lambda value: value[:8],
)
def test_impossible_head_counts_are_refused(
    refused: Callable[..., str], tiny_checkpoint: Path, heads: str, said: str
) -> None:
    assert said in refused("--checkpoint", tiny_checkpoint, "--heads", heads, "--out", "new")


def test_the_example_in_a_remedy_is_one_that_works(refused: Callable[..., str], tiny_checkpoint: Path) -> None:
    said = refused("--checkpoint", tiny_checkpoint, "--heads", "12", "--out", "new")
    assert said.endswith("separated by commas, or 'all': --heads 2,4.")


@pytest.mark.parametrize(
    ("arguments", "added"),
    [
        (["--target", "onnx", "--precision", "fp16", "--max-drop", "2"], "--precision fp16,int8."),
        (["--graph", "separate", "--weight-files", "one"], "--graph separate,shared."),
        (["--target", "onnx", "--ios", "16"], "--target onnx,coreml."),
        (["--target", "onnx,,tflite"], "--target onnx,tflite."),
        (["--device", "pixel7", "--budget-ms", "0"], "Use a number of milliseconds above 0."),
    ],
)
def test_a_remedy_keeps_what_was_given(refused: Callable[..., str], arguments: list[str], added: str) -> None:
    assert refused(*arguments, "--out", "new").endswith(added)


@pytest.mark.parametrize("command", ["export", "verify", "bench", "profile", "report", "evaluate", "train"])
def test_what_cannot_be_parsed_names_the_help_of_its_command(command: str, capsys: Capture) -> None:
    assert main([command, "--no-such-option"]) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"See hydra-export {command} --help.")


def test_an_untrained_head_count_is_refused_with_those_that_were(
    refused: Callable[..., str], tiny_checkpoint: Path
) -> None:
    said = refused("--checkpoint", tiny_checkpoint, "--heads", "2,3", "--out", "new")
    assert said == ("Head counts 3 of tiny were not trained. Choose from 1,2,4, or pass --allow-untrained.")


def test_untrained_head_counts_are_exported_with_a_warning_when_allowed(
    tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "new"
    options = ["--checkpoint", str(tiny_checkpoint), "--heads", "2,3", "--out", str(out)]
    assert main([*options, "--allow-untrained"]) == 0
    assert "warning: Head counts 3 of tiny were not trained" in capsys.readouterr().err
    assert (out / "onnx" / "tiny-k3.onnx").is_file()


def test_all_head_counts_are_those_of_the_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "new")]
    assert main([*options, "--heads", "all", "--allow-untrained"]) == 0
    assert {path.name for path in (tmp_path / "new/onnx").iterdir()} == {f"tiny-k{k}.onnx" for k in (1, 2, 3, 4)}


# Names


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "onxn"], "No target 'onxn'. Did you mean 'onnx'?"),
        (["--target", "pytorch"], "No target 'pytorch'. Known: "),
        (["--target", ""], "--target '' contains an empty name"),
        (["--target", "onnx,,onnx"], "--target 'onnx,,onnx' contains an empty name"),
        (["--target", "onnx,onnx"], "--target 'onnx,onnx' lists a name twice"),
        (["--graph", "sepparate"], "Target 'onnx' has no graph kind 'sepparate'. Did you mean 'separate'?"),
        (
            ["--graph", "whole"],
            "Target 'onnx' has no graph kind 'whole'. Pass --graph separate or shared or universal.",
        ),
        (["--precision", "fp23"], "Target 'onnx' has no precision 'fp23'. Did you mean 'fp32'?"),
        (["--precision", "int4"], "Target 'onnx' has no precision 'int4'. Did you mean 'int8'?"),
        (["--input", "picture"], 'Invalid value "picture" for --input. Choose from: "tensor", "image".'),
        (["--batch", "0"], "--batch '0' is not a batch size. Use a number of images, or 'dynamic'."),
        (["--batch", "-3"], "--batch '-3' is not a batch size."),
        (["--batch", "some"], "--batch 'some' is not a batch size."),
        (["--opset", "12"], "--opset 12 is not supported. Use 13 to 23."),
        (["--opset", "24"], "--opset 24 is not supported. Use 13 to 23."),
        (["--opset", "new"], 'Invalid value for --opset: unable to convert "new" into int.'),
        (["--preprocessing", "imagnet"], "No preprocessing 'imagnet'. Did you mean 'imagenet'?"),
        (["--check-images", "none"], "There is no folder none."),
        (["--labels", "none"], "--labels none cannot be read"),
        (["--taget", "onnx"], "Unknown option: --taget. Did you mean --target?"),
        (["--heads"], "--heads requires an argument"),
        (["--no-json"], "Unknown option: --no-json"),
        (["export", "more"], "more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_an_export_does_not_know_is_refused(
    refused: Callable[..., str], tiny_checkpoint: Path, arguments: list[str], said: str
) -> None:
    command = arguments[:1] if arguments[0] == "export" else ["export"]
    assert said in refused(*command, "--checkpoint", tiny_checkpoint, "--out", "new", *arguments[len(command) - 1 :])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verfy", "x"], "No command 'verfy'. Did you mean 'verify'?"),  # codespell:ignore
        (["tarin"], "No command 'tarin'. Did you mean 'train'?"),
        (
            ["zzz"],
            "No command 'zzz'. Known: bench, calibrate, check, completion, doctor, evaluate, export, predict, profile,",
        ),
        ([""], "No command ''. Known: "),
        (
            ["train", "--recipe", "fashion-mnst", "--out", "run"],
            "No recipe 'fashion-mnst'. Did you mean 'fashion-mnist'?",
        ),
        (["train", "--recipe", "digits"], "--out"),
        (["evaluate", "--data", "cifar"], "'cifar'"),
        (["evaluate", "--checkpoint", "none"], "There is no checkpoint at none."),
        (["verify"], "--bundle"),
        (["verify", "none"], "There is no folder none."),
        (["verify", "."], ". is not a bundle: it has no manifest.json."),
        (["verify", "x", "y"], "y"),
        (["bench", "--bundle", "none"], "There is no folder none."),
        (["bench", "--bundle", "."], ". is not a bundle: it has no manifest.json."),
        (["bench", "--runs", "0"], "--runs is 0. Use a number from 1 to 100000."),
        (["bench", "--threads", "-1"], "--threads is -1."),
        (["bench", "--rnus", "5"], "Unknown option: --rnus. Did you mean --runs?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_other_commands_do_not_know_is_refused(
    refused: Callable[..., str], arguments: list[str], said: str
) -> None:
    assert said in refused(*arguments)


# Checkpoints


class Trap:
    """A pickle that makes a file when it is loaded carelessly."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("trapped", "w")


def _missing(path: Path, _good: bytes) -> None:
    path.unlink(missing_ok=True)


def _empty(path: Path, _good: bytes) -> None:
    path.write_bytes(b"")


def _truncated(path: Path, good: bytes) -> None:
    path.write_bytes(good[: len(good) // 2])


def _truncated_header(path: Path, good: bytes) -> None:
    path.write_bytes(good[:20])


def _text(path: Path, _good: bytes) -> None:
    path.write_text("These are not weights.\n")


def _a_picture(path: Path, _good: bytes) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def _pickle_with_code(path: Path, _good: bytes) -> None:
    path.with_suffix(".pth").write_bytes(pickle.dumps({"state_dict": Trap()}))


def _torch_file_with_code(path: Path, _good: bytes) -> None:
    torch.save({"state_dict": Trap()}, path.with_suffix(".pth"))


def _old_torch_file_with_code(path: Path, _good: bytes) -> None:
    torch.save({"state_dict": Trap()}, path.with_suffix(".pth"), _use_new_zipfile_serialization=False)


def _pickle_under_another_name(path: Path, _good: bytes) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Trap()}))


def _damaged_zip(path: Path, _good: bytes) -> None:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, file)
    path.with_suffix(".pth").write_bytes(file.getvalue()[:-40])


def _no_tensors(path: Path, _good: bytes) -> None:
    torch.save({"epoch": 3}, path.with_suffix(".pth"))


def _folder_without_model(path: Path, _good: bytes) -> None:
    path.unlink()
    path.mkdir()


def _changed(path: Path, edit: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> None:
    """Rewrites the checkpoint after *edit* of its tensors and its description."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors, description = safetensors.torch.load_file(path), json.loads(metadata["hydra_export"])
    edit(tensors, description)
    path.write_bytes(safetensors.torch.save(tensors, {**metadata, "hydra_export": json.dumps(description)}))


def _contradiction(**config: object) -> Callable[[Path, bytes], None]:
    return lambda path, _good: _changed(path, lambda _tensors, description: description["config"].update(config))


def _nan(path: Path, _good: bytes) -> None:
    _changed(path, lambda tensors, _description: tensors["norm.bias"].fill_(torch.nan))


def _infinity(path: Path, _good: bytes) -> None:
    _changed(path, lambda tensors, _description: tensors["blocks.0.mlp.fc1.weight"][0].fill_(torch.inf))


def _missing_tensor(path: Path, _good: bytes) -> None:
    _changed(path, lambda tensors, _description: tensors.pop("blocks.1.norm1.weight"))


def _more_tensors(path: Path, _good: bytes) -> None:
    _changed(path, lambda tensors, _description: tensors.update(dist_token=torch.zeros(1)))


def _evil_name(path: Path, _good: bytes) -> None:
    _changed(path, lambda _tensors, description: description.update(name="../../evil"))


def _too_few_labels(path: Path, _good: bytes) -> None:
    _changed(path, lambda _tensors, description: description.update(labels=["one"]))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_missing, "There is no checkpoint at"),
        (_empty, "is empty"),
        (_truncated, "is not a readable safetensors file"),
        (_truncated_header, "is not a readable safetensors file"),
        (_text, "is not a readable safetensors file"),
        (_a_picture, "is not a readable safetensors file"),
        (_pickle_with_code, "was not read"),
        (_torch_file_with_code, "was not read"),
        (_old_torch_file_with_code, "was not read"),
        (_pickle_under_another_name, "cannot be read"),
        (_damaged_zip, "cannot be read|was not read"),
        (_no_tensors, "does not contain a state dict"),
        (_folder_without_model, "There is no checkpoint at"),
        (_contradiction(depth=3), "blocks.2.* is missing"),
        (_contradiction(depth=1), "blocks.1.* is not part of any"),
        (_contradiction(heads=5), "has shape .*, the configuration requires"),
        (_contradiction(patch_size=8), "has shape .*, the configuration requires"),
        (_contradiction(num_classes=9), "7 labels for 9 classes"),
        (_contradiction(heads=-4), "heads is -4"),
        (_contradiction(heads="many"), "Expected `int`"),
        (_contradiction(extra=1), "unknown field"),
        (_nan, "norm.bias has NaN or infinite values"),
        (_infinity, "blocks.0.mlp.fc1.weight has NaN or infinite values"),
        (_missing_tensor, "blocks.1.norm1.weight is missing"),
        (_more_tensors, "dist_token"),
        (_evil_name, "name"),
        (_too_few_labels, "1 labels for 7 classes"),
    ],
    ids=lambda value: getattr(value, "__name__", "").strip("_"),
)
def test_a_checkpoint_that_cannot_be_used_is_refused(
    refused: Callable[..., str], tiny_checkpoint: Path, damage: Callable[[Path, bytes], None], said: str
) -> None:
    damage(tiny_checkpoint, tiny_checkpoint.read_bytes())
    pickled = tiny_checkpoint.with_suffix(".pth")
    given = pickled if pickled.exists() else tiny_checkpoint
    message = refused("--checkpoint", given, "--out", "new")
    assert re.search(said, message), message
    assert str(given) in message
    assert not Path("trapped").exists()  # no code of a pickle ran


def test_the_traps_of_these_tests_do_run_where_nobody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Trap())).close()
    assert Path("trapped").exists()


# Outputs


def _a_file(out: Path) -> None:
    out.write_text("mine")


def _foreign(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("mine")


def _below_a_file(out: Path) -> None:
    out.parent.mkdir()
    out.parent.rmdir()
    out.parent.write_text("mine")


@pytest.mark.parametrize(
    ("there", "out", "said"),
    [
        (_a_file, "out", "out is a file, not a folder."),
        (_foreign, "out", "out exists and is not a bundle."),
        (_below_a_file, "file/out", "Cannot write"),
    ],
)
def test_an_output_that_is_not_ours_is_refused(
    refused: Callable[..., str],
    tiny_checkpoint: Path,
    tmp_path: Path,
    there: Callable[[Path], None],
    out: str,
    said: str,
) -> None:
    there(tmp_path / out)
    assert said in refused("--checkpoint", tiny_checkpoint, "--out", tmp_path / out)


def test_an_output_is_refused_before_a_checkpoint_is_read(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "file is a file, not a folder." in refused("--checkpoint", "none", "--out", "file")


def test_names_that_look_like_markup_or_emoji_are_shown_as_they_are(
    tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "[bold]x[/] [/] :cat:"
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(out)]) == 0
    assert main(["verify", str(out)]) == 0
    assert capsys.readouterr().out.count(out.name) == 2
    assert main(["verify", str(tmp_path / "[/] :cat:")]) == 2
    assert "[/] :cat:" in capsys.readouterr().err


# What goes where


@pytest.fixture
def packed(tiny_checkpoint: Path, tmp_path: Path, capsys: Capture) -> Path:
    out = tmp_path / "packed"
    assert main(["--checkpoint", str(tiny_checkpoint), "--graph", "separate,shared", "--out", str(out)]) == 0
    capsys.readouterr()
    return out


BENCHED = {"bundle", "date", "failed", "kind", "machine", "model", "not_timed", "runs", "threads", "timings"}


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["export", "--checkpoint", "{checkpoint}", "--out", "{tmp}/new"], {"out", "archive", "reused", "manifest"}),
        (["--checkpoint", "{checkpoint}", "--out", "{tmp}/new"], {"out", "archive", "reused", "manifest"}),
        (["verify", "{packed}"], {"folder", "artifacts"}),
        (["check", "{packed}"], {"folder", "artifacts"}),
        (["bench", "--bundle", "{packed}", "--runs", "2"], BENCHED),
    ],
)
def test_json_is_exactly_one_document(
    packed: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: Capture, arguments: list[str], keys: set[str]
) -> None:
    places = {"packed": packed, "checkpoint": tiny_checkpoint, "tmp": tmp_path}
    given = [argument.format(**places) for argument in arguments]
    for position in (0, len(given)):  # before and after everything else
        assert main([*given[:position], "--json", *given[position:]]) == 0
        out, _err = capsys.readouterr()
        document = json.loads(out)
        assert document["schema_version"] == 1
        assert document.keys() == {"schema_version", *keys}
    assert main(given) == 0
    with pytest.raises(json.JSONDecodeError):
        json.loads(capsys.readouterr().out)


def test_the_manifest_in_json_is_the_one_in_the_bundle(tiny_checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "new"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["out"] == str(tmp_path / "new")
    assert document["manifest"] == json.loads((tmp_path / "new/manifest.json").read_bytes())


def test_results_go_to_stdout_and_talk_to_stderr(tiny_checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    loaded = checkpoint.load(tiny_checkpoint)
    info = msgspec.structs.replace(loaded.info, trained_heads=())
    checkpoint_file.write(tiny_checkpoint, loaded.model.state_dict(), info)
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "new")]) == 0
    out, err = capsys.readouterr()
    assert "tiny exported to " in out
    assert "warning" not in out
    assert err == "warning: tiny does not state which head counts were trained. Check their accuracy yourself.\n"


def test_a_failed_check_is_status_1_in_words_and_in_json(packed: Path, capsys: Capture) -> None:
    (packed / "README.md").write_text("other")
    assert main(["verify", str(packed)]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert "README.md is damaged" in err
    assert main(["verify", str(packed), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "verification_failed"
    assert not err


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("unknown_name", ["--target", "onxn"]),
        ("bad_checkpoint", ["--checkpoint", "none"]),
        ("bad_data", ["--check-images", "none"]),
        ("bad_input", ["--heads", "0"]),
        ("output_refused", ["--out", "file"]),
    ],
)
def test_each_kind_of_error_has_its_code(
    tmp_path: Path,
    tiny_checkpoint: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    base = [] if "--checkpoint" in arguments else ["--checkpoint", str(tiny_checkpoint)]
    assert main([*base, *arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("hydra_export.verification"), "verify", fail)


def test_our_own_bug_is_status_3(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    failing(monkeypatch, ZeroDivisionError("[/] oops"))
    assert main(["verify", "x"]) == 3
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: hydra-export has a bug: ZeroDivisionError: [/] oops. Run it again with --debug")
    assert main(["verify", "x", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "bug"


def test_an_interruption_is_status_130(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert main(["verify", "x"]) == 130
    assert capsys.readouterr().err.startswith("error: Interrupted.")
    assert main(["verify", "x", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "interrupted"


def test_debug_adds_the_traceback_and_keeps_the_status(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert main(["verify", "none", "--debug"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "Traceback (most recent call last)" in err
    assert "hydra_export.errors.BadInput: There is no folder none." in err
    assert err.splitlines()[-1].startswith("error: There is no folder none.")
    failing(monkeypatch, ZeroDivisionError("oops"))
    assert main(["--debug", "verify", "x", "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "bug"
    assert "ZeroDivisionError: oops" in err


def test_an_interrupted_export_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(tmp_path)

    def interrupted(what: str, _done: int, _total: int) -> None:
        if what.startswith("verifying"):
            raise KeyboardInterrupt

    module = importlib.import_module("hydra_export.exporting")
    monkeypatch.setattr(
        module, "export", lambda *given, **options: export_bundle(*given, **{**options, "progress": interrupted})
    )
    assert main(["--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "new")]) == 130
    assert snapshot(tmp_path) == before


# Options


def test_options_alone_export_the_packaged_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--heads", "3", "--json"]) == 0
    assert {path.name for path in Path("hydra-bundle/onnx").iterdir()} == {
        f"{checkpoint.load().info.name}-k3.onnx",
    }
    assert json.loads(capsys.readouterr().out)["out"] == "hydra-bundle"


def test_json_alone_is_an_option_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(app, "app", lambda tokens: seen.append(tokens))
    app._launch(json=True)
    assert seen == [("export",)]


def test_own_labels_come_into_the_bundle(tiny_checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    labels = [f"Sorte {i} ä" for i in range(7)]
    (tmp_path / "labels.txt").write_text("\n".join(labels) + "\n\n", encoding="utf-8")
    options = ["--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "new")]
    assert main([*options, "--labels", str(tmp_path / "labels.txt")]) == 0
    assert json.loads((tmp_path / "new/manifest.json").read_bytes())["model"]["labels"] == labels
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    capsys.readouterr()
    assert main([*options, "--labels", str(tmp_path / "labels.txt")]) == 2
    assert "2 names, tiny has 7 classes" in capsys.readouterr().err
    assert json.loads((tmp_path / "new/manifest.json").read_bytes())["model"]["labels"] == labels


def test_own_images_are_what_parity_is_measured_on(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for i in range(5):
        Image.effect_noise((40, 30 + i), 90).save(tmp_path / "photos" / f"{i}.png")
    options = ["--checkpoint", str(tiny_checkpoint), "--out", str(tmp_path / "new")]
    assert main([*options, "--check-images", str(tmp_path / "photos")]) == 0
    manifest = json.loads((tmp_path / "new/manifest.json").read_bytes())
    assert manifest["images"] == "5 images of the folder photos, unlabelled"
    assert manifest["artifacts"][0]["parity"]["2"]["num_images"] == 5
    assert main(["verify", str(tmp_path / "new")]) == 0


def test_bench_times_every_artifact(packed: Path, capsys: Capture) -> None:
    assert main(["bench", "--bundle", str(packed), "--runs", "3", "--runtime", "onnxruntime", "--json"]) == 0
    timings = json.loads(capsys.readouterr().out)["timings"]
    assert [(row["path"], row["heads"]) for row in timings] == [
        ("onnx/tiny-k2.onnx", 2),
        ("onnx/tiny-k4.onnx", 4),
        ("onnx/tiny-shared-k2.onnx", 2),
        ("onnx/tiny-shared-k4.onnx", 4),
    ]
    for row in timings:
        assert 0 < row["min_ms"] <= row["median_ms"] <= row["p90_ms"]
        assert row["load_ms"] > 0
    fetched = {row["path"]: row["bytes"] for row in timings}
    shells = sum((packed / "onnx" / f"tiny-shared-k{k}.bin").stat().st_size for k in (2, 4))
    graph = packed / "onnx/tiny-shared-k4.onnx"
    assert fetched["onnx/tiny-shared-k4.onnx"] == graph.stat().st_size + shells


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PK")])
def test_bench_of_a_damaged_bundle_is_a_failed_check(
    packed: Path, capsys: Capture, damage: Callable[[Path], object]
) -> None:
    for name in ("golden/golden.npz", "onnx/tiny-k2.onnx", "manifest.json"):
        folder = Path(shutil.copytree(packed, packed.parent / f"without {Path(name).name}"))
        damage(folder / name)
        assert main(["bench", "--bundle", str(folder), "--runs", "1"]) == 1
        assert name in capsys.readouterr().err


# Help


def defined(command: str) -> Any:
    found = app.app
    for word in command.split():
        found = found[word]
    return found


@pytest.mark.parametrize("command", LINES)
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_help_fills_its_lines_at_any_width(command: str, columns: int) -> None:
    printed = io.StringIO()
    app.app.help_print(command.split(), console=Console(file=printed, width=columns))
    out = printed.getvalue()
    assert max(map(len, re.findall(r"^[│╭╰].*$", out, re.MULTILINE))) == columns
    # A line, and how the next one begins where both are of one text.
    for line, indent, word in re.findall(r"^│(.*)│$(?=\n^│( {6,})(\S+))", out, re.MULTILINE):
        if line[len(indent) - 1] == " " != line[len(indent)]:
            assert len(line.rstrip()) + len(word) >= columns - 4, line


@pytest.mark.parametrize("command", LINES)
def test_every_command_has_two_examples_that_parse(command: str, capsys: Capture) -> None:
    from cyclopts import CycloptsError

    assert main([*command.split(), "--help"]) == 0
    lines = re.findall(r"^  (hydra-export .+)$", capsys.readouterr().out, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        words = line.removesuffix(" --json").partition(" >> ")[0].partition(" | ")[0].split()[1:]
        assert words[: len(command.split())] == command.split()
        try:
            app.app.parse_args(words, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            pytest.fail(f"{line}: {error}")


def metavar(hint: Any) -> str:
    """What help calls a type."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    is_choice = typing.get_origin(hint) is typing.Literal or any(typing.get_origin(k) is typing.Literal for k in kinds)
    return "CHOICE" if is_choice else getattr(kinds[0] if kinds else hint, "__name__", str(hint))


def test_an_option_has_one_type_and_one_group_in_all_commands() -> None:
    from hydra_export.commands.help import GROUPS

    types: dict[str, set[str]] = {}
    for command in LINES:
        for argument in defined(command).assemble_argument_collection():
            if argument.name.startswith("--"):
                types.setdefault(argument.name, set()).add(metavar(argument.hint))
    several = {name for name, hints in types.items() if len(hints) > 1}
    assert several == {"--threads", "--precision"}, "bench and export take several, separated by commas"
    grouped = [option for options in GROUPS.values() for option in options]
    assert len(set(grouped)) == len(grouped)


# Earlier spellings


@pytest.mark.parametrize(
    ("arguments", "now"),
    [
        (["--images", "photos"], "Did you mean --check-images?"),
        (["train", "--out", "run", "--weights", "1,2"], "Did you mean --head-weights?"),
        (["profile", "--list"], "Type: hydra-export profile list."),
        (["profile", "--device", "pixel7", "--show"], "Type: hydra-export profile show DEVICE."),
        (["profile", "--import", "x.json"], "Type: hydra-export profile import FILE."),
        (["profile", "--fleet", "x.txt"], "Type: hydra-export profile fleet FILE."),
        (["bench", "--compare", "x.json"], "Type: hydra-export bench compare OLD NEW."),
        (["bench", "--standalone", "x"], "Type: hydra-export bench standalone BUNDLE FOLDER."),
        (["bundle", "--out", "x"], "Run: hydra-export export --zip."),
    ],
)
def test_an_earlier_spelling_is_answered_with_todays(
    refused: Callable[..., str], arguments: list[str], now: str
) -> None:
    assert refused(*arguments).endswith(now)


@pytest.mark.parametrize("model", ["none.pth", "timm:no_such_vit", "no/such-model", "there"])
def test_a_first_word_that_names_a_model_means_export(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "there").mkdir()
    assert "No command" not in refused(model)


def test_a_model_and_a_bundle_need_no_option(tiny_checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    out = str(tmp_path / "out")
    assert main([str(tiny_checkpoint), "--heads", "2", "--out", out]) == 0
    assert main(["verify", "--bundle", out, "--json"]) == 0
    assert main(["evaluate", str(tiny_checkpoint), "--data", "no-such-folder"]) == 2
    assert "No dataset or folder 'no-such-folder'" in capsys.readouterr().err


def test_no_argument_at_all_prints_help(capsys: Capture) -> None:
    assert main([]) == 0
    bare = capsys.readouterr()
    assert main(["--help"]) == 0
    assert capsys.readouterr() == bare
    assert "Usage: hydra-export" in bare.out
    assert not bare.err
    assert all(f" {command} " in bare.out for command in COMMANDS)


@pytest.mark.parametrize("command", LINES)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_documents_every_option(command: str, flag: str, capsys: Capture) -> None:
    assert main([*command.split(), flag]) == 0
    out, err = capsys.readouterr()
    assert not err
    function = defined(command).default_command
    documented, names = inspect.getdoc(function) or "", list(inspect.signature(function).parameters)
    if "choices" in names:  # the options that stand in a class of their own
        names.remove("choices")
        names += [field.name for field in dataclasses.fields(Choices.__mro__[1])]
        documented += inspect.getdoc(Choices) or ""
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", out).split())
    for name in names:
        explained = re.search(rf"^ +{name}: (.+)", documented, re.MULTILINE)
        assert explained, f"{command} does not document {name}"
        option = name.strip("_").replace("_", "-")
        assert f"--{option} " in shown or option.upper() in shown
        assert " ".join(explained[1].split()[:3]) in shown


def test_every_target_s_options_stand_in_a_group_of_its_own(capsys: Capture) -> None:
    assert main(["export", "--help"]) == 0
    groups = re.split(r"^╭─ (.+?) ─+╮$", capsys.readouterr().out.rpartition("╯")[0], flags=re.MULTILINE)
    by_title = dict(zip(groups[1::2], groups[2::2], strict=True))
    for target in map(targets.get, targets.names()):
        assert (target.title in by_title) == bool(target.options.fields())
        if target.title not in by_title:
            continue
        shown = " ".join(by_title[target.title].replace("│", " ").split())
        for field in target.options.fields():
            assert f"--{field.flag} " in shown
            assert " ".join(field.about.help.split()[:5]) in shown
        assert len(re.findall(r"(?<!\S)--[a-z-]+ ", shown)) == len(target.options.fields())


def test_options_of_targets_reach_their_targets() -> None:
    given = dataclasses.replace(Choices(), onnx_opset=20, tflite_overlap=True, coreml_classifier=True)  # type: ignore[call-arg]
    assert {OnnxOptions(opset=20), TFLiteOptions(overlap=False), CoreMLOptions(classifier=True)} == set(
        options_of(given)
    ) - {Options()}  # of a target that has none
    assert {each == type(each)() for each in options_of(Choices())} == {True}


def test_every_command_is_a_module_and_every_module_a_command() -> None:
    import hydra_export.commands

    folder = Path(hydra_export.commands.__file__).parent
    defining = {
        path.stem for path in folder.glob("*.py") if re.search(rf"^def {path.stem}\(", path.read_text(), re.MULTILINE)
    }
    assert set(COMMANDS) == defining


def test_the_version_is_that_of_the_installation(capsys: Capture) -> None:
    assert main(["-V"]) == 0
    short = capsys.readouterr().out
    assert main(["--version"]) == 0
    assert short == f"{version('hydra-export')}\n"
    assert capsys.readouterr().out.strip() == version("hydra-export")


# Processes


def console_script() -> list[str]:
    script = Path(sys.executable).with_name("hydra-export")
    return [str(script)] if script.exists() else [sys.executable, "-m", "hydra_export"]


def run(*arguments: str, command: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*(command or console_script()), *arguments], capture_output=True, text=True, check=False)


def imported_by(names: set[str], *arguments: str) -> str:
    program = (
        "import sys; from hydra_export.cli import main; main(sys.argv[1:]); "
        f"print(*sorted({names!r} & set(sys.modules)), file=sys.stderr)"
    )
    return run(*arguments, command=[sys.executable, "-c", program]).stderr.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["zzz"], ["--version"]])
def test_nothing_heavy_is_imported_before_it_is_needed(arguments: list[str]) -> None:
    heavy = {"torch", "timm", "torchvision", "onnx", "onnxruntime", "sklearn", "PIL", "numpy"}
    assert not imported_by(heavy, *arguments)


@pytest.mark.parametrize("arguments", [["--target", "tfite"], ["--batch", "0"], ["--max-drop", "2"]])
def test_what_is_mistyped_is_refused_before_pytorch_is_imported(arguments: list[str]) -> None:
    assert not imported_by({"torch", "timm", "onnxruntime"}, *arguments)


def test_the_module_is_the_script() -> None:
    module = run("--version", command=[sys.executable, "-m", "hydra_export"])
    assert (module.returncode, module.stdout.strip()) == (0, version("hydra-export"))
    for command in (None, [sys.executable, "-m", "hydra_export"]):
        failed = run("verify", "none", command=command)
        assert failed.returncode == 2
        assert failed.stderr == "error: There is no folder none. Pass the folder of a bundle.\n"
        assert not failed.stdout


def test_a_real_process_exports_and_verifies(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "new")
    done = run("--checkpoint", str(tiny_checkpoint), "--out", out, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["manifest"]["model"]["name"] == "tiny"
    assert not done.stderr
    (Path(out) / "onnx/tiny-k2.onnx").write_bytes(b"")
    failed = run("verify", out)
    assert failed.returncode == 1
    assert "onnx/tiny-k2.onnx is damaged" in failed.stderr


def test_a_terminal_shows_that_a_command_has_started_until_it_says_something_else() -> None:
    leader, terminal = pty.openpty()
    command = [*console_script(), "report", "none"]
    with os.fdopen(leader, "rb", buffering=0) as seen:
        assert subprocess.run(command, stdout=subprocess.DEVNULL, stderr=terminal, check=False).returncode == 2
        os.close(terminal)
        lines = seen.read(4096).decode().split("\r")
    assert lines[0] == "Starting report ..."
    assert lines[1] == " " * len(lines[0])
    assert "There is no folder none." in lines[2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_output_that_cannot_be_written_is_an_error(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        failed = subprocess.run([*console_script(), *arguments], stdout=full, stderr=subprocess.PIPE, check=False)
    assert failed.returncode != 0
    assert os.fsencode("No space left") in failed.stderr


def test_help_behind_options_is_about_the_export(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--heads", "3", "--help"]) == 0
    assert "--weight-files" in capsys.readouterr().out


@pytest.mark.parametrize("asked", [["--json", "verify", "--help"], ["--debug", "verify", "-h"]])
def test_global_flags_before_a_command_do_not_change_what_help_is_about(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert "hydra-export verify" in shown
    assert "--weight-files" not in shown


def test_a_reader_that_stops_reading_is_no_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    command = (
        f"{sys.executable} -m hydra_export --checkpoint {tiny_checkpoint} --out {tmp_path / 'out'} --json | head -c 1"
    )
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
