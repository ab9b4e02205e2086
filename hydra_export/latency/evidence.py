"""The evidence: the usable records of every device, by the execution path that they were taken on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from hydra_export import network, targets
from hydra_export.architecture import HydraConfig
from hydra_export.device import UNKNOWN, DeviceProfile, LatencyRecord
from hydra_export.latency.chips import Accelerator, accelerator
from hydra_export.latency.cores import cpu_speed, oversubscribed, usual_threads
from hydra_export.latency.kriging import Coordinates, Regression
from hydra_export.profiles import ResolvedProfile
from hydra_export.target import STATIC, ComputeUnit

FLOAT, INT8, INT8_STATIC, W8A16 = "float", "int8", *STATIC
ARITHMETIC_KINDS = (FLOAT, INT8, INT8_STATIC, W8A16)  # of our files
# What a device computes in; fp32 files run in fp16 on an NPU, and sources often say only "float".
_ARITHMETIC = {"fp32": FLOAT, "fp16": FLOAT, "bf16": FLOAT, "unknown": FLOAT}
_WITHOUT_CPU = ("accelerator", "microcontroller")  # or without one that runs a transformer, unless its cores are known
_SAME_SIZE = 0.02
_NO_CPU = (1.0, 1.0)  # speed, and how its logarithm scatters, where no device's is known
_LEAST_SCATTER = 0.4  # of the speeds of a class of devices, of which there may be few
# Standard deviations of the logarithm of a time: what a record has of its own.
_OWN = 0.04  # a user's measurement repeated
_RECORD = 0.12  # somebody else's: vit_base and deit_base, one shape, are 1.3-fold apart on one accelerator
_UNSTATED = 0.15  # the precision is not stated
OTHER_MODEL = 0.25  # of another architecture
_FROM_THROUGHPUT = 0.1  # images a second, which hide a pipeline
_STAND_IN = 0.25  # another chip than the one that it is named for
_OVERSUBSCRIBED = 0.35  # more threads than fast cores


@dataclass(frozen=True)
class Workload:
    """What the time of a universal model depends on.

    Attributes:
        tokens: sequence length.
        full: GMACs of the whole model, whether or not its largest head count is among *heads*; the size of a
            subnetwork alone decides on its time.
        gmacs: of one image, per head count.
        accuracy: top-1 in percent per head count, where it is known.
        params: per head count.
    """

    name: str
    resolution: int
    tokens: int
    full: float
    gmacs: Mapping[int, float]
    accuracy: Mapping[int, float]
    params: Mapping[int, int]
    depth: int = 12

    @classmethod
    def of(cls, name: str, config: HydraConfig, heads: Iterable[int], accuracy: Mapping[int, float]) -> Workload:
        """The subnetworks *heads* of a model with architecture *config*."""
        heads = list(heads)
        gmacs = {k: network.macs(config, k) / 1e9 for k in heads}
        params = {k: network.num_params(config, k) for k in heads}
        full = network.macs(config, config.heads) / 1e9
        return cls(name, config.resolution, config.num_tokens, full, gmacs, accuracy, params, config.depth)

    def only(self, heads: Iterable[int]) -> Workload:
        """The subnetworks *heads*, which are among these."""
        heads = list(heads)
        return replace(self, gmacs={k: self.gmacs[k] for k in heads}, params={k: self.params[k] for k in heads})


# The head counts that the HydraViT paper trains. Accuracies: arXiv 2605.22677, of the same group, which says no others.
REFERENCE_CONFIG = HydraConfig(heads=12)
REFERENCE = Workload.of("hydravit_base_patch16_224", REFERENCE_CONFIG, range(3, 13), {3: 73.0, 6: 78.4})


@dataclass(frozen=True, order=True)
class ExecutionPath:
    """How a model runs on a device. *arithmetic*: ``float``, a precision of integers, or a mixed format."""

    runtime: str
    arithmetic: str
    unit: ComputeUnit

    def __str__(self) -> str:
        return f"{self.runtime}, {self.arithmetic}, {self.unit.upper()}"


def arithmetic(precision: str) -> str:
    """What a file of this precision is computed in."""
    return _ARITHMETIC.get(precision, precision)


def path_of(record: LatencyRecord) -> ExecutionPath:
    return ExecutionPath(record.runtime, arithmetic(record.precision), record.unit)


def in_browser(path: ExecutionPath) -> bool:
    return bool(targets.device_runtimes()[path.runtime].browser)


@dataclass(frozen=True)
class UsableRecord:
    """A record that estimates may rest on. *own*: the user's, which outranks others."""

    device: str
    record: LatencyRecord
    own: bool


class Evidence:
    """The usable records of all devices: one image at a time, not suspect, not only an estimate.

    Of several of one network on one path those count that are the newest, and on one path of a device the user's
    outrank all others. What ran in a browser is evidence for nothing but itself.
    """

    def __init__(self, profiles: Mapping[str, ResolvedProfile]) -> None:
        self.profiles: dict[str, DeviceProfile] = {name: entry.profile for name, entry in profiles.items()}
        self._usable: dict[str, dict[ExecutionPath, list[UsableRecord]]] = {}
        self._in_browsers: dict[str, dict[ExecutionPath, list[UsableRecord]]] = {}
        for name, entry in profiles.items():
            grouped: dict[ExecutionPath, list[UsableRecord]] = {}
            for record in entry.profile.latency:
                if record.batch == 1 and not record.suspect and record.provenance not in ("estimated", UNKNOWN):
                    usable = UsableRecord(name, record, own=record in entry.own)
                    grouped.setdefault(path_of(record), []).append(usable)
            best = {path: _newest(_best(usable)) for path, usable in grouped.items()}
            self._usable[name] = {path: usable for path, usable in best.items() if not in_browser(path)}
            self._in_browsers[name] = {path: usable for path, usable in best.items() if in_browser(path)}
        self._fields: dict[tuple[int, int], Regression] = {}

    def paths(self, device: str) -> list[ExecutionPath]:
        """The execution paths that were timed on a device, without those in browsers."""
        return sorted(self._usable.get(device, {}))

    def browser_paths(self, device: str) -> list[ExecutionPath]:
        """Those in browsers."""
        return sorted(self._in_browsers.get(device, {}))

    def records(self, device: str, path: ExecutionPath) -> list[UsableRecord]:
        return (self._in_browsers if in_browser(path) else self._usable).get(device, {}).get(path, [])

    @cached_property
    def all(self) -> list[UsableRecord]:
        """The records of all devices in an arithmetic that files of ours have."""
        return [
            usable
            for name, paths in self._usable.items()
            for path, records in paths.items()
            if path.arithmetic in ARITHMETIC_KINDS and self.point(name, path) is not None
            for usable in records
        ]

    def field(self, model: Workload) -> Regression:
        """What all records say; *model* tells the sequence length of those that have its resolution."""
        key = model.resolution, model.tokens
        if key not in self._fields:
            points = [self.point_of(usable, model) for usable in self.all]
            self._fields[key] = Regression(points, [usable.record.ms for usable in self.all])
        return self._fields[key]

    def point(self, device: str, path: ExecutionPath, threads: int | None = None) -> Coordinates | None:
        """A ViT-B on one path of a device; None where nothing is known of its place among others."""
        profile = self.profiles[device]
        speed, vague = None, 0.0
        if path.unit == "cpu":
            line, speed = "cpu", cpu_speed(profile, threads)
            if speed is None and profile.device_class not in _WITHOUT_CPU:
                speed, vague = self._speeds.get(profile.device_class) or self._speeds.get("", _NO_CPU)
        else:
            line, _ = self._place(device, path)
            if chip := self._chip(device, path):
                speed = chip.speed
            elif any(timed.unit == path.unit for timed in self.paths(device)):
                speed, vague = 1.0, _NO_CPU[1]
        if speed is None:
            return None
        return Coordinates(
            unit=path.unit,
            line=line,
            soc=soc_name(self, device),
            device=device,
            runtime=path.runtime,
            kernels=targets.device_runtimes()[path.runtime].kernels or path.runtime,
            arithmetic=path.arithmetic,
            log_speed=math.log(speed),
            vague=vague,
            threads=threads or usual_threads(profile) if path.unit == "cpu" else None,
            gmacs=1.0,
            tokens=1,
        )

    def speaks_for(self, device: str, path: ExecutionPath) -> bool:
        """Does any record say what *path* takes on *device*?

        CPUs are alike in all runtimes, but for integer activations, for which some runtimes have fast kernels and
        others none. On accelerators the same runtime has to be timed on the same line; and where chips of a tier were
        timed in other arithmetic alone, it is not known that they compute in this one.
        """
        if self.point(device, path) is None:
            return False
        line, tier = self._place(device, path)
        if path.unit == "cpu":
            on_cpus = [timed for _, _, timed in self._timed if timed.unit == "cpu"]
            return path in on_cpus or any(
                timed.arithmetic == path.arithmetic for timed in on_cpus if path.arithmetic not in STATIC
            )
        of_tier = {timed.arithmetic for one, other, timed in self._timed if (one, other) == (line, tier)}
        return any(one == line and timed == path for one, _, timed in self._timed) and (
            not of_tier or path.arithmetic in of_tier
        )

    @cached_property
    def _timed(self) -> set[tuple[str, str, ExecutionPath]]:
        """The lines and tiers of what was timed, and how."""
        paths = {(usable.device, path_of(usable.record)) for usable in self.all}
        return {(*self._place(device, path), path) for device, path in paths}

    def _place(self, device: str, path: ExecutionPath) -> tuple[str, str]:
        chip = self._chip(device, path)
        return (chip.line, chip.tier) if chip else (f"{path.unit} of {device}", "")

    def _chip(self, device: str, path: ExecutionPath) -> Accelerator | None:
        """What *path* uses; a GPU is one of a line in its maker's runtime alone, whose kernels use all of it."""
        makers = targets.device_runtimes()[path.runtime].maker
        return accelerator(self.profiles[device], path.unit) if path.unit != "gpu" or makers else None

    def point_of(self, usable: UsableRecord, model: Workload) -> Coordinates:
        record = usable.record
        point = self.point(usable.device, path_of(record), record.threads)
        assert point is not None
        noise = self._noise(usable)
        return replace(point, gmacs=record.gmacs, tokens=tokens_of(record, model), noise=noise)

    def _noise(self, usable: UsableRecord) -> float:
        record, profile = usable.record, self.profiles[usable.device]
        if usable.own:
            return _OWN
        doubts = {
            _RECORD: True,
            _UNSTATED: record.precision == "unknown",
            OTHER_MODEL: record.k is None,
            _FROM_THROUGHPUT: record.statistic == "from_throughput",
            _STAND_IN: profile.stand_in,
            _OVERSUBSCRIBED: oversubscribed(profile, record),
        }
        return math.hypot(*(doubt for doubt, applies in doubts.items() if applies))

    @cached_property
    def _speeds(self) -> dict[str, tuple[float, float]]:
        """Of the CPUs of each class of device, and of all: the usual speed, and how its logarithm scatters."""
        logs: dict[str, list[float]] = {}
        for profile in self.profiles.values():
            if speed := cpu_speed(profile, None):
                for kind in (profile.device_class, ""):
                    logs.setdefault(kind, []).append(math.log(speed))
        return {
            kind: (math.exp(statistics.mean(each)), max(statistics.pstdev(each), _LEAST_SCATTER))
            for kind, each in logs.items()
        }


def tokens_of(record: LatencyRecord, model: Workload) -> int:
    """Sequence length of what was timed; records of head counts at a model's resolution are of its patches."""
    if record.tokens:
        return record.tokens
    return model.tokens if record.k and record.resolution == model.resolution else (record.resolution // 16) ** 2 + 1


def soc_name(evidence: Evidence, device: str) -> str:
    """The chip that a device's records speak of: one vote each. Made faster for one phone, it is still that chip."""
    fact = evidence.profiles[device].facts.soc
    return fact.value.removesuffix(" for Galaxy") if fact else device


def _best(records: list[UsableRecord]) -> list[UsableRecord]:
    return [usable for usable in records if usable.own] or records


def _newest(records: list[UsableRecord]) -> list[UsableRecord]:
    """Of each size, on as many threads, those with the newest date, if any has one."""
    groups: dict[tuple[object, ...], list[UsableRecord]] = {}
    for usable in records:
        record = usable.record
        size = round(math.log(record.gmacs) / _SAME_SIZE), record.resolution, record.threads
        groups.setdefault(size, []).append(usable)
    return [usable for group in groups.values() for usable in group if _date(usable) == max(map(_date, group))]


def _date(usable: UsableRecord) -> str:
    return "" if usable.record.date == UNKNOWN else usable.record.date
