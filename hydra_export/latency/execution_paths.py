"""The execution paths of a device: how it could run a model, and which of them is meant where none is named."""

from __future__ import annotations

from dataclasses import dataclass

from hydra_export import profiles, targets
from hydra_export.device import DeviceProfile
from hydra_export.errors import BadInput, UnknownName
from hydra_export.latency.estimate import Estimate, estimates
from hydra_export.latency.evidence import ARITHMETIC_KINDS, FLOAT, Evidence, ExecutionPath, Workload, arithmetic
from hydra_export.target import ComputeUnit, DeviceRuntime

_HANDHELD = ("phone", "tablet")


@dataclass(frozen=True)
class PathEstimates:
    """An execution path with its estimates, of which there is at least one."""

    path: ExecutionPath
    estimates: dict[int, Estimate]

    @property
    def whole(self) -> Estimate:
        """Of the largest head count."""
        return self.estimates[max(self.estimates)]


def known_paths(
    evidence: Evidence, device: str, model: Workload, *, runtime: str = "", precision: str = ""
) -> list[PathEstimates]:
    """Every execution path of *model* on *device* of which something is known, the best known and fastest first.

    Args:
        runtime: only this one. *precision*: only what computes in that; fp32 and fp16 are computed alike.

    Raises:
        UnknownName: no such runtime.
        BadInput: none that this device could have.
    """
    known = targets.device_runtimes()
    if runtime and runtime not in known:
        raise UnknownName("runtime", runtime, known)
    has = runtimes(evidence, device)
    if runtime and runtime not in has and not known[runtime].browser:
        raise BadInput(f"{evidence.profiles[device].name} does not run {runtime}.", f"It runs {', '.join(has)}.")
    kinds = (arithmetic(precision),) if precision else ARITHMETIC_KINDS
    usual = _usual(evidence.profiles[device])
    asked = [*_paths_in(runtime, usual), *evidence.browser_paths(device)] if runtime else []
    candidates = dict.fromkeys([*usual, *evidence.paths(device), *asked])
    both = [ExecutionPath(path.runtime, kind, path.unit) for path in candidates for kind in kinds]
    paths = [path for path in dict.fromkeys(both) if not runtime or path.runtime == runtime]
    options = [PathEstimates(p, by_heads) for p in paths if (by_heads := estimates(evidence, device, p, model))]

    def rank(option: PathEstimates) -> tuple[bool, bool, bool, int, int, float]:
        path, distance = option.path, option.whole.distance
        floating = ExecutionPath(path.runtime, FLOAT, path.unit)
        place = usual.index(floating) if floating in usual else len(usual)
        accelerated = path.unit != "cpu" and (distance == 0 or floating in usual)
        far = min(distance, 1) if accelerated else distance
        order = place if distance else 0
        return known[path.runtime].converts, not accelerated, path.arithmetic != FLOAT, far, order, option.whole.ms

    return sorted(options, key=rank)


def runtimes(evidence: Evidence, device: str) -> list[str]:
    """The runtimes of a device: those timed there, and those that are not for other makers' chips alone.

    Browsers are not listed: every device may have one.
    """
    profile, timed = evidence.profiles[device], {path.runtime for path in evidence.paths(device)}
    known = {name: each for name, each in targets.device_runtimes().items() if not each.browser}
    return [name for name, each in known.items() if name in timed or _may_run(profile, each)]


def _may_run(profile: DeviceProfile, runtime: DeviceRuntime) -> bool:
    if profile.family not in {entry.profile.family for entry in profiles.packaged().values()} - {""}:
        return True  # a device of the user's, whose chip we do not know
    if profile.device_class == "accelerator" or (runtime.maker and not runtime.cards):
        return runtime.maker == profile.family
    if profile.device_class in _HANDHELD:
        return runtime.handheld and not runtime.maker
    return True


def usual_path(evidence: Evidence, device: str, *, runtime: str = "", precision: str = "") -> ExecutionPath:
    """The path to speak of where no time is known on any."""
    profile = evidence.profiles[device]
    usual = evidence.paths(device) if profile.device_class == "accelerator" else _usual(profile)
    path = (_paths_in(runtime, usual) if runtime else usual or _usual(profile))[0]
    return ExecutionPath(path.runtime, arithmetic(precision or FLOAT), path.unit)


def untold(evidence: Evidence, device: str, options: list[PathEstimates]) -> list[ExecutionPath]:
    """How a device usually runs our files, in what of that no time is known."""
    profile = evidence.profiles[device]
    told = {(option.path.runtime, option.path.unit) for option in options}
    usual = [] if profile.device_class in ("accelerator", "microcontroller") else _usual(profile)
    return [path for path in usual if (path.runtime, path.unit) not in told]


def _usual(profile: DeviceProfile) -> list[ExecutionPath]:
    """How this class of device runs our files, without special tools."""
    known = targets.device_runtimes().values()
    families = {family for runtime in known for family in runtime.usual}
    kind = "handheld" if profile.device_class in _HANDHELD else "other"
    kind = profile.family if profile.family in families else kind
    here = sorted((runtime for runtime in known if kind in runtime.usual), key=lambda runtime: runtime.usual[kind])
    if kind == "handheld":
        units: tuple[ComputeUnit, ...] = ("npu", "cpu") if profile.family == "Qualcomm" else ("cpu",)
        return [ExecutionPath(runtime.name, FLOAT, unit) for unit in units for runtime in here]
    return [ExecutionPath(runtime.name, FLOAT, runtime.unit) for runtime in here]


def _paths_in(runtime: str, usual: list[ExecutionPath]) -> list[ExecutionPath]:
    """Where *runtime* runs, if this device is none of those that it is usual on."""
    unit = targets.device_runtimes()[runtime].unit
    return [path for path in usual if path.runtime == runtime] or [ExecutionPath(runtime, FLOAT, unit)]
