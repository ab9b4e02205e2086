"""Library messages name arguments as Python has them; on the command line they become the options of the command."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hydra_export.errors import ARGUMENT

if TYPE_CHECKING:
    from cyclopts import Argument

# Where an option is not called as the argument that it becomes.
_OPTIONS = {
    "targets": "target",
    "graphs": "graph",
    "precisions": "precision",
    "limit_memory_mib": "limit_memory",
}
_OVERRIDE = "override"  # takes any field of a training run


def spelled(arguments: list[str], *texts: str) -> list[str]:
    """*texts* with the options of the command that *arguments* call, where they name these in Python."""
    options = _options(arguments)

    def option(named: re.Match[str]) -> str:
        name, value = named.groups()
        name = _OPTIONS.get(name, name)
        if name in options:
            flag = options[name]
            return flag.name if value is None or flag.hint is bool else f"{flag.name} {value}"
        return f"--{_OVERRIDE} {name}={value}" if value is not None and _OVERRIDE in options else named[0]

    return [ARGUMENT.sub(option, text) for text in texts]


def _options(arguments: list[str]) -> dict[str, Argument]:
    """What the command takes, by name; nothing where there is no such command."""
    from cyclopts import CycloptsError

    from hydra_export import targets
    from hydra_export.commands import app

    try:
        apps = app.app.parse_commands(app.with_command(arguments))[1]
    except CycloptsError:
        return {}
    if apps[-1].default_command is None:
        return {}
    found = [*app.app.meta.assemble_argument_collection(), *apps[-1].assemble_argument_collection()]
    options = {argument.field_info.name: argument for argument in found if argument.name != "*"}
    own = {
        f"{name}_{field.name}": field.name for name in targets.names() for field in targets.get(name).options.fields()
    }
    return {own.get(name, name): argument for name, argument in options.items()}
