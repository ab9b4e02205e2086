"""The evidence: the usable records of every device, by the execution path that they were taken on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hydra_export.architecture import HydraConfig
from hydra_export.device import UNKNOWN, Cluster, DeviceProfile, LatencyRecord
from hydra_export.profiles import ResolvedProfile
from hydra_export.target import ComputeUnit

FLOAT, INT8 = "float", "int8"
# What a device computes in; fp32 files run in fp16 on an NPU, and sources often say only "float".
_ARITHMETIC = {"fp32": FLOAT, "fp16": FLOAT, "bf16": FLOAT, "unknown": FLOAT}
_LITTLE_CORES = ("A53", "A55", "A510", "A520", "Silver", "E", "Icestorm", "Blizzard", "Thunder", "Sawtooth")


@dataclass(frozen=True)
class Workload:
    """What the time of a universal model depends on.

    Attributes:
        tokens: sequence length.
        full: GMACs of the whole model, whether or not its largest head count is among *heads*.
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

    @classmethod
    def of(cls, name: str, config: HydraConfig, heads: Iterable[int], accuracy: Mapping[int, float]) -> Workload:
        """The subnetworks *heads* of a model with architecture *config*."""
        heads = list(heads)
        gmacs = {k: config.macs(k) / 1e9 for k in heads}
        params = {k: config.num_params(k) for k in heads}
        full = config.macs(config.heads) / 1e9
        return cls(name, config.image_size, config.num_tokens, full, gmacs, accuracy, params)

    def only(self, heads: Iterable[int]) -> Workload:
        """The subnetworks *heads*, which are among these."""
        heads = list(heads)
        return replace(self, gmacs={k: self.gmacs[k] for k in heads}, params={k: self.params[k] for k in heads})


# The head counts that the HydraViT paper trains. Accuracies: arXiv 2605.22677, of the same group, which says no others.
REFERENCE_CONFIG = HydraConfig(heads=12)
REFERENCE = Workload.of("hydravit_base_patch16_224", REFERENCE_CONFIG, range(3, 13), {3: 73.0, 6: 78.4})


@dataclass(frozen=True, order=True)
class ExecutionPath:
    """How a model runs on a device. *arithmetic*: ``float``, ``int8`` or a mixed format."""

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


@dataclass(frozen=True)
class UsableRecord:
    """A record that estimates may rest on. *own*: the user's, which outranks others."""

    record: LatencyRecord
    own: bool


class Evidence:
    """The usable records of all devices: one image at a time, not suspect, not only an estimate."""

    def __init__(self, profiles: Mapping[str, ResolvedProfile]) -> None:
        self.profiles: dict[str, DeviceProfile] = {name: entry.profile for name, entry in profiles.items()}
        self._usable: dict[str, dict[ExecutionPath, list[UsableRecord]]] = {}
        for name, entry in profiles.items():
            for record in entry.profile.latency:
                if record.batch == 1 and not record.suspect and record.provenance not in ("estimated", UNKNOWN):
                    usable = UsableRecord(record, own=record in entry.own)
                    self._usable.setdefault(name, {}).setdefault(path_of(record), []).append(usable)

    def paths(self, device: str) -> list[ExecutionPath]:
        """The execution paths that were timed on a device."""
        return sorted(self._usable.get(device, {}))

    def records(self, device: str, path: ExecutionPath, model: Workload) -> list[UsableRecord]:
        """The records that speak for *model*, the best of their kind alone: the user's, else of its own shape."""
        speaking = [usable for usable in self._usable.get(device, {}).get(path, ()) if speaks_for(usable.record, model)]
        own = [usable for usable in speaking if usable.own]
        return own or [usable for usable in speaking if usable.record.k is not None] or speaking

    def sizes(self, model: Workload) -> list[tuple[float, int]]:
        """GMACs and resolution of the whole models that were timed anywhere; empty where some speak for *model*."""
        records = [u.record for paths in self._usable.values() for usable in paths.values() for u in usable]
        if any(speaks_for(record, model) for record in records):
            return []
        return sorted({(record.model_gmacs, record.resolution) for record in records if record.k is not None})

    def relatives(self, device: str, path: ExecutionPath) -> list[tuple[str, float]]:
        """Devices whose time on the same *path* says something of this one's, and the factor that it takes.

        On a CPU: of the same largest core, with as many small ones among the four that work, by their clocks. On an
        NPU: with the same NPU where its name is known, else, as on a GPU, of the same family. A stand-in (its chip is
        not the one it is named for) is nobody's relative.
        """
        mine = self.profiles[device]
        others = [name for name in self._usable if name != device and not self.profiles[name].stand_in]
        if path.unit != "cpu":
            family = [name for name in others if mine.family and self.profiles[name].family == mine.family]
            npu = mine.facts.npu if path.unit == "npu" else None
            npus = {name: self.profiles[name].facts.npu for name in family}
            return [(n, 1.0) for n, fact in npus.items() if npu is None or (fact and fact.value == npu.value)]
        working = _working(mine)
        return [
            (name, _clock(theirs) / _clock(working))
            for name in others
            if working and (theirs := _working(self.profiles[name])) and _kind(working) == _kind(theirs)
        ]

    def phones(self, device: str) -> list[str]:
        """All other phones, for a phone."""
        phones = [name for name in self._usable if self.profiles[name].device_class == "phone"]
        return [name for name in phones if name != device and self.profiles[device].device_class == "phone"]


def speaks_for(record: LatencyRecord, model: Workload) -> bool:
    """Is the record of a model about as large as *model*, on images as large?

    Another architecture (no head count) may differ in resolution where its sequence is about as long.
    """
    if not 0.5 <= model.full / record.model_gmacs <= 2:
        return False
    if record.resolution == model.resolution:
        return True
    return record.k is None and record.tokens is not None and 0.5 <= model.tokens / record.tokens <= 2


def _working(profile: DeviceProfile) -> list[Cluster]:
    """The four fastest cores, which do the work of a model; none where a clock is not known."""
    clusters = profile.facts.cpu.value if profile.facts.cpu else ()
    if not all(cluster.ghz for cluster in clusters):
        return []
    return [cluster for cluster in clusters for _ in range(cluster.cores)][:4]


def _clock(cores: list[Cluster]) -> float:
    return sum(core.ghz or 0 for core in cores)


def _kind(cores: list[Cluster]) -> tuple[str, int]:
    """The largest core, and the number of little ones."""
    return cores[0].core, sum(core.core.startswith(_LITTLE_CORES) for core in cores)
