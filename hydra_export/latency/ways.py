"""In which ways could this device run a model, and which of them is the one to speak of?"""

from __future__ import annotations

from dataclasses import dataclass

from hydra_export import profiles
from hydra_export.device import FORMATS, ComputeUnit, DeviceProfile
from hydra_export.errors import BadInput, UnknownName
from hydra_export.latency.estimate import Estimate, estimates
from hydra_export.latency.evidence import FLOAT, INT8, Evidence, Model, Way, arithmetic

__all__ = ["FORMATS", "Option", "default_way", "known_ways"]

# Whose chips alone a runtime is for; those of the second row are also sold as cards for other computers.
_MAKERS = {"coreml": "Apple", "tensorrt": "Jetson", "qnn": "Qualcomm", "rknn": "Rockchip"}
_MAKERS_OF_CARDS = {"hailort": "Hailo", "axengine": "Axera"}
_HANDHELD = ("phone", "tablet")
_LAST = ("ncnn",)  # evidence for CPUs; it takes our files only by way of a converter of its own


@dataclass(frozen=True)
class Option:
    """One way with its estimates, which are never empty."""

    way: Way
    estimates: dict[int, Estimate]

    @property
    def whole(self) -> Estimate:
        """Of the largest head count."""
        return self.estimates[max(self.estimates)]


def known_ways(
    evidence: Evidence, device: str, model: Model, *, runtime: str = "", precision: str = ""
) -> list[Option]:
    """Every way of running *model* on *device* of which something is known, the best known and fastest first.

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
    wanted = (arithmetic(precision),) if precision else (FLOAT, INT8)
    usual = _usual(evidence.profiles[device])
    listed = dict.fromkeys([*usual, *evidence.ways(device), *(_asked(runtime, usual) if runtime else ())])
    both = [Way(way.runtime, kind, way.unit) for way in listed for kind in wanted]
    ways = [way for way in dict.fromkeys(both) if not runtime or way.runtime == runtime]
    options = [Option(way, found) for way in ways if (found := estimates(evidence, device, way, model))]

    def rank(option: Option) -> tuple[bool, bool, bool, int, int, float]:
        way, distance = option.way, option.whole.distance
        accelerated = way.unit != "cpu" and distance == 0
        place = usual.index(floating) if (floating := Way(way.runtime, FLOAT, way.unit)) in usual else len(usual)
        order = place if distance else 0
        return way.runtime in _LAST, not accelerated, way.arithmetic != FLOAT, distance, order, option.whole.ms

    return sorted(options, key=rank)


def runtimes(evidence: Evidence, device: str) -> list[str]:
    """What may run on a device: what was timed there, and what is not for other makers' chips alone."""
    profile, timed = evidence.profiles[device], {way.runtime for way in evidence.ways(device)}
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


def default_way(evidence: Evidence, device: str, model: Model, *, runtime: str = "", precision: str = "") -> Way:
    """The first of ``known_ways``, or, where nothing is known, the usual one."""
    options = known_ways(evidence, device, model, runtime=runtime, precision=precision)
    if options:
        return options[0].way
    profile = evidence.profiles[device]
    usual = evidence.ways(device) if profile.device_class == "accelerator" else _usual(profile)
    way = (_asked(runtime, usual) if runtime else usual or _usual(profile))[0]
    return Way(way.runtime, arithmetic(precision or FLOAT), way.unit)


def _usual(profile: DeviceProfile) -> list[Way]:
    """How this class of device runs our files, without special tools."""
    if profile.family == "Apple":
        pairs = [("coreml", "npu"), ("onnxruntime", "cpu")]
    elif profile.device_class in ("phone", "tablet"):
        units = ("npu", "cpu") if profile.family == "Qualcomm" else ("cpu",)
        pairs = [(runtime, unit) for unit in units for runtime in ("litert", "onnxruntime")]
    else:
        pairs = [("onnxruntime", "cpu"), ("litert", "cpu")]
    return [_way(runtime, unit) for runtime, unit in pairs]


def _asked(runtime: str, usual: list[Way]) -> list[Way]:
    """Where *runtime* runs, if this device is none of those that it is usual on."""
    units: dict[str, ComputeUnit] = {"tensorrt": "gpu", "qnn": "npu", "hailort": "npu", "axengine": "npu"}
    units |= {"rknn": "npu", "coreml": "npu"}
    return [way for way in usual if way.runtime == runtime] or [_way(runtime, units.get(runtime, "cpu"))]


def _way(runtime: str, unit: str) -> Way:
    return Way(runtime, FLOAT, unit)  # type: ignore[arg-type]  # one of the literals above
