"""What changed since another bundle, and which of it is a step back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from hydra_export.bench import Comparison, Report, compare
from hydra_export.bundle import Manifest
from hydra_export.latency import Advice
from hydra_export.report import words
from hydra_export.report.facts import Product, derived, products

# What is a step back, and not noise: in percentage points of top-1, as a factor of bytes, as shares of what parity
# allows, and as a share of the time.
ACCURACY_POINTS, SIZE_FACTOR, PARITY_SHARE, LATENCY_SHARE = 0.1, 1.01, 0.5, 0.10
_EPSILON = 1e-9


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One fact that differs; empty in the bundle that does not have it."""

    what: str
    before: str
    after: str


class AccuracyChange(msgspec.Struct, frozen=True, kw_only=True):
    """Top-1 in percent at one head count."""

    heads: int
    before: float | None
    after: float | None


class ArtifactChange(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact then and now; None where there was or is none.

    Attributes:
        status: ``same``: not a byte differs.
        share_before, share_after: the worst error over its head counts, as a share of what is allowed; of int8 and its
            kind None.
        accuracy_before, accuracy_after: the worst change of their top-1, in points.
    """

    path: str
    kind: str
    heads: tuple[int, ...]
    status: Literal["added", "removed", "changed", "same"]
    bytes_before: int | None
    bytes_after: int | None
    share_before: float | None = None
    share_after: float | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None


class LatencyChange(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact timed twice in the same way; *ratio*: of the medians, with its 95 % interval."""

    path: str
    heads: int
    runtime: str
    threads: int
    before_ms: float
    after_ms: float
    ratio: float
    low: float
    high: float
    slower: bool

    @property
    def sure(self) -> bool:
        """Chance alone does not explain it."""
        return self.low > 1 or self.high < 1


class ChoiceChange(msgspec.Struct, frozen=True, kw_only=True):
    """The head count chosen for a device: by the bundles themselves, or else by what is known of it today."""

    device: str
    before: int | None
    after: int | None


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """All that differs from the bundle *against*; *regressions* in words."""

    against: str
    facts: tuple[Change, ...]
    accuracies: tuple[AccuracyChange, ...]
    artifacts: tuple[ArtifactChange, ...]
    tools: tuple[Change, ...]
    choices: tuple[ChoiceChange, ...]
    latencies: tuple[LatencyChange, ...]
    other_machine: bool
    regressions: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """The bundles do not differ."""
        altered = [each for each in self.artifacts if each.status != "same"]
        return not (self.facts or self.accuracies or altered or self.tools or self.choices or self.latencies)


def changes(
    against: str,
    old: Manifest,
    new: Manifest,
    devices: Sequence[tuple[Advice, Advice]],
    reports: tuple[Report, Report] | None = None,
) -> Changes:
    """The difference between two bundles.

    Args:
        against: what the old one is called.
        devices: the advice for the old model and for the new.
        reports: times of the old bundle and of the new, where both were measured.
    """
    accuracies = tuple(_accuracies(old, new))
    artifacts = tuple(_artifacts(old, new))
    choices = tuple(_choices(old, new, devices))
    compared = [_latency(each) for each in compare(reports[1], reports[0])[0]] if reports else []
    other_machine = reports is not None and reports[0].machine.says != reports[1].machine.says
    return Changes(
        against=against,
        facts=tuple(c for then, now in zip(_facts(old), _facts(new), strict=True) for c in _differing(then, now)),
        accuracies=accuracies,
        artifacts=artifacts,
        tools=tuple(_differing(old.tool, new.tool)),
        choices=choices,
        latencies=tuple(compared),
        other_machine=other_machine,
        regressions=(
            *_less_accurate(accuracies),
            *_worse_artifacts(artifacts),
            *_smaller_choices(choices),
            *([] if other_machine else _slower(compared)),
        ),
    )


def _facts(manifest: Manifest) -> Iterator[dict[str, str]]:
    """Of the model, of its architecture and of its preprocessing, which share some names."""
    model = manifest.model
    yield {
        "name": model.name,
        "checkpoint": model.checkpoint_sha256,
        "head counts": ", ".join(str(entry.heads) for entry in model.subnetworks),
        "licence": model.license,
        "labels": ", ".join(model.labels),
        "accuracy measured on": model.accuracy_data,
        "parity measured on": manifest.images,
    }
    for each in (model.config, model.preprocessing):
        yield {name: _text(value) for name, value in msgspec.to_builtins(each).items()}


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    for name in dict.fromkeys([*new, *old]):
        then, now = old.get(name, ""), new.get(name, "")
        if then != now:
            yield Change(what=name, before=then, after=now)


def _accuracies(old: Manifest, new: Manifest) -> Iterator[AccuracyChange]:
    then, now = ({s.heads: s.accuracy for s in manifest.model.subnetworks} for manifest in (old, new))
    for k in sorted(then.keys() & now.keys()):
        if then[k] != now[k]:
            yield AccuracyChange(heads=k, before=then[k], after=now[k])


def _artifacts(old: Manifest, new: Manifest) -> Iterator[ArtifactChange]:
    then, now = (_by_place(manifest) for manifest in (old, new))
    moved = {(then[place].kind, then[place].heads): place for place in then.keys() - now.keys()}
    for place in now.keys() - then.keys():  # files may be called otherwise now
        was = moved.pop((now[place].kind, now[place].heads), None)
        if was is not None:
            then[place] = then.pop(was)
    for place, either in {**now, **then, **now}.items():  # as in _choices
        before, after = then.get(place), now.get(place)
        yield ArtifactChange(
            path=either.path,
            kind=either.kind,
            heads=either.heads,
            status=_status(before, after),
            bytes_before=before.fetch_bytes if before else None,
            bytes_after=after.fetch_bytes if after else None,
            share_before=before.worst.share if before else None,
            share_after=after.worst.share if after else None,
            accuracy_before=_worst_accuracy(before),
            accuracy_after=_worst_accuracy(after),
        )


def _choices(old: Manifest, new: Manifest, devices: Sequence[tuple[Advice, Advice]]) -> Iterator[ChoiceChange]:
    then, now = ({(e.id, e.runtime): e for e in manifest.devices} for manifest in (old, new))
    for key, either in {**now, **then, **now}.items():  # today's order, and today's entry where both have one
        before, after = (entries[key].heads if key in entries else None for entries in (then, now))
        if before != after:
            yield ChoiceChange(device=f"{either.name} ({either.runtime})", before=before, after=after)
    chosen = {device for device, _ in (*then, *now)}
    for then_here, now_here in devices:
        if then_here.heads != now_here.heads and now_here.profile.id not in chosen:
            yield ChoiceChange(device=now_here.profile.name, before=then_here.heads, after=now_here.heads)


def _by_place(manifest: Manifest) -> dict[str, Product]:
    """Artifacts by their path, without the model's name: another one may be called otherwise."""
    name = manifest.model.name
    return {product.path.replace(f"/{name}-", "/", 1): product for product in products(manifest)}


def _status(before: Product | None, after: Product | None) -> Literal["added", "removed", "changed", "same"]:
    if before is None:
        return "added"
    if after is None:
        return "removed"
    same = (before.sha256, before.fetch_bytes, before.checks) == (after.sha256, after.fetch_bytes, after.checks)
    return "same" if same else "changed"


def _worst_accuracy(product: Product | None) -> float | None:
    falls = [c.accuracy_change for c in product.checks if c.accuracy_change is not None] if product else []
    return min(falls, default=None)


def _latency(compared: Comparison) -> LatencyChange:
    timing = compared.timing
    return derived(
        LatencyChange,
        timing,
        before_ms=compared.old_ms,
        after_ms=timing.median_ms,
        ratio=compared.ratio,
        low=compared.low,
        high=compared.high,
        slower=compared.regressed(LATENCY_SHARE),
    )


# Steps back


def _less_accurate(accuracies: Sequence[AccuracyChange]) -> Iterator[str]:
    for each in accuracies:
        if each.before is None:
            continue
        if each.after is None:
            yield f"Top-1 at k = {each.heads} is no longer known; it was {words.accuracy(each.before)}."
        elif _fell(each.before, each.after):
            fall = f"{words.accuracy(each.before)} to {words.accuracy(each.after)}"
            yield f"Top-1 at k = {each.heads} went from {fall} ({words.points(each.after - each.before)})."


def _fell(before: float, after: float) -> bool:
    return before - after > ACCURACY_POINTS + _EPSILON


def _worse_artifacts(artifacts: Sequence[ArtifactChange]) -> Iterator[str]:
    for each in artifacts:
        if each.status == "removed":
            yield f"{each.path} is gone."
            continue
        if each.status != "changed":
            continue
        before, after = each.bytes_before or 0, each.bytes_after or 0
        if after > before * SIZE_FACTOR:
            growth = words.ratio(after / before)
            yield f"{each.path} takes {words.size(after)} to fetch, not {words.size(before)} ({growth})."
        then, now = each.share_before, each.share_after
        if then is not None and now is not None and now > PARITY_SHARE and now > 2 * then:
            yield f"{each.path} is off by {words.share(now)} of what parity allows, not by {words.share(then)}."
        was, drop = each.accuracy_before, each.accuracy_after
        if was is not None and drop is not None and _fell(was, drop):
            yield f"{each.path} changes top-1 by {words.points(drop)}, not by {words.points(was)}."


def _smaller_choices(choices: Sequence[ChoiceChange]) -> Iterator[str]:
    for each in choices:
        if each.before is None:
            continue
        if each.after is None:
            yield f"{each.device} no longer has a choice; it was k = {each.before}."
        elif each.after < each.before:
            yield f"{each.device} is to run k = {each.after}, not k = {each.before}."


def _slower(latencies: Sequence[LatencyChange]) -> Iterator[str]:
    for each in latencies:
        if each.slower:
            interval = words.ratios(each.low, each.high)
            yield (
                f"{each.path} at k = {each.heads} takes {words.milliseconds(each.after_ms)} in {each.runtime}, not "
                f"{words.milliseconds(each.before_ms)} ({words.ratio(each.ratio)}, 95 % interval {interval})."
            )
