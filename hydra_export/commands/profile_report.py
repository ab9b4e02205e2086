"""What ``hydra-export profile`` says of a device: for a person, for a program, and where a budget fails."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from hydra_export.commands import percent, size, table, titled
from hydra_export.commands.profile_facts import summary
from hydra_export.latency import Advice, Choice, Estimate, Evidence, Model, Way, estimates, fastest, nearest
from hydra_export.latency.advice import memory, weight_bytes
from hydra_export.latency.choice import percent as percent_of
from hydra_export.latency.evidence import REFERENCE_CONFIG
from hydra_export.latency.spread import rounded
from hydra_export.latency.ways import FORMATS

if TYPE_CHECKING:
    from hydra_export.bundle import Manifest

# What times a file with each runtime. Others: our own bench, on the device.
_TIMERS = {
    "litert": "adb shell /data/local/tmp/benchmark_model --graph=/data/local/tmp/{name}-k{k}.tflite {delegate}",
    "tensorrt": "trtexec --onnx={name}-k{k}.onnx --fp16",
    "hailort": "hailortcli benchmark {name}-k{k}.hef",
}


@dataclass(frozen=True)
class Context:
    """What else the user said.

    Attributes:
        recognised_by: the key that told which device this is; empty where the user did.
        bundle: whose model this is, None for the reference model; *manifest* is its.
        folder: of the user's own profiles.
    """

    recognised_by: str
    bundle: Path | None
    manifest: Manifest | None
    folder: Path


# What a person reads


def shown(advice: Advice, context: Context) -> RenderableType:
    """The table per head count, and below it the choice, its reasons and what would settle it."""
    model = advice.model
    about = f"of {context.bundle}" if context.bundle else "the reference model; --bundle DIR speaks of yours"
    recognised = f", recognised by {context.recognised_by}" if context.recognised_by else ""
    title, where = f"{model.name} ({about})", f"on {advice.profile.name}{recognised}: {advice.way}"
    if advice.choice is None:
        settle = [f"Measure it: {_measure(advice, context)}", _then(advice, context)]
        return titled(title, titled(where, "", f"No number: {advice.why_unknown}.", *_others(advice), *settle))
    rows = table("k", "top-1 %", "weights", "ms", "80 % interval", "evidence", f"within {rounded(advice.budget.ms)} ms")
    for k, estimate in advice.estimates.items():
        rows.add_row(
            f"{k} *" if k == advice.choice.heads else str(k),
            percent(model.accuracy.get(k)),
            size(_weights(advice, context, k)),
            rounded(estimate.ms),
            f"{rounded(estimate.low)} to {rounded(estimate.high)}",
            _evidence(estimate),
            _fits(advice, k),
        )
    unsure = not advice.choice.sure or advice.choice.larger or advice.distance > 0
    lines = (
        *_choice_lines(advice, advice.choice),
        *_caveats(advice, context),
        "",
        *_from(advice),
        *_others(advice),
        f"{'To settle it' if unsure else 'To time yours'}: {_measure(advice, context)}",
        _then(advice, context),
    )
    return titled(title, titled(where, rows, *lines))


def _choice_lines(advice: Advice, choice: Choice) -> list[str]:
    whose = f"{advice.profile.id}'s own: " if advice.profile.budget else "the usual: "
    whose = "" if advice.wish.budget_ms is not None else whose
    budget = f"{rounded(advice.budget.ms)} ms ({whose}{advice.budget.reason})"
    chance = percent_of(choice.chance)
    if choice.heads is None:
        lines = [f"Nothing is known to fit {budget}: {choice.why}."]
        return lines + (
            [f"Best guess: k = {choice.nearest}, the fastest: {chance} that it fits."] if choice.nearest else []
        )
    if choice.sure:
        lines = [f"Choice for {budget}: k = {choice.heads}, {chance} sure: {choice.why}."]
    else:
        lines = [f"Best guess for {budget}: k = {choice.heads}, {chance}; {choice.why}."]
    if choice.larger:
        lines += [f"k = {choice.larger[0]} may fit as well ({percent_of(choice.larger[1])})."]
    return lines


def _caveats(advice: Advice, context: Context) -> list[str]:
    lines = []
    if advice.distance == 2:
        lines += ["All of it is inferred from other devices: time this one before you rely on it."]
    if unlike := dict.fromkeys(text for estimate in advice.estimates.values() for text in estimate.unlike):
        lines += [
            f"What was timed is another architecture: {', '.join(unlike)}; this is at {advice.model.resolution} px."
        ]
    if advice.way.arithmetic == "int8" and advice.way.unit == "npu":
        lines += ["int8 was static there, activations included; the int8 of hydra-export has float activations."]
    if advice.wish.max_ram_mib is not None:
        lines += ["Memory: the weights alone, or what you measured here; the peak lies above the weights."]
    target = FORMATS[advice.way.runtime]
    if context.manifest is None:
        lines += ["Accuracy: arXiv 2605.22677, which gives it for k = 3 and 6 on ImageNet-1K."]
    elif target not in {artifact.target for artifact in context.manifest.artifacts}:
        lines += [f"The bundle holds nothing for {advice.way.runtime}: export with --target {target}."]
    return lines


def _from(advice: Advice) -> list[str]:
    """What the numbers come from."""
    estimated = [e for e in advice.estimates.values() if e.provenance == "estimated"]
    timed = [e for e in advice.estimates.values() if e.provenance != "estimated"]
    lines = [f"Timed: {anchor}." for estimate in timed for anchor in estimate.anchors]
    if estimated:
        lines += [f"Estimated: {estimated[0].formula}."]
    if estimated and not timed:
        anchors, most = estimated[0].anchors, 6
        lines += [f"  from {anchor}" for anchor in anchors[:most]]
        lines += [f"  and {len(anchors) - most} more"] if len(anchors) > most else []
    return lines


def _others(advice: Advice) -> list[str]:
    lines = ["Other ways here (largest k):"] if advice.others else []
    for option in advice.others[:4]:
        whole = option.whole
        interval = f"{rounded(whole.low)} to {rounded(whole.high)}"
        lines += [f"  {option.way}: {rounded(whole.ms)} ms ({interval}), {_evidence(whole)}"]
    return lines


def _fits(advice: Advice, k: int) -> str:
    word = advice.verdicts[k]
    if word in ("yes", "no", "too much RAM"):
        return word
    return f"{word} ({percent_of(advice.estimates[k].spread.chance_within(advice.budget.ms))})"


def _weights(advice: Advice, context: Context, k: int) -> int:
    """Bytes of the bundle's separate artifact for this way, or of so many parameters."""
    target = FORMATS[advice.way.runtime]
    precisions = ("int8",) if advice.way.arithmetic == "int8" else ("fp32", "fp16")
    for artifact in context.manifest.artifacts if context.manifest else ():
        if artifact.target == target and artifact.heads == (k,) and artifact.precision in precisions:
            return artifact.bytes
    return advice.model.params[k] * weight_bytes(advice.way, advice.wish.precision)


def _evidence(estimate: Estimate) -> str:
    return estimate.provenance.replace("_", ", ")


def _measure(advice: Advice, context: Context) -> str:
    """The command that times the model in this way on the device."""
    k = advice.choice.heads if advice.choice and advice.choice.heads else min(advice.model.gmacs)
    runtime, name = advice.way.runtime, advice.model.name
    if runtime == "coreml":
        return f"open {name}-k{k}.mlpackage in Xcode and make a performance report on the device"
    if runtime in _TIMERS and (runtime != "litert" or advice.profile.device_class == "phone"):
        on_npu = advice.way.unit == "npu"
        delegate = "--external_delegate_path=libQnnTFLiteDelegate.so" if on_npu else "--num_threads=4"
        return _TIMERS[runtime].format(name=name, k=k, delegate=delegate)
    bench = f"hydra-export bench --bundle {context.bundle or 'DIR'}"
    return f"{bench} --save" if context.recognised_by else f"{bench} --standalone FOLDER, to run on the device"


def _then(advice: Advice, context: Context) -> str:
    """What becomes of it."""
    own = {(record.runtime, record.unit) for record in advice.known.own}
    if advice.distance == 0 and (advice.way.runtime, advice.way.unit) in own:
        return "These times are yours and outrank all others; newer ones of the same take their place."
    if advice.way.runtime not in ("onnxruntime", "litert", "openvino", "qnn"):
        return f"A [[latency]] table of yours in {context.folder / advice.profile.id}.toml outranks all of this."
    if context.recognised_by:
        return "What you measure outranks all of this."
    return f"Then: hydra-export profile --import FILE --device {advice.profile.id}; it outranks all of this."


# Where a budget fails


def failure(evidence: Evidence, advice: Advice, context: Context) -> str:
    """Why nothing is known to fit, and what would, by its central estimate, or comes nearest."""
    why = advice.choice.why if advice.choice else advice.why_unknown
    ways = nearest(evidence, advice) or fastest(evidence, advice)
    options = [*map(_told, ways[:3]), *_smaller(evidence, advice, context)]
    told = f" Nearest: {'; '.join(options)}." if options else ""
    return f"Nothing is known to fit {rounded(advice.budget.ms)} ms on {advice.profile.name}: {why}.{told}"


def remedy(advice: Advice, context: Context) -> str:
    """The command that settles it."""
    return f"Measure it: {_measure(advice, context)}"


def _told(option: tuple[Way, Estimate]) -> str:
    way, best = option
    precision = " --precision int8" if way.arithmetic == "int8" else ""
    return f"--runtime {way.runtime}{precision} takes {rounded(best.ms)} ms at k = {best.k}"


def _smaller(evidence: Evidence, advice: Advice, context: Context) -> list[str]:
    """The largest head count below all that were asked about that would fit."""
    config = context.manifest.model.config if context.manifest else REFERENCE_CONFIG
    lacks = "which is not in the bundle" if context.manifest else "fewer heads than the reference model was trained for"
    smaller = Model.of(advice.model.name, config, range(1, min(advice.model.gmacs)), {})
    said = estimates(evidence, advice.profile.id, advice.way, smaller) if smaller.gmacs else {}
    limit = advice.wish.max_ram_mib or math.inf
    needs = memory(advice.known, smaller, advice.way, advice.wish.precision)
    fitting = [e for e in said.values() if e.ms <= advice.budget.ms and needs[e.k] <= limit]
    return [f"k = {e.k}, {lacks}, takes {rounded(e.ms)} ms" for e in fitting[-1:]]


# What a program reads


def document(advice: Advice, context: Context) -> dict[str, Any]:
    """The ``--json`` output."""
    model, budget = advice.model, advice.budget
    bundle = str(context.bundle) if context.bundle else None
    return {
        "model": {"name": model.name, "bundle": bundle, "gmacs": model.full},
        "device": summary(advice.known) | {"recognised_by": context.recognised_by or None},
        "way": _way(advice.way),
        "budget": {"ms": budget.ms, "given": advice.wish.budget_ms is not None, "reason": budget.reason},
        "estimates": [
            {
                "heads": k,
                "gmacs": model.gmacs[k],
                "accuracy": model.accuracy.get(k),
                "least_ram_mib": advice.needs_mib[k],
                **_estimate(estimate),
                "fits": advice.verdicts[k],
                "chance": estimate.spread.chance_within(budget.ms),
            }
            for k, estimate in advice.estimates.items()
        ],
        "choice": _choice(advice.choice),
        "other_ways": [{**_way(one.way), "heads": one.whole.k, **_estimate(one.whole)} for one in advice.others],
        "measure": _measure(advice, context),
    }


def _way(way: Way) -> dict[str, str]:
    return {"runtime": way.runtime, "arithmetic": way.arithmetic, "unit": way.unit}


def _estimate(estimate: Estimate) -> dict[str, Any]:
    fields = {"ms": estimate.ms, "low": estimate.low, "high": estimate.high, "provenance": estimate.provenance}
    return fields | {"anchors": [*estimate.anchors], "formula": estimate.formula}


def _choice(choice: Choice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    larger = {"heads": choice.larger[0], "chance": choice.larger[1]} if choice.larger else None
    fields = {"heads": choice.heads, "sure": choice.sure, "chance": choice.chance, "why": choice.why}
    return fields | {"larger": larger, "nearest": choice.nearest}
