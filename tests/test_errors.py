"""Every error says what was wrong and what to do, and has its exit status."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hydra_export
from hydra_export import errors
from hydra_export.cli import main
from hydra_export.commands import app
from hydra_export.commands.spelling import spelled
from hydra_export.errors import HydraExportError, MissingExtra, UnknownName
from hydra_export.installation import install_command


def _all(kind: type[HydraExportError]) -> list[type[HydraExportError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _all(child))]


@pytest.mark.parametrize("kind", _all(HydraExportError))
def test_errors_have_a_code_of_their_own_and_stand_in_the_docstrings_tree(kind: type[HydraExportError]) -> None:
    assert kind.code in {"error", *(word for word in kind.code.split() if "_" in word)}
    assert [other.code for other in _all(HydraExportError)].count(kind.code) == 1
    assert errors.__doc__ is not None
    if kind.__module__ == errors.__name__:
        assert kind.__name__ in errors.__doc__


def test_bad_input_exits_with_2_and_failed_checks_with_1() -> None:
    assert {kind.exit_status for kind in _all(errors.BadInput)} == {2}
    assert {kind.exit_status for kind in _all(errors.CheckFailed)} == {1}


def test_an_error_shows_its_message_and_its_remedy() -> None:
    error = errors.BadInput("It is wrong.", "Mend it.")
    assert (error.message, error.remedy, str(error)) == ("It is wrong.", "Mend it.", "It is wrong. Mend it.")
    assert str(errors.BadInput("It is wrong.")) == "It is wrong."


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    assert str(UnknownName("target", "tfite", ["onnx", "tflite"])) == "No target 'tfite'. Did you mean 'tflite'?"


def test_a_name_like_no_other_is_answered_with_all() -> None:
    assert str(UnknownName("target", "zzz", ["tflite", "onnx"])) == "No target 'zzz'. Known: onnx, tflite."


def test_a_missing_extra_is_answered_with_the_command() -> None:
    error = MissingExtra("Target 'coreml'", "coremltools", "coreml")
    assert str(error) == f"Target 'coreml' needs coremltools. Run: {install_command('coreml')}"
    elsewhere = MissingExtra("An asset", "a-package", "coreml", why="There is none for Windows.", remedy="Use Linux.")
    assert str(elsewhere) == "An asset needs a-package. There is none for Windows. Use Linux."


# Arguments in messages


def test_the_field_is_the_argument_that_the_message_names_first() -> None:
    assert errors.BadInput("`opset` 99 is not supported.", "Pass `precision=fp32`.").field == "opset"
    assert errors.BadInput("It holds nothing.", "Give `model.num_classes=3`.").field == "model.num_classes"
    assert errors.BadInput("`opset` is old.", field="ios").field == "ios"
    assert errors.BadInput("It is wrong.", "Call `hydra_export.choose(device)`.").field == ""
    assert UnknownName("target", "tfite", ["onnx"]).field == "target"
    assert UnknownName("sampling strategy", "x", ["y"]).field == ""


def test_the_command_line_names_its_options_and_leaves_alone_what_the_command_does_not_take() -> None:
    texts = "`opset` 99", "Give `targets=onnx,tflite`.", "`overlap=False` or `classifier`.", "`steps=3` `head_width`"
    assert spelled(["--opset", "99"], *texts) == [
        "--opset 99",
        "Give --target onnx,tflite.",
        "--no-overlap or --coreml-classifier.",
        "`steps=3` `head_width`",
    ]
    assert spelled(["train", "--steps", "3"], "`steps=3` `classes=data` `opset`", "again with `debug`") == [
        "--steps 3 --override classes=data `opset`",
        "again with --debug",
    ]
    assert spelled(["no-command"], "`opset`") == ["`opset`"]


# The command line itself, programs that have one of their own or call npm, the record of a command line in a
# checkpoint, pages that tell people what to type, and what targets say of programs of others: documentation, their
# timers and what those print.
_PROGRAMS = {
    "serving/packages.py install",
    "board.py",
    "cli.py",
    "commands",
    "data/snippets",
    "card/readme.py",
    "report/as_html.py _absent",
    "train/command.py command",
}
_OF_TARGETS = {"card.py", "devices.py", "printed.py"}


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """The texts of a module that are no docstrings, each with the function that it stands in."""

    def walk(node: ast.AST, inside: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Constant) and isinstance(child.value, str) and not isinstance(node, ast.Expr):
                yield inside, child.value
            yield from walk(child, getattr(child, "name", inside) or inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), "")


def _library_texts() -> Iterator[tuple[str, str]]:
    package = Path(hydra_export.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if path.parent.parent.name == "targets" and path.name in _OF_TARGETS:
            continue
        name = path.relative_to(package).as_posix()
        for function, text in _texts(path):
            place = f"{name} {function}".strip()
            if not any(place == program or place.startswith((f"{program} ", f"{program}/")) for program in _PROGRAMS):
                yield place, text


def test_no_text_of_the_library_spells_an_option_of_the_command_line() -> None:
    spelling = [(place, text) for place, text in _library_texts() if re.search(r"(?<![\w-])--[a-z]", text)]
    assert spelling == []


def test_arguments_in_messages_are_options_of_a_command() -> None:
    names = [name for name in app.app if not name.startswith("-")]
    commands = [
        [name, *more] for name in names for more in ([], *([one] for one in app.app[name] if not one.startswith("-")))
    ]
    unknown = {
        (place, named[0])
        for place, text in _library_texts()
        for named in errors.ARGUMENT.finditer(text)
        if not any(spelled(command, named[0])[0].startswith("--") for command in commands)
    }
    assert unknown == set()


def test_an_error_in_json_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert main(["--target", "coreml", "--coreml-classifier", "--batch", "2", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["field"] == "batch"
    assert main(["--ios", "3", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["field"] == "ios"
