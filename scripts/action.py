"""The steps of action.yml that take its inputs: check them, run ``hydra-export export --zip``, say where the bundle is.

    python scripts/action.py check      refuses inputs that cannot be used, before anything is installed
    python scripts/action.py bundle     makes the bundle; writes the outputs archive, sha256 and folder

The inputs are the environment variables INPUT_OPTIONS, INPUT_OUT, ...: never text of a script. Needs Python alone.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

_EXTRAS = {"tflite", "coreml", "coreai", "tensorflow"}
_PREFIX = "INPUT_"


class BadInput(Exception):
    """An input of the action that cannot be used; the message names it and says what to do."""


def inputs() -> dict[str, str]:
    """The action's inputs by name. All but ``options``, which may be written over several lines, are one line each."""
    found = {
        name.removeprefix(_PREFIX).lower().replace("_", "-"): value
        for name, value in os.environ.items()
        if name.startswith(_PREFIX)
    }
    for name, value in found.items():
        if name != "options" and not (value.isprintable() or not value):
            raise BadInput(f"{name} is {value!r}: it has more than one line, or control characters. Use one line.")
    return found


def options(text: str) -> list[str]:
    """The words of *text* as a shell splits them, quotes and several lines included; nothing else is expanded."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadInput(f"options {text!r} cannot be split into words: {error}. Close every quote.") from error
    for option in ("--out", "--json"):
        if any(word.partition("=")[0] == option for word in words):
            raise BadInput(
                f"options has {option}, which the action gives itself. Leave it out; the input out names the folder."
            )
    return words


def check(given: dict[str, str]) -> None:
    """Raises BadInput for what no later step could use."""
    options(given["options"])
    for extra in given["extras"].split(",") if given["extras"] else []:
        if extra.strip() not in _EXTRAS:
            raise BadInput(f"extras has {extra!r}. Choose from {','.join(sorted(_EXTRAS))}, or leave it empty.")
    if given["bench"] not in ("true", "false"):
        raise BadInput(f"bench is {given['bench']!r}. Use true or false.")
    if not given["out"]:
        raise BadInput("out is empty. Set the bundle's folder.")


def bundle(given: dict[str, str]) -> int:
    """Runs the command, and returns its exit status."""
    command = ["hydra-export", "export", "--zip", *options(given["options"]), "--out", given["out"], "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    document = json.loads(done.stdout) if done.stdout.strip() else {}
    if done.returncode:
        failed = document.get("error", {})
        print(
            f"error: {failed.get('message', 'hydra-export failed.')} {failed.get('remedy', '')}".rstrip(),
            file=sys.stderr,
        )
        return done.returncode
    archive = document["archive"]
    _output(archive=archive["path"], sha256=archive["sha256"], folder=archive["path"].removesuffix(".zip"))
    print(f"{archive['path']}: {archive['bytes']} bytes, SHA-256 {archive['sha256']}")
    return 0


def _output(**values: str) -> None:
    """One line each for the runner, which takes any further line for another output."""
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
        for name, value in values.items():
            if not value.isprintable():
                raise BadInput(f"The output {name} would be {value!r}. Choose another out.")
            file.write(f"{name}={value}\n")


def main() -> int:
    step = {"check": check, "bundle": bundle}[sys.argv[1]]
    try:
        return step(inputs()) or 0
    except BadInput as error:
        print(f"error: the input {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
