"""What accelerators can do, relative to each other, by the chip that they are part of.

Only ratios within one table matter. They set what is expected before anything is timed; how far chips stray from them
is part of the model (``kriging``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hydra_export.device import DeviceProfile, ends

# Accelerators of one line, in the unit that the maker uses for that line: int8 TOPS. "year": of the generation, which
# orders those of one tier; None where a chip has no accelerator of the line that runs a transformer.
# TFLOPS of the GPU in dense fp16, without the other accelerators that NVIDIA's TOPS count: unverified, Orin's estimated
# as a quarter of sparse int8, of which a GPU has 170 of an AGX Orin's 275.
_JETSON_GPUS = {
    "jetson-nano": 0.47,
    "jetson-tx2-nx": 1.33,
    "jetson-xavier-nx": 6.0,
    "jetson-orin-nano": 10.0,
    "jetson-orin-nano-super": 16.8,
    "jetson-orin-nx": 15.0,
    "jetson-agx-orin": 42.5,
    "jetson-agx-thor": 258.0,
}
_TOPS_PER_TFLOPS = 4.0  # sparse int8 to dense fp16
_HTP, _ANE = "Hexagon HTP", "Apple Neural Engine"


@dataclass(frozen=True)
class Accelerator:
    """The NPU, or a GPU that is used as one, of a chip.

    Attributes:
        line: accelerators that differ in size and generation, and run the same compiled files.
        tier: chips of one tier follow each other; a flagship and a mid-range chip of a year do not compare.
        speed: relative to others of the line, as its maker or its generation says.
    """

    line: str
    tier: str
    year: int
    speed: float


# Speeds: TOPS as makers advertise them, unverified; those marked ~ are estimated from neighbouring generations.
_CHIPS: tuple[tuple[str, Accelerator], ...] = (
    ("Snapdragon 888", Accelerator(_HTP, "flagship", 2021, 20)),
    ("Snapdragon 8 Gen 1", Accelerator(_HTP, "flagship", 2022, 27)),
    ("Snapdragon 8 Gen 2", Accelerator(_HTP, "flagship", 2023, 34)),  # ~
    ("Snapdragon 8 Gen 3", Accelerator(_HTP, "flagship", 2024, 45)),
    ("Snapdragon 8 Elite Gen 5", Accelerator(_HTP, "flagship", 2026, 82)),  # + 37 % over its elder
    ("Snapdragon 8 Elite", Accelerator(_HTP, "flagship", 2025, 60)),  # ~ + 45 % over 8 Gen 3, less what ViTs showed
    ("QCS8450", Accelerator(_HTP, "flagship", 2022, 27)),
    ("QCS8550", Accelerator(_HTP, "flagship", 2023, 34)),
    ("SA8650P", Accelerator(_HTP, "vehicle", 2023, 34)),  # ~
    ("SA8255P", Accelerator(_HTP, "vehicle", 2023, 34)),  # ~
    ("SA8775P", Accelerator(_HTP, "vehicle", 2023, 36)),  # ~
    ("SA8295P", Accelerator(_HTP, "vehicle", 2021, 26)),  # ~
    ("SA7255P", Accelerator(_HTP, "vehicle light", 2023, 14)),  # ~
    ("QCS9075", Accelerator(_HTP, "vehicle", 2023, 36)),  # ~
    ("Snapdragon 8+ Gen 1", Accelerator(_HTP, "flagship", 2022, 28)),  # ~
    ("Snapdragon 8 Gen 5", Accelerator(_HTP, "upper", 2026, 55)),  # ~
    ("Snapdragon 8s Gen 4", Accelerator(_HTP, "upper", 2025, 36)),  # ~
    ("Snapdragon 8s Gen 3", Accelerator(_HTP, "upper", 2024, 30)),  # ~
    ("Snapdragon 7+ Gen 3", Accelerator(_HTP, "upper", 2024, 30)),  # ~
    ("Snapdragon 7+ Gen 2", Accelerator(_HTP, "upper", 2023, 24)),  # ~
    ("Snapdragon X2", Accelerator(_HTP, "laptop", 2026, 80)),
    ("Snapdragon X", Accelerator(_HTP, "laptop", 2024, 45)),
    ("X1E-80-100", Accelerator(_HTP, "laptop", 2024, 45)),
    ("Snapdragon 7 Gen 5", Accelerator(_HTP, "mid", 2026, 15)),  # ~
    ("Snapdragon 7 Gen 4", Accelerator(_HTP, "mid", 2025, 15)),  # ~
    ("Snapdragon 7 Gen 3", Accelerator(_HTP, "mid", 2023, 12)),  # ~
    ("Snapdragon 7 Gen 1", Accelerator(_HTP, "mid", 2022, 9)),  # ~
    ("QCM6490", Accelerator(_HTP, "mid", 2021, 7)),
    ("Snapdragon 778G", Accelerator(_HTP, "mid", 2021, 7)),  # 12 with its CPU and GPU
    ("QCS6490", Accelerator(_HTP, "mid", 2021, 7)),
    ("QCM6690", Accelerator(_HTP, "low", 2024, 6)),
    ("A11", Accelerator(_ANE, "phone", 2017, 0.6)),
    ("A12", Accelerator(_ANE, "phone", 2018, 5)),
    ("A13", Accelerator(_ANE, "phone", 2019, 6)),
    ("A14", Accelerator(_ANE, "phone", 2020, 11)),
    ("A15", Accelerator(_ANE, "phone", 2021, 15.8)),
    ("A16", Accelerator(_ANE, "phone", 2022, 17)),
    ("A17", Accelerator(_ANE, "phone", 2023, 17.5)),  # Apple counts int8 from here on: half of 35
    ("A18", Accelerator(_ANE, "phone", 2024, 17.5)),
    ("A19", Accelerator(_ANE, "phone", 2025, 17.5)),  # ~
    ("M1", Accelerator(_ANE, "laptop", 2020, 11)),
    ("M2", Accelerator(_ANE, "laptop", 2022, 15.8)),
    ("M3", Accelerator(_ANE, "laptop", 2023, 18)),
    ("M4", Accelerator(_ANE, "laptop", 2024, 19)),  # half of 38
    ("M5", Accelerator(_ANE, "laptop", 2025, 19)),  # ~
    ("HAILO8L", Accelerator("Hailo-8", "8", 2023, 13)),
    ("BCM2712 + Hailo-8L", Accelerator("Hailo-8", "8", 2023, 13)),
    ("HAILO8", Accelerator("Hailo-8", "8", 2020, 26)),
    ("BCM2712 + Hailo-8", Accelerator("Hailo-8", "8", 2020, 26)),
    ("BCM2712 + Hailo-10H", Accelerator("Hailo-15", "10", 2024, 20)),
    ("HAILO10H", Accelerator("Hailo-15", "10", 2024, 20)),
    ("HAILO15H", Accelerator("Hailo-15", "15", 2023, 20)),
    ("HAILO15M", Accelerator("Hailo-15", "15", 2023, 11)),
    ("HAILO15L", Accelerator("Hailo-15", "15", 2023, 7)),
    ("AX650N", Accelerator("Axera", "large", 2023, 18)),
    ("AX637", Accelerator("Axera", "large", 2024, 18)),  # ~
    ("AX630C", Accelerator("Axera", "small", 2024, 3.2)),
    ("AX620Q", Accelerator("Axera", "small", 2023, 3)),  # ~
    ("RK3588", Accelerator("Rockchip", "three cores", 2022, 6)),
    ("RK3576", Accelerator("Rockchip", "two cores", 2024, 6)),
    ("RK3566", Accelerator("Rockchip", "one core", 2020, 1)),
    ("RK3568", Accelerator("Rockchip", "one core", 2020, 1)),
    ("RK3562", Accelerator("Rockchip", "one core", 2022, 1)),
)


def accelerator(profile: DeviceProfile, unit: str) -> Accelerator | None:
    """The accelerator of a device; None where its line or its place there is not known. Unknown is not equal."""
    if profile.family == "Jetson":
        tops = profile.facts.npu_tops
        speed = _JETSON_GPUS.get(profile.id) or (ends(tops.value)[0] / _TOPS_PER_TFLOPS if tops else 0)
        return Accelerator("Jetson", profile.id, 0, speed) if unit == "gpu" and speed else None
    soc = profile.facts.soc.value if profile.facts.soc else ""
    chips = (chip for name, chip in _CHIPS if re.match(rf"{re.escape(name)}S?(?![0-9A-Za-z])", soc))
    return next(chips, None) if unit == "npu" else None
