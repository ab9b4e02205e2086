"""The commands by name, and which of them a command line means; their modules are loaded when called."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from hydra_export import refusal, streams
from hydra_export.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from hydra_export.commands import Result

_ABOUT_ALL = {"--help", "-h", "--version"}
_ABOUT_OUTPUT = ("--json", "--debug")  # may stand before a command
_COMPLETE = "__complete"  # reserved by cyclopts for the scripts of ``hydra-export completion``


def _version() -> str:
    from hydra_export.version import VERSION

    return VERSION


app = App(
    name="hydra-export",
    help="Train one Vision Transformer that holds many, export each to phones and boards, and prove them equal.",
    help_epilogue="With options alone, hydra-export exports: hydra-export --heads 3,6,12",
    version=_version,
    help_format="plaintext",
    result_action="return_value",
    help_on_error=False,
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
)
for _name, _help in {
    "export": "Export a universal model and prove every artifact equal to PyTorch.",
    "bundle": "Export to a folder and one archive, reusing what was written before.",
    "verify": "Check a bundle: hashes, and every artifact on its golden input.",
    "bench": "Time a bundle's artifacts on this machine.",
    "profile": "Say which subnetwork fits a device, and how sure that is.",
    "report": "Write a report of a bundle: one HTML page, or Markdown.",
    "evaluate": "Measure accuracy, parameters and GMACs per head count.",
    "train": "Train a universal model.",
    "doctor": "Say what is installed here, and try every target on a tiny model.",
    "completion": "Print the script that makes bash, zsh or fish complete all this.",
}.items():
    app.command(f"hydra_export.commands.{_name}:{_name}", name=_name, help=_help)


app.meta.suppress_keyboard_interrupt = False  # not taken over from the app


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    debug: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> Any:
    """Run a sub-command.

    Args:
        json: Print exactly one JSON document on standard output.
        debug: Show Python tracebacks.
    """
    return app(_with_command(tokens))


def meant(arguments: list[str]) -> list[str]:
    """*arguments* with the command first; nothing where there is none."""
    words = [argument for argument in arguments if argument.partition("=")[0] not in _ABOUT_OUTPUT]
    try:
        return [*_with_command(tuple(words))]
    except UnknownName:
        return []


def _with_command(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Options alone mean export; a first word that is no sub-command is refused with the nearest."""
    if not tokens:
        return ("export",)
    first = tokens[0]
    if first in _ABOUT_ALL:
        return tokens
    if first.startswith("-"):
        return ("export", *tokens)
    commands = [name for name in app if not name.startswith("-")]
    if first not in commands:
        raise UnknownName("command", first, commands)
    return tokens


def _asked(arguments: list[str]) -> list[str]:
    """Nothing asks for help; ``--heads 3 --help`` for help on the export, whose option that is."""
    words = [argument for argument in arguments if argument.partition("=")[0] not in _ABOUT_OUTPUT]
    if not _ABOUT_ALL & set(words):
        return arguments or ["--help"]
    about_export = words[0].startswith("-") and words[0] not in _ABOUT_ALL and "--version" not in words
    return ["export", "--help"] if about_export else words


def call(arguments: list[str]) -> Result | None:
    """Runs the command that *arguments* ask for; None where that printed all there is to say, such as help."""
    if arguments[:1] == [_COMPLETE]:
        with streams.results():
            _complete(arguments[1:])
        return None
    asked = _asked(arguments)
    try:
        if _ABOUT_ALL & set(asked):
            with streams.results():
                app.meta(asked)
            return None
        refusal.check_working_directory()
        for argument in arguments:
            refusal.check_utf8(argument)
        result: Result = app.meta(asked)
    except CycloptsError as error:
        command = " ".join(["hydra-export", *(error.command_chain or ())])
        argument = getattr(error, "argument", None)
        field = argument.field_info.name if argument else ""
        raise BadInput(" ".join(str(error).split()), f"See {command} --help.", field=field) from error
    return result


def _complete(words: list[str]) -> None:
    """Prints what may stand in place of the last of *words*."""
    *before, begun = words or [""]
    before = [word for word in before if word not in _ABOUT_OUTPUT]
    command = ["export"] if (before or [begun])[0].startswith("-") else []
    os.environ["CYCLOPTS_COMPLETION_WORDS"] = "".join(f"{word}\x1f" for word in (*command, *before, begun))
    app([_COMPLETE])
