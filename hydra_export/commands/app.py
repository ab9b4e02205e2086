"""The commands by name, and which of them a command line means; their modules are loaded when called."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from hydra_export import refusal, streams
from hydra_export.commands import examples
from hydra_export.commands.help import Formatter
from hydra_export.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from hydra_export.commands import Result

_VERSION = ("--version", "-V")
_ABOUT_ALL = {"--help", "-h", *_VERSION}
_ABOUT_OUTPUT = ("--json", "--debug")  # may stand before a command
_COMPLETE = "__complete"  # reserved by cyclopts for the scripts of ``hydra-export completion``
_MODEL_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# What was spelled otherwise before 0.4, by command.
_NOW = {
    "export": {"--images": "--check-images"},
    "train": {"--weights": "--head-weights"},
    "profile": {
        "--list": "hydra-export profile list",
        "--show": "hydra-export profile show DEVICE",
        "--import": "hydra-export profile import FILE",
        "--fleet": "hydra-export profile fleet FILE",
    },
    "bench": {
        "--compare": "hydra-export bench compare OLD NEW",
        "--max-regression": "hydra-export bench compare OLD NEW --max-regression PERCENT",
        "--standalone": "hydra-export bench standalone BUNDLE FOLDER",
    },
}


def _version() -> str:
    from hydra_export.version import VERSION

    return VERSION


app = App(
    name="hydra-export",
    help="Turn one Vision Transformer into verified files in every size that phones and boards can run.",
    help_epilogue=examples("hydra-export deit.pth --heads 3,6,12", "hydra-export profile --device pixel7"),
    version=_version,
    version_flags=_VERSION,
    help_format="plaintext",
    help_formatter=Formatter(),
    result_action="return_value",
    help_on_error=False,
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
)
for _name, _help, *_examples in (
    (
        "export",
        "Export a Vision Transformer, and verify every artifact against PyTorch.",
        "hydra-export export deit.pth --heads 3,6,12 --out dist",
        "hydra-export export --device pixel7,rpi5 --budget-ms 33 --zip",
    ),
    (
        "verify",
        "Check a bundle: hashes, and every artifact on its golden input.",
        "hydra-export verify hydra-bundle",
        "hydra-export verify hydra-bundle.zip --limit-memory 1024",
    ),
    (
        "check",
        "Check which operators a delegate or an NPU's compiler takes.",
        "hydra-export check hydra-bundle",
        "hydra-export check hydra-bundle --for edgetpu",
    ),
    (
        "predict",
        "Classify images with an artifact of a bundle.",
        "hydra-export predict hydra-bundle photo.jpg",
        "hydra-export predict hydra-bundle.zip *.png --heads 6 --top 1",
    ),
    ("bench", "Time a bundle's artifacts on this machine."),
    ("profile", "Estimate the latency on a device, and choose the subnetwork that fits."),
    (
        "report",
        "Write a report of a bundle: one HTML page, or Markdown.",
        "hydra-export report hydra-bundle --device pixel7,rpi5",
        "hydra-export report hydra-bundle --against older-bundle --format md",
    ),
    (
        "serve",
        "Serve a page on which a bundle runs and is timed, in this machine's browser or a phone's.",
        "hydra-export serve hydra-bundle --install",
        "hydra-export serve hydra-bundle --lan",
    ),
    (
        "evaluate",
        "Measure accuracy, parameters and GMACs per head count.",
        "hydra-export evaluate",
        "hydra-export evaluate deit.pth --data photos --heads 3,6,12",
    ),
    (
        "train",
        "Train a universal model.",
        "hydra-export train --recipe digits --out run",
        "hydra-export train --recipe finetune --start deit.pth --data photos --out run",
    ),
    (
        "calibrate",
        "Calibrate the confidence of a bundle's model, and its cascades of head counts.",
        "hydra-export calibrate hydra-bundle --data photos",
        "hydra-export calibrate hydra-bundle --data fashion-mnist --plot cascades.png",
    ),
    (
        "doctor",
        "List what is installed, and try every target on a tiny model.",
        "hydra-export doctor",
        "hydra-export doctor --json",
    ),
    (
        "completion",
        "Print a script that makes bash, zsh or fish complete these commands.",
        "hydra-export completion bash >> ~/.bashrc",
        "hydra-export completion fish | source",
    ),
):
    if _examples:
        _path = f"hydra_export.commands.{_name}:{_name}"
        app.command(_path, name=_name, help=_help, help_epilogue=examples(*_examples))
    else:  # has commands of its own
        app.command(f"hydra_export.commands.{_name}:app", name=_name, help=_help)


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
    command_line = _with_command(tokens)
    streams.announce(f"Starting {command_line[0]} ...")
    return app(command_line)


def with_command(arguments: list[str]) -> list[str]:
    """*arguments* with the command first; nothing where there is none."""
    words = [argument for argument in arguments if argument.partition("=")[0] not in _ABOUT_OUTPUT]
    try:
        return [*_with_command(tuple(words))]
    except BadInput:
        return []


def _with_command(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Options or a model without a command mean export; another first word is refused with the nearest command."""
    if not tokens:
        return ("export",)
    first = tokens[0]
    commands = [name for name in app if not name.startswith("-")]
    if first in _ABOUT_ALL or first in commands:
        return tokens
    if first == "bundle":
        raise BadInput("The command 'bundle' was removed.", "Run: hydra-export export --zip.", field="command")
    if first.startswith("-") or _is_model(first):
        return ("export", *tokens)
    raise UnknownName("command", first, commands)


def _is_model(word: str) -> bool:
    """Whether *word* is a checkpoint instead of a command: a file or a folder, a Hub id or timm:NAME."""
    return word.startswith("timm:") or "/" in word or word.endswith(_MODEL_ENDINGS) or os.path.lexists(word)


def _with_help(arguments: list[str]) -> list[str]:
    """An empty command line becomes ``--help``; ``--heads 3 --help`` shows help on export, which owns the option."""
    words = [argument for argument in arguments if argument.partition("=")[0] not in _ABOUT_OUTPUT]
    if not _ABOUT_ALL & set(words):
        return arguments or ["--help"]
    about_all = words[0] in _ABOUT_ALL or set(_VERSION) & set(words)
    return words if about_all or words[0] in app else ["export", "--help"] if _is_about_export(words[0]) else words


def _is_about_export(word: str) -> bool:
    return word.startswith("-") or _is_model(word)


def call(arguments: list[str]) -> Result | None:
    """Runs the command that *arguments* ask for; None where that printed all there is to say, such as help."""
    if arguments[:1] == [_COMPLETE]:
        with streams.results():
            _complete(arguments[1:])
        return None
    command_line = _with_help(arguments)
    try:
        if _ABOUT_ALL & set(command_line):
            with streams.results():
                app.meta(command_line)
            return None
        refusal.check_working_directory()
        for argument in arguments:
            refusal.check_utf8(argument)
        result: Result = app.meta(command_line)
    except CycloptsError as error:
        chain = [*(error.command_chain or ())]
        _refuse_old(chain, arguments)
        command = " ".join(["hydra-export", *chain])
        culprit = getattr(error, "argument", None)
        field = culprit.name.strip("-").replace("-", "_").lower() if culprit else ""
        raise BadInput(" ".join(str(error).split()), f"See {command} --help.", field=field) from error
    return result


def _refuse_old(chain: list[str], arguments: list[str]) -> None:
    """Raises BadInput with today's spelling where *arguments* have an option of an earlier release."""
    for argument in arguments:
        option = argument.partition("=")[0]
        if now := _NOW.get(chain[0] if chain else "export", {}).get(option):
            instead = f"Type: {now}." if " " in now else f"Did you mean {now}?"
            raise BadInput(f"Unknown option: {option}.", instead, field=option.strip("-").replace("-", "_"))


def _complete(words: list[str]) -> None:
    """Prints what may stand in place of the last of *words*."""
    *before, incomplete = words or [""]
    before = [word for word in before if word not in _ABOUT_OUTPUT]
    first = (before or [incomplete])[0]
    is_export = first.startswith("-") or (bool(before) and first not in app and _is_model(first))
    command = ["export"] if is_export else []
    os.environ["CYCLOPTS_COMPLETION_WORDS"] = "".join(f"{word}\x1f" for word in (*command, *before, incomplete))
    app([_COMPLETE])
