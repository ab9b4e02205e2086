"""``hydra-export profile fleet``: which subnetwork each of many devices runs, and what each has to fetch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_export import files, targets
from hydra_export import profiles as registry
from hydra_export.commands import Result, size, table, talk, titled
from hydra_export.errors import BadInput, CheckFailed
from hydra_export.latency import Advice, Constraints, Evidence, Workload, advise, describe_fit
from hydra_export.latency.spread import rounded
from hydra_export.profiles import ResolvedProfile
from hydra_export.text import lines

if TYPE_CHECKING:
    from hydra_export.bundle import ArtifactEntry, Manifest

_FLEET_BYTES = 2**18
_MOST_REASONS = 5
_FLEET_FILE = "Pass a text file with one device per line."
_GRAPHS = ("separate", "shared", "universal")


@dataclass(frozen=True)
class _Member:
    """One line of the fleet and what it runs."""

    name: str
    advice: Advice
    artifacts: dict[str, ArtifactEntry]


def listed_fleet(
    path: Path,
    folder: Path | None,
    model: Workload,
    bundle: Path | None,
    manifest: Manifest | None,
    constraints: Constraints,
) -> Result:
    """The choice for every device that *path* lists, one per line, with a runtime behind a comma where it matters."""
    evidence = Evidence(registry.resolve(folder))
    members = []
    for resolved, runtime in _read(path, folder):
        own = dataclasses.replace(constraints, runtime=runtime or constraints.runtime)
        advice = advise(evidence, resolved, model, own)
        members.append(_Member(resolved.profile.id, advice, _artifacts(advice, manifest)))
    head_counts = sorted({member.advice.heads for member in members if member.advice.heads is not None})
    result = Result(_document(members, head_counts, manifest), _render(members, head_counts, manifest, model, bundle))
    without = [member.name for member in members if member.advice.heads is None]
    if constraints.budget_ms is not None and without:
        talk().print(result.shown)
        raise CheckFailed(
            f"Nothing is known to fit {rounded(constraints.budget_ms)} ms on {', '.join(without)}.",
            f"hydra-export profile --device {without[0]} says why and how to settle it.",
        )
    return result


def _read(path: Path, folder: Path | None) -> list[tuple[ResolvedProfile, str]]:
    try:
        content = files.read(path, _FLEET_BYTES, str(path), _FLEET_FILE).decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} cannot be read: {error}.", _FLEET_FILE) from error
    members: dict[tuple[str, str], ResolvedProfile] = {}
    for number, line in enumerate(lines(content), start=1):
        name, _, runtime = (part.strip() for part in line.partition("#")[0].partition(","))
        if not name:
            continue
        if runtime and runtime not in targets.formats():
            raise BadInput(
                f"{path} line {number}: no runtime '{runtime}'.", f"Choose from {', '.join(targets.formats())}."
            )
        try:
            device = registry.get(name, folder)
        except BadInput as error:
            raise BadInput(f"{path} line {number}: {error.message}", error.remedy) from error
        if (device.profile.id, runtime) in members:
            raise BadInput(f"{path} line {number}: {name} is listed twice.", "List each device and runtime once.")
        members[device.profile.id, runtime] = device
    if not members:
        raise BadInput(
            f"{path} lists no device.",
            f"Write one device per line, such as 'pixel7' or 'rpi5, {next(iter(targets.formats()))}'.",
        )
    return [(device, runtime) for (_, runtime), device in members.items()]


def _artifacts(advice: Advice, manifest: Manifest | None) -> dict[str, ArtifactEntry]:
    """By graph kind, what the device would run."""
    if manifest is None or advice.heads is None:
        return {}
    return {
        artifact.graph: artifact
        for precision in reversed(advice.precisions)  # the last counts
        for artifact in reversed(manifest.artifacts)
        if (artifact.target, artifact.precision) == (advice.target, precision)
        and advice.heads in artifact.heads
        and not artifact.fixes_heads  # beside the one that takes k
    }


def _render(
    members: list[_Member], head_counts: list[int], manifest: Manifest | None, model: Workload, bundle: Path | None
) -> Any:
    graphs = [graph for graph in _GRAPHS if any(graph in member.artifacts for member in members)]
    shown = table("device", "runtime", "k", "budget", "ms (80 % interval)", "fits", *graphs)
    for member in members:
        advice = member.advice
        counts = [_download_bytes(member, graph, manifest) for graph in graphs]
        fetched = ["-" if count is None else size(count) for count in counts]
        runtime = f"{advice.path.runtime} {advice.path.unit.upper()}"
        k, budget = str(advice.heads or "-"), rounded(advice.budget.ms)
        shown.add_row(member.name, runtime, k, budget, *_time_and_fit(advice), *fetched)
    if graphs:
        totals = [size(_total_bytes(members, graph, manifest)) for graph in graphs]
        shown.add_section()
        shown.add_row("all together", *[""] * 5, *totals)
    about = (
        f"of {bundle}" if bundle else "the reference model; pass --bundle DIR for yours and what it takes to download"
    )
    notes = [_covered(members, head_counts), *_uncovered(members), *_without_file(members, manifest)]
    if graphs:
        notes += ["Bytes are what each device fetches; all together is what to publish."]
    return titled(f"{model.name} ({about}) on {_devices(len(members))}", shown, *notes)


def _time_and_fit(advice: Advice) -> tuple[str, str]:
    """Of the head count that the device runs, or of the one that comes nearest."""
    choice = advice.choice
    k = advice.heads or (choice.nearest if choice else None)
    if choice is None or k is None:
        return "-", "-"
    one = advice.estimates[k]
    nearest = "" if advice.heads else f"k = {k}: "
    time = f"{nearest}{rounded(one.ms)} ({rounded(one.low)} to {rounded(one.high)})"
    return time, describe_fit(advice.heads is not None and choice.sure, choice.chance)


def _covered(members: list[_Member], head_counts: list[int]) -> str:
    num_covered = sum(member.advice.heads is not None for member in members)
    are = "is" if len(members) == 1 else "are"
    if not head_counts:
        return f"None of {_devices(len(members))} {are} covered."
    count = f"{len(head_counts)} head count{'s' * (len(head_counts) != 1)}: k = {', '.join(map(str, head_counts))}"
    return f"{num_covered} of {_devices(len(members))} {are} covered by {count}."


def _uncovered(members: list[_Member]) -> Iterator[str]:
    """Why a device runs nothing, and what to do."""
    uncovered = [member for member in members if member.advice.heads is None]
    for member in uncovered[:_MOST_REASONS]:
        choice = member.advice.choice
        yield f"{member.name}: {choice.why if choice else f'no estimate, as {member.advice.why_unknown}'}."
    if more := uncovered[_MOST_REASONS:]:
        yield f"Not covered either: {', '.join(member.name for member in more)}."
    if uncovered:
        name = uncovered[0].name
        yield f"hydra-export profile --device {name} shows its other runtimes and how to time the model on it."


def _without_file(members: list[_Member], manifest: Manifest | None) -> Iterator[str]:
    for member in members:
        if manifest and member.advice.heads and not member.artifacts:
            device = f"{member.name}:{member.advice.path.runtime}"
            yield f"{member.name}: the bundle has no file for {device}. To export it: hydra-export --device {device}"


def _devices(count: int) -> str:
    return f"{count} device{'s' * (count != 1)}"


def _download_bytes(member: _Member, graph: str, manifest: Manifest | None) -> int | None:
    artifact = member.artifacts.get(graph)
    return manifest.fetch_bytes(artifact) if artifact and manifest else None


def _total_bytes(members: list[_Member], graph: str, manifest: Manifest | None) -> int:
    artifacts = [member.artifacts[graph] for member in members if graph in member.artifacts]
    return manifest.fetch_bytes(*artifacts) if manifest else 0


def _document(members: list[_Member], head_counts: list[int], manifest: Manifest | None) -> dict[str, Any]:
    rows = []
    for member in members:
        advice, path, k = member.advice, member.advice.path, member.advice.heads
        row: dict[str, Any] = {"device": member.name, "runtime": path.runtime, "unit": path.unit, "heads": k}
        row["budget_ms"] = advice.budget.ms
        row["why"] = advice.choice.why if advice.choice else advice.why_unknown
        if k is not None and advice.choice is not None:
            row |= {**advice.estimates[k].times, "sure": advice.choice.sure, "chance": advice.choice.chance}
        row["bytes"] = {graph: _download_bytes(member, graph, manifest) for graph in _GRAPHS}
        rows.append(row)
    return {
        "devices": rows,
        "heads": head_counts,
        "covered": sum(member.advice.heads is not None for member in members),
    }
