"""The execution paths of a device: how it could run a model, and which of them is meant where none is named."""

from __future__ import annotations

from dataclasses import dataclass

from hydra_export import profiles
from hydra_export.device import FORMATS, ComputeUnit, DeviceProfile
from hydra_export.errors import BadInput, UnknownName
from hydra_export.latency.estimate import Estimate, estimates
from hydra_export.latency.evidence import FLOAT, INT8, Evidence, ExecutionPath, Workload, arithmetic

__all__ = ["FORMATS", "PathEstimates", "known_paths", "usual_path"]

# Whose chips alone a runtime is for; those of the second row are also sold as cards for other computers.
_MAKERS = {"coreml": "Apple", "tensorrt": "Jetson", "qnn": "Qualcomm", "rknn": "Rockchip"}
_MAKERS_OF_CARDS = {"hailort": "Hailo", "axengine": "Axera"}
_HANDHELD = ("phone", "tablet")
_LAST = ("ncnn",)  # evidence for CPUs; it takes our files only by way of a converter of its own


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
        runtime: only this one. *precision*: only fp32 and fp16, which devices compute alike, or only int8.

    Raises:
        UnknownName: no such runtime.
        BadInput: none that this device could have.
    """
    if runtime and runtime not in FORMATS:
        raise UnknownName("runtime", runtime, FORMATS)
    has = runtimes(evidence, device)
    if runtime and runtime not in has:
        raise BadInput(f"{evidence.profiles[device].name} does not run {runtime}.", f"It runs {', '.join(has)}.")
    kinds = (arithmetic(precision),) if precision else (FLOAT, INT8)
    usual = _usual(evidence.profiles[device])
    candidates = dict.fromkeys([*usual, *evidence.paths(device), *(_paths_in(runtime, usual) if runtime else ())])
    both = [ExecutionPath(path.runtime, kind, path.unit) for path in candidates for kind in kinds]
    paths = [path for path in dict.fromkeys(both) if not runtime or path.runtime == runtime]
    each = ((path, estimates(evidence, device, path, model)) for path in paths)
    options = [PathEstimates(path, by_heads) for path, by_heads in each if by_heads]

    def rank(option: PathEstimates) -> tuple[bool, bool, bool, int, int, float]:
        path, distance = option.path, option.whole.distance
        accelerated = path.unit != "cpu" and distance == 0
        floating = ExecutionPath(path.runtime, FLOAT, path.unit)
        place = usual.index(floating) if floating in usual else len(usual)
        order = place if distance else 0
        return path.runtime in _LAST, not accelerated, path.arithmetic != FLOAT, distance, order, option.whole.ms

    return sorted(options, key=rank)


def runtimes(evidence: Evidence, device: str) -> list[str]:
    """The runtimes of a device: those timed there, and those that are not for other makers' chips alone."""
    profile, timed = evidence.profiles[device], {path.runtime for path in evidence.paths(device)}
    return [name for name in FORMATS if name in timed or _may_run(profile, name)]


def _may_run(profile: DeviceProfile, runtime: str) -> bool:
    if profile.family not in {entry.profile.family for entry in profiles.packaged().values()} - {""}:
        return True  # a device of the user's, whose chip we do not know
    maker = (_MAKERS | _MAKERS_OF_CARDS).get(runtime)
    if profile.device_class == "accelerator" or runtime in _MAKERS:
        return maker == profile.family
    if profile.device_class in _HANDHELD:
        return maker is None and runtime != "openvino"
    return True


def usual_path(evidence: Evidence, device: str, *, runtime: str = "", precision: str = "") -> ExecutionPath:
    """The path to speak of where no time is known on any."""
    profile = evidence.profiles[device]
    usual = evidence.paths(device) if profile.device_class == "accelerator" else _usual(profile)
    path = (_paths_in(runtime, usual) if runtime else usual or _usual(profile))[0]
    return ExecutionPath(path.runtime, arithmetic(precision or FLOAT), path.unit)


def _usual(profile: DeviceProfile) -> list[ExecutionPath]:
    """How this class of device runs our files, without special tools."""
    if profile.family == "Apple":
        pairs = [("coreml", "npu"), ("onnxruntime", "cpu")]
    elif profile.device_class in ("phone", "tablet"):
        units = ("npu", "cpu") if profile.family == "Qualcomm" else ("cpu",)
        pairs = [(runtime, unit) for unit in units for runtime in ("litert", "onnxruntime")]
    else:
        pairs = [("onnxruntime", "cpu"), ("litert", "cpu")]
    return [_float_path(runtime, unit) for runtime, unit in pairs]


def _paths_in(runtime: str, usual: list[ExecutionPath]) -> list[ExecutionPath]:
    """Where *runtime* runs, if this device is none of those that it is usual on."""
    units: dict[str, ComputeUnit] = {"tensorrt": "gpu", "qnn": "npu", "hailort": "npu", "axengine": "npu"}
    units |= {"rknn": "npu", "coreml": "npu"}
    return [path for path in usual if path.runtime == runtime] or [_float_path(runtime, units.get(runtime, "cpu"))]


def _float_path(runtime: str, unit: str) -> ExecutionPath:
    return ExecutionPath(runtime, FLOAT, unit)  # type: ignore[arg-type]  # one of the literals above
