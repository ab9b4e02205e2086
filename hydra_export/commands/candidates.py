"""What a shell may offer for the value of an option; asked for when it completes, so that nothing is loaded before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, get_args

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext

Names = Callable[[], Iterable[str]]


def one_of(names: Names) -> Parameter:
    """An option that takes one of *names*, or something else such as a path."""
    return Parameter(completer=lambda _context: list(names()))


def some_of(names: Names) -> Parameter:
    """An option that takes several of *names*, separated by commas: each is offered behind those that are there."""

    def complete(context: CompletionContext) -> list[str]:
        *before, _incomplete = context.incomplete.split(",")
        return [",".join([*before, name]) for name in names() if name not in before]

    return Parameter(completer=complete)


def targets() -> Iterable[str]:
    from hydra_export import targets

    return targets.names()


def graphs() -> Iterable[str]:
    from hydra_export.target import GraphKind

    return get_args(GraphKind)


def precisions() -> Iterable[str]:
    from hydra_export.target import Precision

    return get_args(Precision)


def devices() -> Iterable[str]:
    from hydra_export import profiles

    return profiles.names()


def delegates() -> Iterable[str]:
    from hydra_export import delegates

    return delegates.names()


def bench_runtimes() -> Iterable[str]:
    from hydra_export.bench import runtimes

    return runtimes.known()


def device_runtimes() -> Iterable[str]:
    from hydra_export import targets

    return targets.device_runtimes()


def recipes() -> Iterable[str]:
    """As in train.recipes, which would load PyTorch."""
    return "digits", "elastic", "fashion-mnist", "finetune", "imagenet-base", "imagenet-small"


def preprocessings() -> Iterable[str]:
    return "hydravit", "imagenet", "inception"


def test_sets() -> Iterable[str]:
    return "packaged", "fashion-mnist", "digits"
