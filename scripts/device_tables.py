"""The tables that device profiles are made from, and what several of them have: families, budgets, cores, numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from hydra_export.device import Cluster, Fact, LatencyBudget, NumberFormat, Range

Row = dict[str, str]
OWN = Path(__file__).parent / "devices"

SUBNETWORKS = {
    "tiny": (3, 1.25),
    "small": (6, 4.60),
    "base": (12, 17.56),
}  # k and GMACs (HydraViT paper, DeiT's shapes)
BASE_GMACS = SUBNETWORKS["base"][1]

BUDGETS = {
    "video": LatencyBudget(ms=33, reason="video of 30 frames a second"),
    "phone": LatencyBudget(ms=33, reason="a camera preview of 30 frames a second"),
    "answer": LatencyBudget(ms=100, reason="an answer within 0.1 s feels immediate"),
}

# A row's soc, what it begins with -> family
FAMILIES = {
    "Qualcomm": r"Snapdragon|X1E|QCS|QCM|QRB|SA\d|Qcs|RB5",
    "Google Tensor": r"Tensor",
    "Samsung Exynos": r"Exynos",
    "Apple": r"A1\d|M\d$",
    "Hailo": r"HAILO|.*Hailo",
    "Raspberry Pi": r"BCM|RP3A0",
    "Jetson": r"Tegra|Jetson|T194|T210|T234|T186",
    "Coral": r"i\.MX 8M \+ Edge TPU",
    "NXP": r"i\.MX",
    "Allwinner": r"Allwinner|H616",
    "StarFive": r"StarFive",
    "Horizon": r"Sunrise",
    "CIX": r"CIX",
    "SpacemiT": r"SpacemiT",
    "Renesas": r"Renesas",
    "Phytium": r"Phytium",
    "Rockchip": r"RK",
    "Axera": r"AX\d",
    "MediaTek": r"Helio|Dimensity",
    "AMD": r"Ryzen",
    "Intel": r"Lunar Lake|Intel",
}

# What tables call number formats that we call otherwise.
FORMATS: dict[str, NumberFormat] = {
    "int8 (w8a8/a16 mix)": "int8-static",
    "int8 QDQ": "int8-static",
    "fp16/bf16 storage default": "fp16",
    "not stated": "unknown",
    "w8a8": "int8-static",
}


def number_format(told: str, unit: str) -> NumberFormat:
    """What we call the format that a table tells; an NPU that takes int8 takes integer activations."""
    known = FORMATS.get(told, told)
    return "int8-static" if (known, unit) == ("int8", "npu") else known  # type: ignore[return-value]


def tables(folder: Path, name: str) -> Iterator[Row]:
    """The rows of every table of that kind, the first table first."""
    for path in sorted(folder.glob(f"{name}*.csv"), key=lambda path: (path.stem != name, path.name)):
        yield from rows(path)


def rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def source_key(source: str, taken: dict[str, str]) -> str:
    """A short name for *source*: its repository's, or its file's."""
    for key, text in taken.items():
        if text == source:
            return key
    repository = re.match(r"[\w.-]+/([\w.-]+)[@:]", source)
    words = repository[1] if repository else source
    stem = "-".join(re.findall(r"[a-z0-9]+", words.lower().removeprefix("https://")))[:30].strip("-")
    return next(key for number in range(1, 99) if (key := stem if number == 1 else f"{stem}-{number}") not in taken)


def family(soc: str) -> str:
    if "Hailo" in soc:
        return "Hailo"
    return next((name for name, pattern in FAMILIES.items() if re.match(pattern, soc)), "")


def budget(device_class: str, soc: str) -> LatencyBudget:
    if device_class in ("phone", "tablet"):
        return BUDGETS["phone"]
    accelerated = (family(soc) or soc) in ("Hailo", "Jetson", "Axera")
    return BUDGETS["video" if accelerated or device_class in ("laptop", "desktop", "accelerator") else "answer"]


def clusters(text: str, name: str, source: str) -> Fact[tuple[Cluster, ...]] | None:
    """``2x X1@2.80 + 4x A55@1.80``, or Apple's ``4P+4E``."""
    if found := re.fullmatch(r"(\d)P\+(\d)E \((M\d): (\d)P\+(\d)E\)", text):
        performance, efficiency = found.group(4, 5) if name.endswith(found[3]) else found.group(1, 2)
        both = Cluster(cores=int(performance), core="P"), Cluster(cores=int(efficiency), core="E")
        return Fact(value=both, source=source)
    parsed, notes = [], []
    for part in filter(None, text.split(" + ")):
        found = re.fullmatch(r"(\d+)x ([^@]+)(?:@([\d.]+)(.*))?", part)
        assert found, part
        parsed.append(Cluster(cores=int(found[1]), core=found[2], ghz=float(found[3]) if found[3] else None))
        notes += [part] if found[4] else []
    return Fact(value=tuple(parsed), source=source, note="; ".join(notes)) if parsed else None


def number(text: str, source: str) -> Fact[Range] | None:
    """``8``, ``1-8``, ``35 (int8 claim)``."""
    found = re.match(r"([\d.]+)(?:-([\d.]+))?\s*(.*)", text)
    if not found:
        return None
    value: Range = float(found[1]) if found[2] is None else (float(found[1]), float(found[2]))
    return Fact(value=value, source=source, note=found[3].strip("()"))
