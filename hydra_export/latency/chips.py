"""What accelerators can do, relative to each other: by the chip that they are part of and the facts of its profile.

Only ratios within one line matter. They set what is expected before anything is timed; how far chips stray from them
is part of the model (``kriging``).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from hydra_export.device import DeviceProfile, Fact, Range, ends

_HTP, _ANE = "Hexagon HTP", "Apple Neural Engine"


@dataclass(frozen=True)
class Accelerator:
    """The NPU, or a GPU that is used as one, of a chip.

    Attributes:
        line: accelerators that differ in size and generation, and run the same compiled files.
        tier: chips of one tier follow each other; a flagship and a mid-range chip of a year do not compare.
        generation: which orders those of one tier; 0 where nothing does.
        speed: relative to others of the line, as its maker or its generation says.
    """

    line: str
    tier: str
    generation: float
    speed: float


# The chips of each tier of a line; the longest name that a profile's SoC begins with decides.
_TIERS: dict[tuple[str, str], tuple[str, ...]] = {
    (_HTP, "flagship"): (
        *("Snapdragon 888", "Snapdragon 8 Gen 1", "Snapdragon 8+ Gen 1", "Snapdragon 8 Gen 2", "Snapdragon 8 Gen 3"),
        *("Snapdragon 8 Elite", "Snapdragon 8 Elite Gen 5", "QCS8450", "QCS8550"),
    ),
    (_HTP, "upper"): (
        *("Snapdragon 7+ Gen 2", "Snapdragon 7+ Gen 3", "Snapdragon 8s Gen 3", "Snapdragon 8s Gen 4"),
        "Snapdragon 8 Gen 5",
    ),
    (_HTP, "mid"): (
        *("Snapdragon 778G", "Snapdragon 7 Gen 1", "Snapdragon 7 Gen 3", "Snapdragon 7 Gen 4", "Snapdragon 7 Gen 5"),
        *("QCM6490", "QCS6490"),
    ),
    (_HTP, "low"): ("QCM6690",),
    (_HTP, "laptop"): ("Snapdragon X", "Snapdragon X2", "X1E-80-100"),
    (_HTP, "vehicle"): ("SA8295P", "SA8255P", "SA8650P", "SA8775P", "QCS9075"),
    (_HTP, "vehicle light"): ("SA7255P",),
    (_ANE, "phone"): ("A11", "A12", "A13", "A14", "A15", "A16", "A17", "A18", "A19"),
    (_ANE, "laptop"): ("M1", "M2", "M3", "M4", "M5"),
    ("Hailo-8", "8"): ("HAILO8", "HAILO8L", "BCM2712 + Hailo-8", "BCM2712 + Hailo-8L"),
    ("Hailo-15", "10"): ("HAILO10H", "BCM2712 + Hailo-10H"),
    ("Hailo-15", "15"): ("HAILO15H", "HAILO15M", "HAILO15L"),
    ("Axera", "large"): ("AX650N", "AX637"),
    ("Axera", "small"): ("AX630C", "AX620Q"),
    ("Rockchip", "three cores"): ("RK3588",),
    ("Rockchip", "two cores"): ("RK3576",),
    ("Rockchip", "one core"): ("RK3566", "RK3568", "RK3562"),
}
# The speed of a flagship's Hexagon by generation, and what share of it those of other tiers have: estimated. Qualcomm's
# TOPS of phones count the CPU and GPU, too; it calls the V79 45 % faster than the V75
# (droidholic.com/snapdragon-8-elite-launched), by which ViTs gained less.
_HEXAGON = {68: 20.0, 69: 27.0, 73: 34.0, 75: 45.0, 79: 60.0, 81: 82.0}
_SHARES = {"flagship": 1.0, "upper": 0.8, "mid": 0.35, "vehicle": 1.0}
# Estimated from their neighbours: what no source of ours says, as it would be counted; a Hexagon as a share above.
_UNPUBLISHED = {
    "Snapdragon 7 Gen 4": 15.0,
    "Snapdragon 7 Gen 5": 15.0,
    "QCM6690": 6.0,
    "SA7255P": 14.0,
    "SA8295P": 26.0,
    "A19": 35.0,
    "M5": 38.0,
    "AX637": 18.0,
    "AX620Q": 3.0,
}
_IN_INT8 = ("A17", "A18", "A19", "M4", "M5")  # whose TOPS Apple counts in int8, which is twice as many as before
# Sparse int8 TOPS of the GPU where NVIDIA's count its DLAs, too: AGX Orin's technical brief, quoted by
# mzph.cn/web/30785.shtml; the NX estimated from its cores and clock. Of GPUs before Orin four times their dense fp16:
# unverified.
_JETSON_GPUS = {
    "jetson-nano": 1.9,
    "jetson-tx2-nx": 5.3,
    "jetson-xavier-nx": 24.0,
    "jetson-orin-nx": 60.0,
    "jetson-agx-orin": 170.0,
}
_TOPS_PER_TFLOPS = 4.0  # sparse int8 to dense fp16, in which ratios between Jetsons are the same


def accelerator(profile: DeviceProfile, unit: str) -> Accelerator | None:
    """The accelerator of a device; None where its line or its place there is not known. Unknown is not equal."""
    if profile.family == "Jetson":
        speed = _JETSON_GPUS.get(profile.id) or _tops(profile.facts.npu_tops) or 0.0
        return Accelerator("Jetson", profile.id, 0, speed / _TOPS_PER_TFLOPS) if unit == "gpu" and speed else None
    soc = profile.facts.soc.value if profile.facts.soc else ""
    if unit != "npu" or not (place := _place(soc)):
        return None
    line, tier, chip = place
    generation = profile.facts.npu_generation.value if profile.facts.npu_generation else 0
    estimated = _UNPUBLISHED.get(chip, 0.0)
    if line == _HTP and tier in _SHARES:
        speed = estimated or _HEXAGON.get(int(generation), 0.0) * _SHARES[tier]
    else:
        speed = _tops(profile.facts.npu_tops) or estimated
    if line == _ANE:
        generation, speed = int(chip[1:]), speed / (2 if chip in _IN_INT8 else 1)
    return Accelerator(line, tier, generation, speed) if speed else None


@functools.cache
def _place(soc: str) -> tuple[str, str, str] | None:
    """Line, tier and chip."""
    places = [(line, tier, chip) for (line, tier), chips in _TIERS.items() for chip in chips if _is(soc, chip)]
    return max(places, key=lambda place: len(place[2]), default=None)


def _is(soc: str, chip: str) -> bool:
    """RK3588S is an RK3588, "Snapdragon 8 Gen 2 for Galaxy" an 8 Gen 2, and HAILO8L no HAILO8."""
    return re.match(rf"{re.escape(chip)}S?(?![0-9A-Za-z])", soc) is not None


def _tops(fact: Fact[Range] | None) -> float | None:
    return ends(fact.value)[1] if fact else None
