"""The command line: parse, call, print; the sub-commands are modules of commands/, loaded when called."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Parameter

from hydra_export.errors import BadInput, HydraExportError, UnknownName

if TYPE_CHECKING:
    from hydra_export.commands import Result

SCHEMA_VERSION = 1
BUG, INTERRUPTED = 3, 130
_LOG_WIDTH = 160
_ABOUT_ALL = {"--help", "-h", "--version"}
_ABOUT_OUTPUT = ("--json", "--debug")  # may stand before a command
_COMPLETE = "__complete"  # reserved by cyclopts for the scripts of ``hydra-export completion``


def _version() -> str:
    from hydra_export.version import VERSION

    return VERSION


app = App(
    name="hydra-export",
    help="Train one Vision Transformer that holds many, export each to phones and boards, and prove them equal.",
    help_epilogue="With options alone, hydra-export exports: hydra-export --target onnx --heads 3,6,12",
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


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line *arguments* (the process's own by default) and returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    flags = {argument.partition("=")[0] for argument in arguments}
    as_json, debug = "--json" in flags, "--debug" in flags
    try:
        if arguments[:1] == [_COMPLETE]:
            return _complete(arguments[1:])
        result = app.meta(_asked(arguments))
        if result is not None:
            _print(result, as_json)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader of standard output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (every error becomes a message and an exit status)
        if debug:
            traceback.print_exc()
        return _fail(error, as_json)


def _complete(words: list[str]) -> int:
    """Prints what may stand in place of the last of *words*."""
    *before, begun = words or [""]
    before = [word for word in before if word not in _ABOUT_OUTPUT]
    command = ["export"] if (before or [begun])[0].startswith("-") else []
    os.environ["CYCLOPTS_COMPLETION_WORDS"] = "".join(f"{word}\x1f" for word in (*command, *before, begun))
    app([_COMPLETE])
    return 0


class _Terminated(KeyboardInterrupt):
    """A signal that asks to end: what is half done is cleared away as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.number = number


def run() -> NoReturn:
    """The console script."""

    def terminate(number: int, _frame: object) -> NoReturn:
        raise _Terminated(number)

    for asked in (signal.SIGTERM, signal.SIGHUP):  # of a CI's time limit, of a terminal that was closed
        if signal.getsignal(asked) is signal.SIG_DFL:  # nohup lets the latter be ignored
            signal.signal(asked, terminate)
    sys.exit(main())


def _print(result: Result, as_json: bool) -> None:
    if as_json:
        _print_json(result.document)
        return
    if isinstance(result.shown, str):  # a document, such as Markdown: no line of it may be wrapped or cut
        print(result.shown, end="")  # noqa: T201 (a result, as below)
        return
    from rich.console import Console

    # A log or a file has room; rich would assume 80. Paths may look like markup or emoji.
    width = None if sys.stdout.isatty() else _LOG_WIDTH
    Console(highlight=False, markup=False, emoji=False, width=width).print(result.shown)


def _print_json(document: dict[str, Any]) -> None:
    import msgspec

    encoded = msgspec.json.encode({"schema_version": SCHEMA_VERSION, **document})
    print(msgspec.json.format(encoded, indent=2).decode())  # noqa: T201 (the one place where results are printed)


def _fail(error: BaseException, as_json: bool) -> int:
    if isinstance(error, KeyboardInterrupt):
        known, code = HydraExportError("Interrupted.", "Nothing was left half-written."), "interrupted"
        status = 128 + error.number if isinstance(error, _Terminated) else INTERRUPTED
    elif isinstance(error, HydraExportError):
        known, status, code = error, error.exit_status, error.code
    elif isinstance(error, CycloptsError):
        command = " ".join(["hydra-export", *(error.command_chain or ())])
        known, status, code = BadInput(_plain(error), f"See {command} --help."), BadInput.exit_status, BadInput.code
    else:
        what = f"{type(error).__name__}: {error}"
        known = HydraExportError(
            f"hydra-export has a bug: {what}.", "Run it again with --debug and report what it says."
        )
        status, code = BUG, "bug"
    if as_json:
        _print_json({"error": {"code": code, "message": known.message, "remedy": known.remedy}})
    else:
        from hydra_export.commands import talk

        talk().print(f"[bold red]error:[/] {_escaped(known.message)} {_escaped(known.remedy)}".rstrip(), soft_wrap=True)
    return status


def _plain(error: CycloptsError) -> str:
    return " ".join(str(error).split())


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
