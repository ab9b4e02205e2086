"""The advice for a device: for a person, for a program, and where a budget fails."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType

from hydra_export import board, targets
from hydra_export.commands import percent, size, table, titled
from hydra_export.commands.profile_facts import summary
from hydra_export.latency import (
    Advice,
    Estimate,
    Evidence,
    ExecutionPath,
    HeadChoice,
    Workload,
    alternatives,
    estimates,
    words,
)
from hydra_export.latency.advice import memory, weight_bytes
from hydra_export.latency.evidence import FLOAT, INT8, INT8_STATIC, REFERENCE_CONFIG
from hydra_export.latency.spread import rounded

if TYPE_CHECKING:
    from hydra_export.bundle import Manifest

_REFERENCE_ACCURACY = "Accuracy on ImageNet-1K: arXiv 2605.22677, which reports k = 3 and 6."


@dataclass(frozen=True)
class Context:
    """What the advice is about, beside the device.

    Attributes:
        recognised_by: the key by which the device was recognised; empty where the user named it.
        bundle: the bundle of the model, with its *manifest*; None for the reference model.
        folder: of the user's own profiles.
        why: list the evidence.
    """

    recognised_by: str
    bundle: Path | None
    manifest: Manifest | None
    folder: Path
    why: bool = False


# What a person reads


def shown(advice: Advice, context: Context) -> RenderableType:
    """The answer, the table per head count, and below it the reasons and what would settle it."""
    model, choice = advice.model, advice.choice
    about = f"bundle {context.bundle}" if context.bundle else "the reference model; pass --bundle DIR for yours"
    recognised = f", recognised by {context.recognised_by}" if context.recognised_by else ""
    title, where = f"{model.name} ({about})", f"on {advice.profile.name}{recognised}: {advice.path}"
    if choice is None:
        settle = [f"Measure it: {_measure(advice, context)}", _then(advice, context)]
        answer = f"{advice.profile.name}: no estimate for {advice.path}"
        return titled(answer, titled(title, titled(where, "", *words.choice(advice), *_others(advice), *settle)))
    rows = table(
        "k", "top-1 %", "weights", "ms", "80 % interval", "evidence", f"within {words.milliseconds(advice.budget.ms)}"
    )
    for k, estimate in advice.estimates.items():
        verdict = advice.verdicts[k]
        rows.add_row(
            f"{k} *" if k == choice.heads else str(k),
            percent(model.accuracy.get(k)),
            size(_weights(advice, context, k)),
            rounded(estimate.ms),
            words.interval(estimate.low, estimate.high).removesuffix(" ms"),
            words.evidence(estimate.provenance),
            verdict if verdict in ("yes", "no") else words.fit(advice, k),
        )
    targets = {artifact.target for artifact in context.manifest.artifacts} if context.manifest else None
    unsure = not choice.sure or choice.larger or advice.distance > 0
    lines = (
        *words.choice(advice),
        *words.caveats(advice, targets),
        *_export(advice),
        *_of_this_machine(advice, context),
        *([] if context.manifest else [_REFERENCE_ACCURACY]),
        "",
        *_origins(advice),
        *_others(advice),
        f"{'To settle it' if unsure else 'To time yours'}: {_measure(advice, context)}",
        _then(advice, context),
    )
    shown = Group(rows, _evidence(advice)) if context.why else rows
    return titled(_answer(advice), titled(title, titled(where, shown, *lines)))


def _export(advice: Advice) -> list[str]:
    """The command that writes the files, where that is not the usual one."""
    if "fp32" in advice.precisions:
        return []
    return [f"Its file: hydra-export export --target {advice.target} --precision {advice.path.arithmetic}"]


def _of_this_machine(advice: Advice, context: Context) -> list[str]:
    """What its processor says of the times, where it is the device."""
    in_int8 = advice.path.arithmetic in (INT8, INT8_STATIC) and advice.path.unit == "cpu"
    if not (context.recognised_by and in_int8 and board.lacks_int8(board.cpu_flags())):
        return []
    return ["int8 gains little here: this processor has no instructions for it (VNNI, AMX, dot products)."]


def _answer(advice: Advice) -> str:
    """The device, the head count to run there, its time, and whether it keeps the budget: one line."""
    name, budget = advice.profile.name, words.milliseconds(advice.budget.ms)
    heads = _answered(advice)
    if heads is None:
        return f"{name}: nothing fits into {advice.constraints.max_ram_mib:g} MiB"
    best = advice.estimates[heads]
    time = words.time(best.ms, best.low, best.high, best.provenance)
    return f"{name}: k = {heads}, {time}; within {budget}: {words.fit(advice, heads)}"


def _answered(advice: Advice) -> int | None:
    """The head count to run, or the fastest where none fits; None where memory allows none."""
    return advice.heads or (advice.choice.nearest if advice.choice else None)


def _evidence(advice: Advice) -> RenderableType:
    """The records behind the answer, the weightiest first."""
    heads = _answered(advice) or min(advice.estimates)
    rows = table(f"weight in k = {heads}", "timed on", "time")
    for anchor in advice.estimates[heads].anchors:
        rows.add_row(f"{100 * anchor.weight:.0f} %", anchor.name, str(anchor))
    return rows


def _origins(advice: Advice) -> list[str]:
    """Which records the numbers come from; those of estimates only where nothing was timed."""
    timed = [e for e in advice.estimates.values() if e.provenance != "estimated"]
    lines = [f"Timed: {origin}." for estimate in timed for origin in estimate.origins]
    if advice.formula:
        lines += [f"Estimated: {advice.formula}."]
    if not timed:
        origins, most = next(iter(advice.estimates.values())).origins, 6
        lines += [f"  from {origin}" for origin in origins[:most]]
        lines += [f"  and {len(origins) - most} more"] if len(origins) > most else []
    return lines


def _others(advice: Advice) -> list[str]:
    lines = [f"  {line}" for line in words.other_paths(advice)]
    return ["Other runtimes here, at the largest head count:", *lines] if lines else []


def _weights(advice: Advice, context: Context, k: int) -> int:
    """Bytes of the bundle's separate artifact for this path, or of so many parameters."""
    for artifact in context.manifest.artifacts if context.manifest else ():
        if artifact.target == advice.target and artifact.heads == (k,) and artifact.precision in advice.precisions:
            return artifact.bytes
    return advice.model.params[k] * weight_bytes(advice.path, advice.constraints.precision)


def _measure(advice: Advice, context: Context) -> str:
    """The command that times the model on this path of the device."""
    k = advice.choice.heads if advice.choice and advice.choice.heads else min(advice.model.gmacs)
    runtime = targets.device_runtimes()[advice.path.runtime]
    timer = runtime.timers.get(advice.path.unit) or runtime.timers.get("", "")
    if timer and (not runtime.timer_classes or advice.profile.device_class in runtime.timer_classes):
        return timer.format(stem=advice.stem(k))
    if advice.profile.family == "Apple" and advice.profile.device_class in ("phone", "tablet"):
        return f"run the {advice.path.runtime} file in an app on the device and time it there"
    bundle = context.bundle or "BUNDLE"
    if context.recognised_by:
        return f"hydra-export bench {bundle} --save"
    return f"hydra-export bench standalone {bundle} FOLDER, to run on the device"


def _then(advice: Advice, context: Context) -> str:
    """What becomes of it."""
    own = {(record.runtime, record.unit) for record in advice.resolved.own}
    if advice.distance == 0 and (advice.path.runtime, advice.path.unit) in own:
        return "These times are your own and outrank all others; measuring again replaces them."
    runtime = targets.device_runtimes()[advice.path.runtime]
    if not (runtime.reads_results or runtime.browser):
        return f"Your own [[latency]] table in {context.folder / advice.profile.id}.toml outranks all of this."
    if context.recognised_by:
        return "Your own measurement outranks all of this."
    return f"Then: hydra-export profile import FILE --device {advice.profile.id}. Your times then outrank all of this."


# Where a budget fails


def failure(evidence: Evidence, advice: Advice, context: Context) -> str:
    """Why nothing is known to fit, and what would, by its central estimate, or comes nearest."""
    why = advice.choice.why if advice.choice else advice.why_unknown
    paths = alternatives(evidence, advice)
    options = [*(_option(path, best) for path, best in paths[:3]), *_smaller(evidence, advice, context)]
    near = f" Nearest: {'; '.join(options)}." if options else ""
    return f"Nothing is known to fit {rounded(advice.budget.ms)} ms on {advice.profile.name}: {why}.{near}"


def remedy(advice: Advice, context: Context) -> str:
    """The command that settles it."""
    return f"Measure it: {_measure(advice, context)}"


def _option(path: ExecutionPath, best: Estimate) -> str:
    precision = "" if path.arithmetic == FLOAT else f" --precision {path.arithmetic}"
    return f"--runtime {path.runtime}{precision} takes {rounded(best.ms)} ms at k = {best.k}"


def _smaller(evidence: Evidence, advice: Advice, context: Context) -> list[str]:
    """The largest head count that would fit, below all that the model has."""
    config = context.manifest.model.config if context.manifest else REFERENCE_CONFIG
    lacks = "which is not in the bundle" if context.manifest else "fewer heads than the reference model was trained for"
    smaller = Workload.of(advice.model.name, config, range(1, min(advice.model.gmacs)), {})
    below = estimates(evidence, advice.profile.id, advice.path, smaller) if smaller.gmacs else {}
    limit = advice.constraints.max_ram_mib or math.inf
    needs = memory(advice.resolved, smaller, advice.path, advice.constraints.precision)
    fitting = [e for e in below.values() if e.ms <= advice.budget.ms and needs[e.k] <= limit]
    return [f"k = {e.k}, {lacks}, takes {rounded(e.ms)} ms" for e in fitting[-1:]]


# What a program reads


def document(advice: Advice, context: Context) -> dict[str, Any]:
    """The ``--json`` output."""
    model, budget = advice.model, advice.budget
    bundle = str(context.bundle) if context.bundle else None
    return {
        "model": {"name": model.name, "bundle": bundle, "gmacs": model.full},
        "device": summary(advice.resolved) | {"recognised_by": context.recognised_by or None},
        "way": asdict(advice.path),
        "budget": {"ms": budget.ms, "given": advice.constraints.budget_ms is not None, "reason": budget.reason},
        "estimates": [
            {
                "heads": k,
                "gmacs": model.gmacs[k],
                "accuracy": model.accuracy.get(k),
                "least_ram_mib": advice.needs_mib[k],
                **_estimate(estimate),
                "fits": advice.verdicts[k],
                "chance": advice.chance(k),
            }
            for k, estimate in advice.estimates.items()
        ],
        "choice": _choice(advice.choice),
        "other_ways": [{**asdict(one.path), "heads": one.whole.k, **_estimate(one.whole)} for one in advice.others],
        "measure": _measure(advice, context),
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    weights = [anchor.weight for anchor in estimate.anchors]
    return {**estimate.times, "anchors": [*estimate.origins], "weights": weights, "formula": estimate.formula}


def _choice(choice: HeadChoice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    larger = {"heads": choice.larger[0], "chance": choice.larger[1]} if choice.larger else None
    return asdict(choice) | {"larger": larger}
