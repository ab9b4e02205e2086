"""Every error says what was wrong and what to do, and has its exit status."""

from __future__ import annotations

import pytest

from hydra_export import errors
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
