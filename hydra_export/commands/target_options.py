"""The options of each target, as options of a command: nothing here knows which they are."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter

from hydra_export import targets
from hydra_export.target import OptionField, Options

T = TypeVar("T")


def with_target_options(choices: type[T]) -> type[T]:
    """The dataclass *choices* with a field for every option of every target, in a group for each target."""
    fields = [
        (f"{name}_{field.name}", _annotation(field, targets.get(name).title), _default(field))
        for name in targets.names()
        for field in targets.get(name).options.fields()
    ]
    namespace = {"__doc__": choices.__doc__, "__module__": choices.__module__}
    return make_dataclass(choices.__name__, fields, bases=(choices,), namespace=namespace, frozen=True, kw_only=True)


def options_of(choices: object) -> list[Options]:
    """What *choices* has of each target."""
    return [_options(choices, name, targets.get(name).options) for name in targets.names()]


def _options(choices: object, target: str, kind: type[Options]) -> Options:
    values = {field.name: getattr(choices, f"{target}_{field.name}") for field in kind.fields()}
    turned_off = {field.name for field in kind.fields() if field.default is True}
    return kind(**{name: not value if name in turned_off else value for name, value in values.items()})


def _annotation(field: OptionField, group: str) -> Any:
    of_flags: dict[str, Any] = {"negative": "", "show_default": False} if field.kind is bool else {}
    return Annotated[field.kind, Parameter(name=f"--{field.flag}", help=field.about.help, group=group, **of_flags)]


def _default(field: OptionField) -> Any:
    """A choice that is on by default has an option that turns it off."""
    return False if field.default is True else field.default
