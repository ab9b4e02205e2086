"""The command line: watch the signals, call the command that is asked for, print what comes of it.

Nothing else of the package prints, and nothing heavy is imported before the signals are watched.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from hydra_export import refusal, streams
from hydra_export.errors import HydraExportError, OutputRefused, chain
from hydra_export.interruption import Watch, uninterrupted
from hydra_export.text import in_json, in_utf8, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from hydra_export.commands import Result

SCHEMA_VERSION = 1
BUG, INTERRUPTED = 3, 130


def run() -> NoReturn:
    """The console script."""
    watch = Watch(lambda error: _fail(error, sys.argv[1:]))
    watch.start()
    try:
        streams.open_all()
        status = main()
        watch.stop()
    except KeyboardInterrupt as error:  # behind the last line of main
        status = _fail(error, [])
    sys.exit(status)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line *arguments* (the process's own by default) and returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        then = _call(arguments, _has("--json", arguments))
        if then is not None:
            arguments = [argument for argument in arguments if argument.partition("=")[0] != "--json"]  # it has its one
            then()
        return 0
    except BrokenPipeError:  # the reader of standard output has seen enough
        streams.abandon(sys.stdout)
        return 0
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (every error becomes a message and an exit status)
        return _fail(error, arguments)


def _has(flag: str, arguments: list[str]) -> bool:
    return any(argument.partition("=")[0] == flag for argument in arguments)


def _call(arguments: list[str], as_json: bool) -> Callable[[], None] | None:
    """What the command does once its result is printed."""
    streams.check_open()  # before anything takes time
    from hydra_export.commands.app import call

    result = call(arguments)
    streams.withdraw()
    if result is not None:
        with streams.results():
            _print(result, as_json)
    return result.then if result is not None else None


def _print(result: Result, as_json: bool) -> None:
    if as_json:
        _print_json(result.document)
        return
    if isinstance(result.shown, str):  # a document, such as Markdown: no line of it may be wrapped or cut
        print(result.shown, end="")  # noqa: T201 (a result, as below)
        return
    from hydra_export.commands.console import Console

    Console().print_result(result.shown)


def _print_json(document: dict[str, Any]) -> None:
    import msgspec

    built = in_utf8(msgspec.to_builtins({"schema_version": SCHEMA_VERSION, **document}))
    encoded = msgspec.json.format(msgspec.json.encode(built), indent=2).decode()
    print(in_json(encoded, sys.stdout.encoding))  # noqa: T201 (the one place where results are printed)


@uninterrupted
def _fail(error: BaseException, arguments: list[str]) -> int:
    streams.withdraw()
    known, status, code = _known(error)
    if _has("--debug", arguments):
        import traceback

        for part in traceback.format_exception(error):
            _say("\n    ".join(map(shown, part.rstrip("\n").split("\n"))))  # no line of a message looks like ours
    message, remedy, field = known.message, known.remedy, getattr(known, "field", "")
    if field or "`" in f"{message}{remedy}":
        from hydra_export.commands.spelling import spelled

        message, remedy, field = spelled(arguments, message, remedy, f"`{field}`")
    document = {"code": code, "message": message, "remedy": remedy, "field": field.strip("`-").replace("-", "_")}
    if not (_has("--json", arguments) and _printed(document)):
        in_color = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        mark = "\x1b[1;31merror:\x1b[0m" if in_color else "error:"
        _say(f"{mark} {shown(message)} {shown(remedy)}")
    return status


def _known(error: BaseException) -> tuple[HydraExportError, int, str]:
    """What to say of *error*, with exit status and code."""
    if interruption := next((each for each in chain(error) if isinstance(each, KeyboardInterrupt)), None):
        remedy = " ".join(getattr(interruption, "__notes__", [])) or "Nothing was left half-written."
        return HydraExportError("Interrupted.", remedy), 128 + getattr(interruption, "number", 2), "interrupted"
    if known := error if isinstance(error, HydraExportError) else refusal.of(error):
        return known, known.exit_status, known.code
    what = f"{type(error).__name__}: {error}"
    remedy = "Run it again with --debug and report the output."
    return HydraExportError(f"hydra-export has a bug: {what}.", remedy), BUG, "bug"


def _printed(error: dict[str, str]) -> bool:
    """Prints *error* as the one document on standard output, if that is to be had."""
    try:
        with streams.results():
            _print_json({"error": error})
    except (OutputRefused, OSError, ImportError, MemoryError):
        return False
    return True


def _say(line: str) -> None:
    try:
        print(line.rstrip(), file=sys.stderr, flush=True)  # noqa: T201 (an error's message)
    except OSError:
        streams.abandon(sys.stderr)
