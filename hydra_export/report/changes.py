"""What changed since another bundle, and which of it is a step back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from hydra_export.bench import Comparison, Report, compare
from hydra_export.bundle import Manifest
from hydra_export.report import words
from hydra_export.report.devices import DeviceTimes
from hydra_export.report.facts import Product, products

# What is a step back, and not noise: in percentage points of top-1, as a factor of bytes, as shares of what parity
# allows, and as a share of the time.
ACCURACY_POINTS, SIZE_FACTOR, PARITY_SHARE, LATENCY_SHARE = 0.1, 1.01, 0.5, 0.10
_EPSILON = 1e-9


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One fact that is another now; empty where it was not there."""

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
        shares: the worst error over its head counts, as a share of what is allowed; of int8 None.
        accuracy: the worst change of int8's top-1, in points.
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
    """The same artifact timed in the same way; *ratio* of medians with its 95 % interval."""

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
        """It is not by chance alone."""
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
    devices: Sequence[tuple[DeviceTimes, DeviceTimes]],
    reports: tuple[Report, Report] | None = None,
) -> Changes:
    """The difference between two bundles.

    Args:
        against: what the old one is called.
        devices: what is known of the old model and of the new.
        reports: times of the old bundle and of the new, where both were measured.
    """
    accuracies = tuple(_accuracies(old, new))
    artifacts = tuple(_artifacts(old, new))
    choices = tuple(_choices(old, new, devices))
    compared = [_latency(each) for each in compare(reports[1], reports[0])[0]] if reports else []
    other_machine = reports is not None and reports[0].machine.says != reports[1].machine.says
    return Changes(
        against=against,
        facts=tuple(_facts(old, new)),
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


def _facts(old: Manifest, new: Manifest) -> Iterator[Change]:
    pairs = [_told(manifest) for manifest in (old, new)]
    yield from _differing(*pairs)
    config = [msgspec.to_builtins(manifest.model.config) for manifest in (old, new)]
    data = [msgspec.to_builtins(manifest.model.preprocessing) for manifest in (old, new)]
    for then, now in (config, data):
        yield from _differing(*({name: _text(value) for name, value in each.items()} for each in (then, now)))


def _told(manifest: Manifest) -> dict[str, str]:
    model = manifest.model
    return {
        "name": model.name,
        "checkpoint": model.checkpoint_sha256,
        "head counts": ", ".join(str(entry.heads) for entry in model.subnetworks),
        "licence": model.license,
        "labels": ", ".join(model.labels),
        "accuracy measured on": model.accuracy_data,
        "parity measured on": manifest.images,
    }


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
    for place in dict.fromkeys([*now, *then]):
        before, after = then.get(place), now.get(place)
        told = after or before
        assert told is not None
        yield ArtifactChange(
            path=told.path,
            kind=told.kind,
            heads=told.heads,
            status=_status(before, after),
            bytes_before=before.fetch_bytes if before else None,
            bytes_after=after.fetch_bytes if after else None,
            share_before=before.worst.share if before else None,
            share_after=after.worst.share if after else None,
            accuracy_before=_worst_accuracy(before),
            accuracy_after=_worst_accuracy(after),
        )


def _choices(
    old: Manifest, new: Manifest, devices: Sequence[tuple[DeviceTimes, DeviceTimes]]
) -> Iterator[ChoiceChange]:
    then, now = ({(e.id, e.runtime): e for e in manifest.devices} for manifest in (old, new))
    for key in dict.fromkeys([*now, *then]):
        was, one = then.get(key), now.get(key)
        before, after = (entry.heads if entry else None for entry in (was, one))
        if before != after:
            told = one or was
            assert told is not None
            yield ChoiceChange(device=f"{told.name} ({told.runtime})", before=before, after=after)
    chosen = {device for device, _ in (*then, *now)}
    for known_then, known_now in devices:
        if known_then.choice != known_now.choice and known_now.id not in chosen:
            yield ChoiceChange(device=known_now.name, before=known_then.choice, after=known_now.choice)


def _by_place(manifest: Manifest) -> dict[str, Product]:
    """Artifacts by their path, without the model's name: another one may be called otherwise."""
    name = manifest.model.name
    return {product.path.replace(f"/{name}-", "/", 1): product for product in products(manifest)}


def _status(before: Product | None, after: Product | None) -> Literal["added", "removed", "changed", "same"]:
    if before is None:
        return "added"
    if after is None:
        return "removed"
    same = (before.sha256, before.fetch_bytes, before.proofs) == (after.sha256, after.fetch_bytes, after.proofs)
    return "same" if same else "changed"


def _worst_accuracy(product: Product | None) -> float | None:
    known = [p.accuracy_change for p in product.proofs if p.accuracy_change is not None] if product else []
    return min(known, default=None)


def _latency(compared: Comparison) -> LatencyChange:
    timing = compared.timing
    return LatencyChange(
        path=timing.path,
        heads=timing.heads,
        runtime=timing.runtime,
        threads=timing.threads,
        before_ms=compared.old_ms,
        after_ms=timing.median_ms,
        ratio=compared.ratio,
        low=compared.low,
        high=compared.high,
        slower=compared.regressed(LATENCY_SHARE),
    )


# Steps back


def _less_accurate(listed: Sequence[AccuracyChange]) -> Iterator[str]:
    for each in listed:
        if each.before is not None and each.after is None:
            yield f"Top-1 at k = {each.heads} is not known any more; it was {words.accuracy(each.before)}."
        elif each.before is not None and each.after is not None and _fell(each.before, each.after):
            fall = f"{words.accuracy(each.before)} to {words.accuracy(each.after)}"
            yield f"Top-1 at k = {each.heads} went from {fall} ({words.points(each.after - each.before)})."


def _fell(before: float, after: float) -> bool:
    return before - after > ACCURACY_POINTS + _EPSILON


def _worse_artifacts(listed: Sequence[ArtifactChange]) -> Iterator[str]:
    for each in listed:
        if each.status == "removed":
            yield f"{each.path} is not there any more."
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
        drops = each.accuracy_before, each.accuracy_after
        if drops[0] is not None and drops[1] is not None and _fell(drops[0], drops[1]):
            yield f"{each.path} changes top-1 by {words.points(drops[1])}, not by {words.points(drops[0])}."


def _smaller_choices(listed: Sequence[ChoiceChange]) -> Iterator[str]:
    for each in listed:
        if each.before is not None and each.after is None:
            yield f"{each.device} has no choice any more; it was k = {each.before}."
        elif each.before is not None and each.after is not None and each.after < each.before:
            yield f"{each.device} is to run k = {each.after}, not k = {each.before}."


def _slower(listed: Sequence[LatencyChange]) -> Iterator[str]:
    for each in listed:
        if each.slower:
            interval = words.ratios(each.low, each.high)
            yield (
                f"{each.path} at k = {each.heads} takes {words.milliseconds(each.after_ms)} in {each.runtime}, not "
                f"{words.milliseconds(each.before_ms)} ({words.ratio(each.ratio)}, 95 % interval {interval})."
            )
