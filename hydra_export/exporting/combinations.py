"""What to export: the jobs of a cross product of targets, graph kinds and precisions."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence

import msgspec

from hydra_export import targets as registry
from hydra_export.conversion import Job
from hydra_export.errors import BadInput
from hydra_export.target import STATIC, ExportSpec, InputForm, Options


def jobs(
    targets: str | Sequence[str] = (registry.DEFAULT,),
    graphs: str | Sequence[str] = ("separate",),
    precisions: str | Sequence[str] = (),
    *,
    input: InputForm = "tensor",  # noqa: A002 (the name that it has everywhere)
    batch: int | str = 1,
    io: str = "float",
    options: Options | Sequence[Options] = (),
) -> list[Job]:
    """What to export: the cross product of targets, graph kinds and precisions, each with the same *input* and so on.

    Without *precisions* each target writes its default.

    Args:
        io: what graphs of integer activations take and give, ``float`` or ``integer``.
        options: of the targets that have choices of their own, such as ``OnnxOptions(opset=20)``; defaults of others.

    Raises:
        UnknownName: no such target.
        BadInput: a target lacks a graph kind or a precision, or *options* are for none of what is exported.
        MissingExtra: the packages that a target needs are not installed.
    """
    names, graphs, precisions = (
        ([each] if isinstance(each, str) else list(each)) for each in (targets, graphs, precisions)
    )
    given = {type(each): each for each in ([options] if isinstance(options, Options) else options)}
    listed = []
    for name, graph in itertools.product(names, graphs):
        target = registry.get(name)
        target.requires()
        _check_offered("graph kind", "graphs", graph, target.graphs, name)
        for precision in precisions or target.precisions[:1]:
            _check_offered("precision", "precisions", precision, target.precisions, name)
            counts = io if precision in STATIC else "float"
            choices = {"graph": graph, "precision": precision, "input": input, "batch": batch, "io": counts}
            try:
                spec = msgspec.convert(choices, ExportSpec)
            except msgspec.ValidationError as error:
                raise BadInput(f"This cannot be exported: {error}.", "ExportSpec lists what can.") from error
            spec = msgspec.structs.replace(spec, options=given.get(target.options, target.options()))
            target.check(spec)
            listed.append(Job(target, spec))
    if io != "float" and not any(job.spec.precision in STATIC for job in listed):
        raise BadInput(f"`io` {io} is for precisions {' and '.join(STATIC)}.", f"Add one: `precision={STATIC[0]}`.")
    for each in given.values():
        _check_used(each, names, graphs)
    return listed


def _check_used(options: Options, names: Sequence[str], graphs: Sequence[str]) -> None:
    """Raises BadInput for a choice that nothing which is exported has."""
    target = next(name for name in registry.names() if registry.get(name).options is type(options))
    for field in options.fields():
        if getattr(options, field.name) == field.default:
            continue
        if target not in names:
            added = ",".join([*names, target])
            raise BadInput(
                f"`{field.name}` applies to target '{target}', which is not exported.", f"Add it: `targets={added}`."
            )
        if field.about.graphs and not set(field.about.graphs) & set(graphs):
            kind = field.about.graphs[0]
            raise BadInput(
                f"`{field.name}` applies to graph kind '{kind}'.", f"Add it: `graphs={','.join([*graphs, kind])}`."
            )


def _check_offered(kind: str, argument: str, given: str, offered: Sequence[str], target: str) -> None:
    if given not in offered:
        near = difflib.get_close_matches(given, offered, n=1)
        remedy = f"Did you mean '{near[0]}'?" if near else f"Pass `{argument}` {' or '.join(offered)}."
        raise BadInput(f"Target '{target}' has no {kind} '{given}'.", remedy, field=argument)
