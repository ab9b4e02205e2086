"""Times that a page measured in a browser: the record, what is checked of it, and what becomes of it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from hydra_export import board, documents, profiles, targets
from hydra_export.bench.save import time_fields
from hydra_export.bundle import Manifest
from hydra_export.device import DeviceClass, DeviceProfile, LatencyRecord, Match, is_date
from hydra_export.errors import BadInput
from hydra_export.latency import Workload
from hydra_export.profiles import ResolvedProfile
from hydra_export.target import ComputeUnit, Precision
from hydra_export.text import counted, kept

KIND = "hydra-export browser times"
SOURCE = "own-browser"
_SOURCES = {SOURCE: "hydra-export serve, measured by the device's browser"}
_MOST_SAMPLES = 100_000  # in one record
_MOST_LETTERS = 500  # of a text
_FEW_CALLS = 10
_UNITS: dict[str, ComputeUnit] = {"wasm": "cpu", "webgpu": "gpu"}
_BROWSER = re.compile(r"(Firefox|Edg|OPR|Chrome|Version)/\d{1,4}(?!.*(Edg|OPR)/)")  # Safari's is called Version
_DRIFTED = 1.1  # the last third's median over the first's, or the inverse, as in ``board.noise``

Text = Annotated[str, Meta(max_length=_MOST_LETTERS)]
Hex = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Meta(ge=1, le=4096)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
Milliseconds = Annotated[float, Meta(gt=0, le=1e7)]
AtLeast0 = Annotated[float, Meta(ge=0, le=1e9)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What has these fields and no others."""


class BrowserModel(_Strict, frozen=True, kw_only=True):
    """Which model was timed."""

    name: Text
    checkpoint_sha256: Annotated[str, Meta(max_length=64, pattern="^[0-9a-f]*$")]


class BrowserArtifact(_Strict, frozen=True, kw_only=True):
    """Which of its files."""

    path: Annotated[str, Meta(max_length=1024)]
    sha256: Hex
    precision: Precision


class BrowserFacts(_Strict, frozen=True, kw_only=True):
    """What the browser says of itself and its device; *model* is ``Build.MODEL`` on Android, elsewhere mostly empty."""

    user_agent: Text
    platform: Text
    platform_version: Text
    model: Text
    architecture: Text
    mobile: bool
    cores: Count
    memory_gb: Positive | None
    gpu: Text
    cross_origin_isolated: bool


class BrowserConditions(_Strict, frozen=True, kw_only=True):
    """*hidden*: the page was at some time; *drift*: the last third's median over the first's."""

    hidden: bool
    drift: Positive
    warmup_calls: Annotated[int, Meta(ge=0, le=1_000_000)]


class BrowserCheck(_Strict, frozen=True, kw_only=True):
    """The golden images' outputs: the largest *error*, and the one *allowed*, where that decides."""

    error: AtLeast0
    allowed: AtLeast0 | None
    passed: bool


class BrowserRecord(_Strict, frozen=True, kw_only=True):
    """One measurement: *checks* and *samples_ms*, one number a call, by head count."""

    kind: Literal["hydra-export browser times"]
    schema_version: Literal[1]
    date: str
    model: BrowserModel
    artifact: BrowserArtifact
    backend: Text
    version: Text
    provider: Literal["wasm", "webgpu"]
    threads: Count
    browser: BrowserFacts
    conditions: BrowserConditions
    checks: dict[Count, BrowserCheck]
    samples_ms: dict[Count, Annotated[tuple[Milliseconds, ...], Meta(min_length=1)]]


def decode(content: bytes, name: str) -> BrowserRecord:
    """The record in *content*, which is called *name*.

    Raises:
        BadInput: it is none, or contradicts itself; names the field.
    """
    remedy = "Pass the file that the playground saved, unchanged."
    try:
        record = documents.decode_json(content, BrowserRecord)
    except msgspec.DecodeError as error:
        message, _, place = str(error).rpartition(" - at `")
        said = f"{place.rstrip('`').lstrip('$.')}: {message}" if message else str(error)
        raise BadInput(f"{name} is not a record of browser times: {said}.", remedy) from error
    for problem in _problems(record):
        raise BadInput(f"{name}: {problem}.", remedy)
    return record


def records(record: BrowserRecord, model: Workload, name: str, manifest: Manifest | None) -> list[LatencyRecord]:
    """One record per head count.

    Args:
        model: whose times they have to be, that of *manifest* where it is given.

    Raises:
        BadInput: they are of another model or file.
    """
    for problem in _misfits(record, model, manifest):
        raise BadInput(f"{name}: {problem}.", "Pass the `bundle` that was served, and the record unchanged.")
    return [_record(record, heads, model, manifest) for heads in sorted(record.samples_ms)]


def save(
    record: BrowserRecord, found: list[LatencyRecord], folder: Path | None = None, device: str = ""
) -> tuple[ResolvedProfile, Path]:
    """Adds *found*, what ``records`` made of *record*, to the user's profiles.

    Args:
        folder: of these profiles. *device*: whose times they are; by default the one that the browser names, a new one
            where that is none of the known.

    Returns:
        the device, and the file.
    """

    def whose() -> DeviceProfile:
        return profiles.get(device, folder).profile if device else _device(record.browser, folder)

    name, path = profiles.add_measured(whose, found, _SOURCES, folder)
    return profiles.resolve(folder)[name], path


def _problems(record: BrowserRecord) -> Iterator[str]:
    if not is_date(record.date):
        yield f"date: '{record.date[:40]}' is not YYYY-MM-DD"
    elif record.date > (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).date().isoformat():
        yield f"date: {record.date} is in the future"
    known = targets.device_runtimes()
    browsers = [each.name for each in known.values() if each.browser]
    if record.backend not in browsers:
        yield f"backend: '{record.backend[:80]}' is not one of {', '.join(browsers)}"
    if not record.samples_ms:
        yield "samples_ms: is empty"
    if (total := sum(map(len, record.samples_ms.values()))) > _MOST_SAMPLES:
        yield f"samples_ms: {total:,} samples; at most {_MOST_SAMPLES:,} are allowed"
    for heads in record.samples_ms:
        check = record.checks.get(heads)
        if check is None or not check.passed:
            yield f"checks.{heads}: its outputs did not match the model's"
        elif check.allowed is not None and check.error > check.allowed:
            yield f"checks.{heads}: an error of {check.error:g} does not pass where {check.allowed:g} is allowed"


def _misfits(record: BrowserRecord, model: Workload, manifest: Manifest | None) -> Iterator[str]:
    """Where the record is not of this model and, as far as there is a manifest, of its files."""
    theirs = record.model
    if theirs.name != model.name:
        yield f"model.name: it is {theirs.name[:80]!r}, not {model.name}"
    if manifest is not None:
        if theirs.checkpoint_sha256 != manifest.model.checkpoint_sha256:
            yield f"model.checkpoint_sha256: it is of another {model.name} ({theirs.checkpoint_sha256[:19]})"
        yield from _of_no_artifact(record, manifest)
    if others := sorted(set(record.samples_ms) - set(model.gmacs)):
        yield f"samples_ms: {model.name} has no k = {others[0]}"


def _of_no_artifact(record: BrowserRecord, manifest: Manifest) -> Iterator[str]:
    theirs = record.artifact
    ours = next((each for each in manifest.artifacts if each.path == theirs.path), None)
    if ours is None or ours.sha256 != theirs.sha256:
        yield f"artifact: the bundle has no {theirs.path[:200]!r} with that hash"
        return
    if ours.precision != theirs.precision:
        yield f"artifact.precision: {ours.path} is {ours.precision}"
    if ours.target != targets.formats()[record.backend]:
        yield f"backend: {record.backend} does not run {ours.path}"
    if others := sorted(set(record.samples_ms) - set(ours.heads)):
        yield f"samples_ms: {ours.path} has no k = {others[0]}"


def _record(record: BrowserRecord, heads: int, model: Workload, manifest: Manifest | None) -> LatencyRecord:
    low, ms, high = (float(np.percentile(record.samples_ms[heads], share)) for share in (10, 50, 90))
    return LatencyRecord(
        model=model.name,
        k=heads,
        gmacs=model.gmacs[heads],
        model_gmacs=model.full,
        resolution=model.resolution,
        tokens=model.tokens,
        runtime=record.backend,
        runtime_version=kept(record.version) or "unknown",
        precision=record.artifact.precision,
        unit=_UNITS[record.provider],
        threads=record.threads if _UNITS[record.provider] == "cpu" else None,
        **time_fields(ms, low, high),
        statistic="median",
        date=record.date,
        provenance="measured",
        source=SOURCE,
        note=_note(record, heads, manifest),
    )


def _note(record: BrowserRecord, heads: int, manifest: Manifest | None) -> str:
    graphs = [each.graph for each in manifest.artifacts if each.path == record.artifact.path] if manifest else []
    said = [f"{graph} graph" for graph in graphs if graph != "separate"]
    said += [found[0]] if (found := _BROWSER.search(record.browser.user_agent)) else []
    said += [f"noisy: {', '.join(noise)}"] if (noise := [*_noise(record, heads)]) else []
    return ", ".join(said)


def _noise(record: BrowserRecord, heads: int) -> Iterator[str]:
    """Why these times may say little, in the words of ``board.noise`` and those of browsers."""
    samples, drift = record.samples_ms[heads], record.conditions.drift
    if record.conditions.hidden:
        yield "hidden"
    if len(samples) < _FEW_CALLS:
        yield "few calls"
    found = set(board.noise(samples, None)) | ({"drifted"} if not 1 / _DRIFTED < drift < _DRIFTED else set())
    yield from sorted(found)


def _device(browser: BrowserFacts, folder: Path | None) -> DeviceProfile:
    """The one that the browser names, or else one of its own, by what it says."""
    model = kept(browser.model).replace("*", "").strip()  # at the end, it would stand for any continuation
    if model:
        says = Match(android_model=(model,), source=SOURCE)
        found = profiles.match(says, folder)
        return found[0].profile if found else _new(model, "phone" if browser.mobile else "tablet", says, folder)
    system = " ".join(filter(None, map(_plain, (browser.platform, browser.architecture)))) or "Unknown device"
    name = f"{system}, {counted(browser.cores, 'core')}, known by its browser"
    before = [each.profile for each in profiles.resolve(folder).values() if each.own and each.profile.name == name]
    return before[0] if before else _new(name, "phone" if browser.mobile else "desktop", Match(), folder)


def _new(name: str, kind: DeviceClass, says: Match, folder: Path | None) -> DeviceProfile:
    name_of = profiles.new_id(_plain(name), profiles.resolve(folder))
    return DeviceProfile(id=name_of, name=name, device_class=kind, match=says, sources=_SOURCES)


def _plain(text: str) -> str:
    """Letters and digits, of which ids are made."""
    return " ".join(re.findall(r"[A-Za-z0-9]+", text))[:60]
