"""``hydra-export profile``: which subnetwork fits this device, and how sure is that?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from hydra_export.commands import Result, percent, size, table, talk, titled

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from hydra_export.bundle import Manifest
    from hydra_export.device import DeviceProfile
    from hydra_export.latency import Choice, Estimate, Evidence, Model, Verdict, Way
    from hydra_export.latency.ways import Option
    from hydra_export.profiles import Known

_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}  # of a weight
_MIB = 2**20
# What times a file with each runtime. Others: our own bench, on the device.
_TIMERS = {
    "litert": "adb shell /data/local/tmp/benchmark_model --graph=/data/local/tmp/{name}-k{k}.tflite{delegate}",
    "tensorrt": "trtexec --onnx={name}-k{k}.onnx --fp16",
    "hailort": "hailortcli benchmark {name}-k{k}.hef",
}
Flag = Annotated[bool, Parameter(negative="", show_default=False)]


def profile(
    *,
    device: str = "auto",
    budget_ms: float | None = None,
    max_ram_mib: float | None = None,
    runtime: str | None = None,
    precision: Literal["fp32", "fp16", "int8"] | None = None,
    bundle: Path | None = None,
    plot: Path | None = None,
    list: Flag = False,  # noqa: A002 (the option's name)
    show: Flag = False,
    profiles: Path | None = None,
) -> Result:
    """Say which subnetwork fits a device: from times taken there, or estimated from the nearest that were.

    Args:
        device: Its name, such as pixel7, "Galaxy S23" or rpi5; auto for the one that this runs on.
        budget_ms: Milliseconds that one image may take; by default the profile's own. If nothing fits a budget given
            here, the exit status is 1.
        max_ram_mib: Memory that it may take.
        runtime: What runs it: onnxruntime, litert, coreml, openvino, tensorrt, qnn, hailort, axengine, rknn or ncnn; by
            default the best known on the device.
        precision: fp32 and fp16, which devices compute alike, or int8.
        bundle: Speak of the model in this bundle; by default of hydravit_base_patch16_224.
        plot: Draw time and accuracy over k into this file (.png, .svg or .pdf).
        list: List the devices.
        show: Show what is known of the device, with its sources.
        profiles: The folder of your own profiles, instead of the one among your settings.
    """
    from hydra_export import profiles as registry
    from hydra_export.errors import BadInput

    for option, value in (("--budget-ms", budget_ms), ("--max-ram-mib", max_ram_mib)):
        if value is not None and not 0 < value < 1e9:
            raise BadInput(f"{option} is {value}.", "Give a number above 0.")
    if list:
        return _list(registry.known(profiles))
    known, by = _device(device, profiles)
    if show:
        return _show(known)
    if plot is not None:
        from hydra_export.latency.plot import check_plot

        check_plot(plot)
    asked = _Asked(known, by, budget_ms, max_ram_mib, runtime or "", precision, bundle, profiles)
    return _answer(asked, registry.known(profiles), plot)


@dataclass(frozen=True)
class _Asked:
    """What was asked. *by*: the key that told which device this is."""

    known: Known
    by: str
    budget_ms: float | None
    max_ram_mib: float | None
    runtime: str
    precision: Literal["fp32", "fp16", "int8"] | None
    bundle: Path | None
    folder: Path | None

    @property
    def profile(self) -> DeviceProfile:
        return self.known.profile


@dataclass(frozen=True)
class _Answer:
    """What is said of it.

    Attributes:
        needs_mib: memory, at least, per head count.
        others: other ways of running it here, of the asked kind if there are any.
        sizes: of the models that were timed anywhere, where none is as large as this one.
    """

    asked: _Asked
    model: Model
    way: Way
    options: tuple[Option, ...]
    budget_ms: float
    budget_reason: str
    needs_mib: Mapping[int, float]
    verdicts: Mapping[int, Verdict]
    choice: Choice | None
    others: tuple[Option, ...]
    sizes: Sequence[tuple[float, int]]

    @property
    def estimates(self) -> Mapping[int, Estimate]:
        return self.options[0].estimates if self.options else {}


def _device(name: str, folder: Path | None) -> tuple[Known, str]:
    from hydra_export import profiles as registry
    from hydra_export.errors import BadInput

    if name != "auto":
        return registry.get(name, folder), ""
    said = registry.here()
    found = registry.match(said, folder)
    if found is None:
        values = {key: getattr(said, key) for key in said.__struct_fields__ if key != "source" and getattr(said, key)}
        told = ", ".join(f"{key} = '{value[0]}'" for key, value in values.items()) or "nothing of itself"
        raise BadInput(
            f"This machine is none of the known devices: it says {told}.",
            "Name one with --device (hydra-export profile --list shows them), or describe this one in "
            f"{folder or registry.user_folder()}, as docs/device-profile.schema.json says.",
        )
    return found


def _answer(asked: _Asked, listed: Mapping[str, Known], plot: Path | None) -> Result:
    from hydra_export.errors import CheckFailed
    from hydra_export.latency import Evidence

    model, manifest = _model(asked.bundle)
    evidence = Evidence(listed)
    answer = _said(asked, evidence, model)
    if plot is not None and not answer.estimates:
        talk().print(f"note: {plot} was not drawn: there is no number.", markup=False, soft_wrap=True)
    elif plot is not None:
        from hydra_export.latency.plot import plot as draw

        title = f"{model.name} on {asked.profile.name}\n{answer.way}"
        draw(plot, title, model, answer.estimates, answer.budget_ms, answer.choice)
    shown = _shown(answer, manifest)
    if asked.budget_ms is not None and (answer.choice is None or answer.choice.heads is None):
        talk().print(shown, markup=False)
        why = answer.choice.why if answer.choice else _nothing_known(answer)
        raise CheckFailed(
            f"Nothing is known to fit {_ms(asked.budget_ms)} ms on {asked.profile.name}: {why}.",
            " ".join([*_nearest(answer, evidence), f"Measure it: {_measure(answer)}"]),
        )
    return Result(_document(answer), shown)


def _said(asked: _Asked, evidence: Evidence, model: Model) -> _Answer:
    from hydra_export.latency import choose, default_way, known_ways
    from hydra_export.latency.choice import verdict

    device, precision = asked.profile.id, asked.precision or ""
    options = tuple(known_ways(evidence, device, model, runtime=asked.runtime, precision=precision))
    others = options[1:] or tuple(o for o in known_ways(evidence, device, model) if o not in options)
    way = default_way(evidence, device, model, runtime=asked.runtime, precision=precision)
    budget, reason = asked.budget_ms, "as asked"
    if budget is None:
        default = asked.profile.budget
        budget, reason = (
            (default.ms, f"{asked.profile.id}'s own: {default.reason}") if default else (100.0, "a default")
        )
    needs = _memory(asked, model, way)
    estimates = options[0].estimates if options else {}
    verdicts = {k: verdict(e, budget, needs[k], asked.max_ram_mib) for k, e in estimates.items()}
    choice = choose(model, estimates, verdicts, budget) if estimates else None
    return _Answer(asked, model, way, options, budget, reason, needs, verdicts, choice, others, evidence.sizes(model))


def _model(folder: Path | None) -> tuple[Model, Manifest | None]:
    from hydra_export.latency import REFERENCE, Model

    if folder is None:
        return REFERENCE, None
    from hydra_export import bundle

    manifest = bundle.read(folder)
    found = manifest.model.subnetworks
    accuracy = {entry.heads: entry.accuracy for entry in found if entry.accuracy is not None}
    heads = [entry.heads for entry in found]
    return Model.of(manifest.model.name, manifest.model.config, heads, accuracy), manifest


def _memory(asked: _Asked, model: Model, way: Way) -> dict[int, float]:
    """MiB at least: what was measured of this model here, else its weights alone."""
    floating: Literal["fp32", "fp16"] = "fp16" if asked.precision == "fp16" or way.runtime == "coreml" else "fp32"
    each = _BYTES["int8" if way.arithmetic == "int8" else floating]
    needs = {k: count * each / _MIB for k, count in model.params.items()}
    for record in asked.known.own:
        if record.model == model.name and record.k in needs and record.peak_memory_mb and record.runtime == way.runtime:
            from hydra_export.device import ends

            needs[record.k] = ends(record.peak_memory_mb)[1] * 1e6 / _MIB
    return needs


# What a person reads


def _shown(answer: _Answer, manifest: Manifest | None) -> RenderableType:
    asked, model = answer.asked, answer.model
    about = f"of {asked.bundle}" if asked.bundle else "the reference model; --bundle DIR speaks of yours"
    recognised = f", recognised by {asked.by}" if asked.by else ""
    title = f"{model.name} ({about})\non {asked.profile.name}{recognised}: {answer.way}"
    if not answer.estimates:
        notes = [f"No number: {_nothing_known(answer)}.", *_other_lines(answer), f"Measure it: {_measure(answer)}"]
        notes += [_where_to_write(answer)]
        return titled(title, "", *notes)
    shown = table(
        "k", "top-1 %", "GMACs", "weights", "ms", "80 % interval", "evidence", f"within {_ms(answer.budget_ms)} ms"
    )
    for k, estimate in answer.estimates.items():
        shown.add_row(
            f"{k} <-" if answer.choice and k == answer.choice.heads else str(k),
            percent(model.accuracy.get(k)),
            f"{model.gmacs[k]:.3g}",
            size(int(_weights(answer, manifest, k))),
            _ms(estimate.ms),
            f"{_ms(estimate.low)} to {_ms(estimate.high)}",
            estimate.provenance.replace("_", ", "),
            _fits(answer, k),
        )
    return titled(title, shown, *_notes(answer, manifest))


def _notes(answer: _Answer, manifest: Manifest | None) -> list[str]:
    choice = answer.choice
    assert choice is not None
    budget = f"{_ms(answer.budget_ms)} ms ({answer.budget_reason})"
    if choice.heads is None:
        notes = [f"Nothing fits {budget}: {choice.why}: a chance of {_chance(choice.chance)}."]
    elif choice.sure:
        notes = [f"Choice for {budget}: k = {choice.heads}, {_chance(choice.chance)} sure: {choice.why}."]
    else:
        notes = [f"Best guess for {budget}: k = {choice.heads}, {_chance(choice.chance)}; {choice.why}."]
    if choice.larger:
        notes += [f"k = {choice.larger[0]} may fit as well ({_chance(choice.larger[1])})."]
    if _farthest(answer) == 2:
        notes += ["All of it is inferred from other devices: time this one before you rely on it."]
    if answer.way.arithmetic == "int8" and answer.way.unit == "npu":
        notes += ["int8 was static there, activations included; the int8 of hydra-export has float activations."]
    if answer.asked.max_ram_mib is not None:
        notes += [
            "Memory was checked against the weights alone, or what you measured here; the peak lies above the weights."
        ]
    if not answer.asked.bundle:
        notes += ["Accuracy: arXiv 2605.22677, which gives it for k = 3 and 6 on ImageNet-1K."]
    notes += ["", *_from(answer), *_other_lines(answer), *_format_note(answer, manifest)]
    unsure = choice.heads is None or not choice.sure or choice.larger or _farthest(answer) > 0
    return [*notes, f"{'To settle it' if unsure else 'To time yours'}: {_measure(answer)}", _where_to_write(answer)]


def _from(answer: _Answer) -> list[str]:
    """What the numbers come from."""
    estimated = [e for e in answer.estimates.values() if e.provenance == "estimated"]
    timed = [e for e in answer.estimates.values() if e.provenance != "estimated"]
    lines = [f"Timed: {anchor}." for estimate in timed for anchor in estimate.anchors]
    if estimated:
        lines += [f"Estimated: {estimated[0].formula}."]
        if not timed:
            lines += [f"  from {anchor}" for anchor in estimated[0].anchors[:6]]
            more = len(estimated[0].anchors) - 6
            lines += [f"  and {more} more"] if more > 0 else []
    return lines


def _other_lines(answer: _Answer) -> list[str]:
    if not answer.others:
        return []
    lines = ["Other ways here (largest k):"]
    for option in answer.others[:4]:
        whole = option.whole
        known = whole.provenance.replace("_", ", ")
        lines += [f"  {option.way}: {_ms(whole.ms)} ms ({_ms(whole.low)} to {_ms(whole.high)}), {known}"]
    return lines


def _format_note(answer: _Answer, manifest: Manifest | None) -> list[str]:
    from hydra_export.latency.ways import FORMATS

    target = FORMATS[answer.way.runtime]
    if manifest is None or any(artifact.target == target for artifact in manifest.artifacts):
        return []
    return [f"The bundle holds nothing for {answer.way.runtime}: export with --target {target}."]


def _fits(answer: _Answer, k: int) -> str:
    word = answer.verdicts[k]
    if word not in ("probably", "hardly"):
        return word
    return f"{word} ({_chance(answer.estimates[k].spread.chance_within(answer.budget_ms))})"


def _weights(answer: _Answer, manifest: Manifest | None, k: int) -> float:
    """Bytes of the separate artifact of this way, or of so many parameters."""
    from hydra_export.latency.ways import FORMATS

    precisions = ("int8",) if answer.way.arithmetic == "int8" else ("fp32", "fp16")
    for artifact in manifest.artifacts if manifest else ():
        if (artifact.target, artifact.heads) == (
            FORMATS[answer.way.runtime],
            (k,),
        ) and artifact.precision in precisions:
            return artifact.bytes
    each = 1 if answer.way.arithmetic == "int8" else 2 if answer.way.runtime == "coreml" else 4
    return answer.model.params[k] * each


def _nothing_known(answer: _Answer) -> str:
    model, profile = answer.model, answer.asked.profile
    if answer.sizes:
        known = ", ".join(f"{gmacs:.3g} GMACs at {resolution} px" for gmacs, resolution in answer.sizes)
        own = f"{model.name} has {model.full:.2g} at {model.resolution} px"
        return f"the times that are known anywhere are of models of {known}, and {own}"
    return f"no vision transformer is known to have been timed in this way on {profile.name} or on a device like it"


def _measure(answer: _Answer) -> str:
    """The command that times the model in this way on the device."""
    k = answer.choice.heads if answer.choice and answer.choice.heads else min(answer.model.gmacs)
    runtime, device_class = answer.way.runtime, answer.asked.profile.device_class
    name = answer.model.name
    if runtime == "coreml":
        return f"open {name}-k{k}.mlpackage in Xcode and make a performance report on the device"
    if runtime in _TIMERS and not (runtime == "litert" and device_class != "phone"):
        delegate = (
            " --external_delegate_path=libQnnTFLiteDelegate.so" if answer.way.unit == "npu" else " --num_threads=4"
        )
        return _TIMERS[runtime].format(name=name, k=k, delegate=delegate)
    where = "" if answer.asked.by else " on the device"
    return f"hydra-export bench --bundle {answer.asked.bundle or 'DIR'}{where}"


def _where_to_write(answer: _Answer) -> str:
    from hydra_export.profiles import user_folder

    asked = answer.asked
    path = asked.known.files[-1] if asked.known.own else (asked.folder or user_folder()) / f"{asked.profile.id}.toml"
    return f"A [[latency]] table of yours in {path} outranks all of this."


def _nearest(answer: _Answer, evidence: Evidence) -> list[str]:
    """Other precisions, runtimes and head counts that fit, by the central estimate at least."""
    from hydra_export.latency import Model, estimates, known_ways

    asked, model, budget = answer.asked, answer.model, answer.budget_ms
    fitting = []
    for option in known_ways(evidence, asked.profile.id, model):
        needs, limit = _memory(asked, model, option.way), asked.max_ram_mib or math.inf
        within = [k for k, estimate in option.estimates.items() if estimate.ms <= budget and needs[k] <= limit]
        if within:
            way, best = option.way, option.estimates[max(within)]
            precision = " --precision int8" if way.arithmetic == "int8" else ""
            fitting.append(f"--runtime {way.runtime}{precision} takes {_ms(best.ms)} ms at k = {best.k}")
    smaller = list(range(1, min(model.gmacs)))
    if smaller and asked.bundle:
        from hydra_export import bundle

        config = bundle.read(asked.bundle).model.config
        said = estimates(evidence, asked.profile.id, answer.way, Model.of(model.name, config, smaller, {}))
        within = [k for k, estimate in said.items() if estimate.ms <= budget]
        if within:
            fitting.append(f"k = {max(within)}, which is not in the bundle, takes {_ms(said[max(within)].ms)} ms")
    return [f"Nearest: {'; '.join(fitting[:4])}."] if fitting else []


def _farthest(answer: _Answer) -> int:
    return max(estimate.distance for estimate in answer.estimates.values())


def _ms(value: float) -> str:
    from hydra_export.latency.spread import rounded

    return rounded(value)


def _chance(chance: float) -> str:
    return (
        "more than 99 %" if chance > 0.99 else "less than 1 %" if chance < 0.01 else f"{chance:.0%}".replace("%", " %")
    )


# What a program reads


def _document(answer: _Answer) -> dict[str, Any]:
    asked, model = answer.asked, answer.model
    return {
        "model": {"name": model.name, "bundle": str(asked.bundle) if asked.bundle else None, "gmacs": model.full},
        "device": _summary(asked.known) | {"recognised_by": asked.by or None},
        "way": _way(answer.way),
        "budget": {"ms": answer.budget_ms, "given": asked.budget_ms is not None, "reason": answer.budget_reason},
        "estimates": [
            {
                "heads": k,
                "gmacs": model.gmacs[k],
                "accuracy": model.accuracy.get(k),
                "least_ram_mib": answer.needs_mib[k],
                **_estimate(estimate),
                "fits": answer.verdicts[k],
                "chance": estimate.spread.chance_within(answer.budget_ms),
            }
            for k, estimate in answer.estimates.items()
        ],
        "choice": _choice(answer.choice),
        "other_ways": [
            {**_way(other.way), "heads": other.whole.k, **_estimate(other.whole)} for other in answer.others
        ],
        "measure": _measure(answer),
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
    return fields | {"larger": larger}


# --list and --show


def _summary(known: Known) -> dict[str, Any]:
    profile = known.profile
    return {
        "id": profile.id,
        "name": profile.name,
        "class": profile.device_class,
        "soc": profile.facts.soc.value if profile.facts.soc else None,
    }


def _list(listed: Mapping[str, Known]) -> Result:
    shown = _folding(table("device", "name", "SoC", "times"), 1, 2)
    rows = []
    for name, known in sorted(listed.items(), key=lambda pair: (pair[1].profile.device_class, pair[0])):
        profile, num = known.profile, len(known.profile.latency)
        summary = _summary(known)
        times = f"{num} ({len(known.own)} yours)" if known.own else str(num or "-")
        shown.add_row(name, profile.name, summary["soc"] or "-", times)
        budget = profile.budget.ms if profile.budget else None
        rows.append({**summary, "times": num, "own_times": len(known.own), "budget_ms": budget})
    note = "times: of vision transformers, measured or published; where there is none, other devices speak for it"
    return Result({"devices": rows}, titled(f"{len(rows)} devices", shown, note))


def _show(known: Known) -> Result:
    import msgspec
    from rich.console import Group
    from rich.text import Text

    profile = known.profile
    facts = _folding(table("fact", "value", "source"), 1, 2)
    for name in profile.facts.__struct_fields__:
        if fact := getattr(profile.facts, name):
            note = f" ({fact.note})" if fact.note else ""
            facts.add_row(name, _value(fact.value) + note, fact.source)
    for key in ("android_model", "android_soc_model", "ios_machine", "devicetree_model", "cpu_name"):
        if values := getattr(profile.match, key):
            facts.add_row(f"says {key}", ", ".join(values), profile.match.source)
    if profile.budget:
        facts.add_row("budget", f"{profile.budget.ms:g} ms, {profile.budget.reason}", "our choice")
    times = _folding(table("model", "k", "ms", "batch", "how", "date", "evidence", "source"), 0, 4, 5, 6, 7)
    for record in profile.latency:
        evidence = record.provenance.replace("_", ", ") + (" (yours)" if record in known.own else "")
        evidence += " (unused)" if record.suspect else ""
        how = f"{record.runtime} {record.precision} {record.unit.upper()}"
        counts = (str(record.k or "-"), _ms(record.ms), str(record.batch))
        times.add_row(record.model, *counts, how, record.date, evidence, record.source)
    sources = [f"{key}: {text}" for key, text in profile.sources.items()]
    files = [f"File: {path}" for path in known.files]
    title = f"{profile.name} ({profile.id}), {profile.device_class}"
    parts = [titled(title, facts), *([times] if profile.latency else [Text("No vision transformer was timed here.\n")])]
    shown = Group(*parts, *map(Text, sources), *map(Text, files))
    return Result({"profile": msgspec.to_builtins(profile), "files": [*map(str, known.files)]}, shown)


def _folding(shown: Table, *columns: int) -> Table:
    """Its *columns* are text, which takes more lines where the terminal is narrow."""
    for index in columns:
        column = shown.columns[index]
        column.justify, column.no_wrap, column.overflow = "left", False, "fold"
    return shown


def _value(value: Any) -> str:
    from hydra_export.device import Cluster

    match value:
        case (Cluster(), *_):
            return " + ".join(f"{c.cores}x {c.core}" + (f" {c.ghz:g} GHz" if c.ghz else "") for c in value)
        case tuple():
            return " to ".join(f"{end:g}" for end in value)
        case float():
            return f"{value:g}"
    return str(value)
