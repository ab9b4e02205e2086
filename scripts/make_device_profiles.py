"""Makes hydra_export/profiles/*.toml from tables of devices and of published latencies.

Run from the repository: python scripts/make_device_profiles.py FOLDER [OUT]
or, for docs/device-profile.schema.json alone: python scripts/make_device_profiles.py --schema

FOLDER holds devices.csv (one row per device), qualcomm.csv (AI Hub's measurements) and published.csv (papers and
vendors), and later tables of both kinds: qualcomm-VERSION.csv, published-2.csv. Kept are times of vision transformers
that have, or come near, the shape of a subnetwork. Of the same model on the same device in the same precision and
runtime the newest release of AI Hub wins; profiles have no history, so what it replaces is dropped. Left out are rows
that their table marks do-not-use or REJECT, rows of other architectures (marked context), and of proxies that share a
job with a real device the copy.

scripts/devices/ holds what FOLDER lacks or has wrong, and where that is from: sources.toml, chips.toml, models.csv
(devices by name and by what they call themselves; a device that FOLDER has gets more of both) and facts.csv (single
facts, which replace all others).
"""

from __future__ import annotations

import csv
import functools
import re
import statistics
import sys
import tomllib
from ast import literal_eval
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from hydra_export import device
from hydra_export.device import (
    UNKNOWN,
    UNVERIFIED,
    Budget,
    Cluster,
    DeviceClass,
    DeviceProfile,
    Fact,
    Facts,
    LatencyRecord,
    Match,
    NumberFormat,
    Ops,
    Provenance,
    Range,
    Statistic,
)

Row = dict[str, str]
OUT = Path(__file__).parents[1] / "hydra_export" / "profiles"
OWN = Path(__file__).parent / "devices"

SUBNETWORKS = {
    "tiny": (3, 1.25),
    "small": (6, 4.60),
    "base": (12, 17.56),
}  # k and GMACs (HydraViT paper, DeiT's shapes)
BASE_GMACS = SUBNETWORKS["base"][1]

BUDGETS = {
    "video": Budget(ms=33, reason="video of 30 frames a second"),
    "phone": Budget(ms=33, reason="a camera preview of 30 frames a second"),
    "answer": Budget(ms=100, reason="an answer within 0.1 s feels immediate"),
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

# Where a row of published.csv belongs. Devices that devices.csv lacks are made: id, name, class, soc.
PLACES = {
    "Hailo-8L (e.g. Raspberry Pi 5 AI Kit)": "rpi5-hailo8l",
    "Jetson Orin Nano (JetPack 6.0)": "jetson-orin-nano",
    "Jetson Orin Nano 8GB (original)": "jetson-orin-nano",
    "Jetson Orin Nano": "jetson-orin-nano",
    "Jetson Orin Nano Super": "jetson-orin-nano-super",
    "Raspberry Pi 5": "rpi5",
    "Raspberry Pi 4B": "rpi4",
    "Raspberry Pi 3B+": "rpi3b-plus",
    "Raspberry Pi Zero 2 W": "rpi-zero2w",
    "NXP i.MX 93 (Cortex-A55 + Ethos-U65)": "imx93",
    "RK3566/RK3568": "rk3566",
    "RK3566 (Orange Pi CM4)": "rk3566",
    "RK3588 (1 core)": "rk3588",
    "RK3588S (Orange Pi 5)": "rk3588",
    "RK3588 (Orange Pi 5 Plus)": "rk3588",
    "Snapdragon 765G": "pixel5",
    "Snapdragon 888": "galaxy-s21",
    "Snapdragon 8 Gen 2": "galaxy-s23",
    "Snapdragon X Elite X1E78100": "snapdragon-x-elite",
    "MacBook Air M3": "macbook-m3",
    "iPhone 12 Pro Max": "iphone-12-pro-max",
    "iPhone 17 Pro": "iphone-17-pro",
    "Google Pixel 10": "pixel10",
    "Samsung Galaxy S24": "galaxy-s24",
    "Snapdragon 8 Elite Gen 5 phone": "snapdragon-8-elite-gen-5",
    "Raspberry Pi 5 (overclocked to 2.9 GHz)": "rpi5",
    "Orange Pi 5": "rk3588",
    "Station-M3 / ROC-RK3588S-PC": "rk3588",
    "Station-M2 / ROC-RK3566-PC": "rk3566",
    "Radxa Orion O6": "orion-o6",
    "Avaota Aim T527": "avaota-aim-t527",
    "VisionFive 2": "visionfive-2",
    "RDK X3 Module": "rdk-x3",
    "MUSE Pi Pro": "muse-pi-pro",
    "MYIR RemiPi": "remipi",
    "Phytium Pi": "phytium-pi",
    "AMD Ryzen 7 5700G": "ryzen-7-5700g",
    "AMD Ryzen 9 5950X desktop": "ryzen-9-5950x",
    "Intel Core i7-11800H laptop (Hyper-V Linux guest)": "core-i7-11800h",
    "Intel Core i7-7700K desktop (Hyper-V Linux guest)": "core-i7-7700k",
}
# What of a published row says that it is not of the device as it is sold, or not of the model alone.
SUSPECT = {
    "overclocked to 2.9 GHz": "overclocked to 2.9 GHz",
    "LITTLE cores only": "bound to the little cores",
    "resizing may be included": "may include the resizing of the image",
}
MADE: dict[str, tuple[str, str, DeviceClass]] = {
    "Hailo-8 (M.2, PCIe host)": ("hailo-8", "Hailo-8 M.2 module", "accelerator"),
    "Hailo-10H": ("hailo-10h", "Hailo-10H", "accelerator"),
    "Hailo-15H SoC": ("hailo-15h", "Hailo-15H SoC", "accelerator"),
    "Hailo-15L SoC": ("hailo-15l", "Hailo-15L SoC", "accelerator"),
    "Axera AX650N": ("axera-ax650n", "Axera AX650N", "accelerator"),
    "Axera AX630C": ("axera-ax630c", "Axera AX630C", "accelerator"),
    "Axera AX620Q": ("axera-ax620q", "Axera AX620Q", "accelerator"),
    "Axera AX637": ("axera-ax637", "Axera AX637", "accelerator"),
    "RK3562": ("rk3562", "RK3562 boards", "board"),
    "RK3576 (1 core)": ("rk3576", "RK3576 boards", "board"),
    "Snapdragon 855+": ("snapdragon-855-plus", "Snapdragon 855+ phones", "phone"),
    "Dimensity 9300": ("dimensity-9300", "Dimensity 9300 phones", "phone"),
    "Jetson TX2 NX": ("jetson-tx2-nx", "NVIDIA Jetson TX2 NX", "board"),
    "Arduino UNO Q QRB2210 (4xA53 2.0)": ("arduino-uno-q", "Arduino UNO Q", "board"),
    "Allwinner H616 (4xA53 1.5)": ("allwinner-h616", "Allwinner H616 boards", "board"),
    "Laptop AMD Ryzen AI 9 365": ("ryzen-ai-9-365", "AMD Ryzen AI 9 365 laptops", "laptop"),
    "Laptop Intel Core Ultra 5 228V": ("core-ultra-5-228v", "Intel Core Ultra 5 228V laptops", "laptop"),
}
# What the row itself says of those devices' processors.
MADE_SOC = {"jetson-tx2-nx": "Jetson TX2 NX", "arduino-uno-q": "QRB2210"}
MADE_CPU = {"arduino-uno-q": "4x A53@2.0", "allwinner-h616": "4x A53@1.5"}

# AI Hub's devices that devices.csv has; its other devices are made from their names.
AI_HUB_PLACES = {
    "Samsung Galaxy S23": "galaxy-s23",
    "Samsung Galaxy S23 Ultra": "galaxy-s23",
    "Samsung Galaxy S24": "galaxy-s24",
    "Samsung Galaxy S25": "galaxy-s25",
    "Snapdragon X Elite CRD": "snapdragon-x-elite",
    "Snapdragon X2 Elite CRD": "snapdragon-x2-elite",
}
AI_HUB_RUNTIMES = {"tflite": "litert", "qnn_dlc": "qnn", "qnn_context_or_lib": "qnn", "onnxruntime-qnn": "onnxruntime"}
AI_HUB_MODELS = ("vit", "vit_quantized")
OUTDATED = 2  # times faster: what an older release measured says nothing of the device any more

RUNTIMES = {
    "Hailo Dataflow Compiler": "hailort",
    "TFLite": "litert",
    "TensorRT": "tensorrt",
    "Pulsar2/AXEngine": "axengine",
    "not stated (TensorRT presumed)": "tensorrt",
    "RKNN": "rknn",
    "ncnn": "ncnn",
    "Core ML": "coreml",
    "ONNX Runtime VitisAI EP": "onnxruntime",
    "OpenVINO EP": "openvino",
    "ExecuTorch XNNPACK": "executorch",
    "QNN context binary": "qnn",
}
FORMATS: dict[str, NumberFormat] = {
    "int8 (w8a8/a16 mix)": "int8",
    "int8 QDQ": "int8",
    "fp16/bf16 storage default": "fp16",
    "not stated": "unknown",
    "w8a8": "int8",
    "w8a16_mixed_int16": "w8a16",
}


def main(folder: Path, out: Path) -> None:
    profiles = {row["profile_id"]: described(row) for row in rows(folder / "devices.csv")}
    for chip, about in chips().items():
        if "name" in about:
            profiles[chip] = phones_with(chip, about)
    for row in rows(OWN / "models.csv"):
        profiles[row["id"]] = known_as(profiles.get(row["id"]), row)
    for row in latest_edition(row for row in tables(folder, "published") if usable(row)):
        add(profiles, *published(row))
    measured = [row for row in tables(folder, "qualcomm") if row["model"] in AI_HUB_MODELS]
    shared = newest(measured)
    faster = speedups(measured)
    for row in shared:
        if not is_copy(row):
            add(profiles, *ai_hub(row, faster.get(way(row), ("", 1.0))))
    for row in rows(OWN / "facts.csv"):
        profiles[row["id"]] = corrected(profiles[row["id"]], row)
    for profile in profiles.values():
        copies = {row["device"] for row in shared if is_copy(row) and real_device(row) == profile.name}
        proxies = sorted(copies - {other.name for other in profiles.values()})
        profile = msgspec.structs.replace(pruned(profile), aliases=(*profile.aliases, *proxies))
        (out / f"{profile.id}.toml").write_text(device.encode(profile), encoding="utf-8")


def tables(folder: Path, name: str) -> Iterator[Row]:
    """The rows of every table of that kind, the first table first."""
    for path in sorted(folder.glob(f"{name}*.csv"), key=lambda path: (path.stem != name, path.name)):
        yield from rows(path)


def rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def add(profiles: dict[str, DeviceProfile], profile: DeviceProfile, record: LatencyRecord, source: str) -> None:
    """Adds *record* to the profile, which is made where it is new, under the shortest key that is free."""
    profile = profiles.get(profile.id, profile)
    sources = dict(profile.sources)
    key = source_key(source, sources)
    sources[key] = source
    record = msgspec.structs.replace(record, source=key, device="" if record.device == profile.name else record.device)
    profiles[profile.id] = msgspec.structs.replace(
        profile,
        sources=sources,
        latency=(*profile.latency, record),
    )


def source_key(source: str, taken: dict[str, str]) -> str:
    """A short name for *source*: its repository's, or its file's."""
    for key, text in taken.items():
        if text == source:
            return key
    repository = re.match(r"[\w.-]+/([\w.-]+)[@:]", source)
    words = repository[1] if repository else source
    stem = "-".join(re.findall(r"[a-z0-9]+", words.lower().removeprefix("https://")))[:30].strip("-")
    return next(key for number in range(1, 99) if (key := stem if number == 1 else f"{stem}-{number}") not in taken)


# devices.csv


def described(row: Row) -> DeviceProfile:
    """A row of devices.csv; what it lists as general knowledge has no source."""
    sources: dict[str, str] = {}
    text = row["source"] if row["source"] != "as jetson-orin-nano" else _ORIN_NANO_SOURCE
    # What the table cites by a number that nobody else can look up is no source.
    text = "; ".join(part.strip() for part in text.split(";") if not re.search(r"^\s*code index,? id \d+", part))
    bandwidth = None
    if text.startswith(
        "Apple device database"
    ):  # of nobody knows which repository; what is left of it compares two chips
        text, bandwidth = "general-knowledge", re.search(r"topcpu\.net .*", text)
    if not text.startswith("general-knowledge"):
        sources[source_key(text.split(";")[0], {})] = text
    given = next(iter(sources), UNVERIFIED)
    if bandwidth:
        sources["topcpu"] = bandwidth[0]
    doubted = row["fields_general_knowledge"]

    def source(*fields: str) -> str:
        unsure = doubted.startswith("all") or any(field in doubted for field in fields)
        return UNVERIFIED if unsure else given

    def fact(column: str, *fields: str) -> Fact[str] | None:
        return Fact(value=row[column], source=source(*fields or (column,))) if row[column].strip("-") else None

    tops = row["npu_tops"] if row["npu_tops"] != "not published" else ""
    facts = Facts(
        soc=fact("soc"),
        cpu=clusters(row["cpu_clusters"], row["name"], source("cpu", "clock")),
        gpu=fact("gpu") if row["gpu"] != "Apple" else None,  # says nothing
        npu=fact("npu"),
        npu_tops=number(tops, source("npu_tops")),
        ram_gb=number(row["ram_gb"], source("ram_gb")),
        memory_gb_per_s=number(row["mem_bw_gbs"], "topcpu" if bandwidth else source("mem_bw_gbs")),
        os=fact("os"),
    )
    match, aliases = match_keys(row, UNVERIFIED if doubted == "all" else given)
    return DeviceProfile(
        id=row["profile_id"],
        name=row["name"],
        aliases=aliases,
        device_class=msgspec.convert(row["device_class"], DeviceClass),
        family=family(row["soc"]),
        match=match,
        facts=facts,
        budget=budget(row["device_class"], row["soc"]),
        sources=sources,
    )


_ORIN_NANO_SOURCE = (
    "hokwangchoi/jetson-orin-nano-benchmarks README; brojogopalsapui.com deep dive (quotes NVIDIA datasheet Dec 2024)"
)


def family(soc: str) -> str:
    if "Hailo" in soc:
        return "Hailo"
    return next((name for name, pattern in FAMILIES.items() if re.match(pattern, soc)), "")


def budget(device_class: str, soc: str) -> Budget:
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


def match_keys(row: Row, source: str) -> tuple[Match, tuple[str, ...]]:
    """What the column of identities says, and the names in it that a person may type."""
    texts = [text.strip().strip('"') for text in re.split(r" / ", re.sub(r"\([^)]*\)", "", row["id_values"]))]
    method = row["id_method"]
    if method.startswith("Android"):
        texts = [text for text in texts if text.strip("-")]
        models = [f"{text}*" if text.startswith("SM-") else text for text in texts if re.match(r"Pixel|SM-", text)]
        others = tuple(text for text in texts if re.fullmatch(r"[a-z]+", text))
        return Match(android_model=tuple(models), source=source if models else UNVERIFIED), others  # chips: chips.toml
    if method.startswith("sysctl hw.machine"):
        return Match(ios_machine=tuple(texts), source=source), ()
    if "machdep" in method or "Windows" in method:
        return Match(cpu_name=tuple(f"{text}*" if "Elite" in text else text for text in texts), source=source), ()
    boards = [re.sub(r"( Rev 1\.[\dx]| \.\.\.)$", "", text.strip('" ')) for text in texts]
    known = [board for board in boards if re.match(r"Raspberry|NVIDIA|NXP|Freescale", board)]
    return Match(devicetree_model=tuple(dict.fromkeys(known)), source=source if known else UNVERIFIED), ()


# scripts/devices


@functools.cache
def cited() -> dict[str, str]:
    return tomllib.loads((OWN / "sources.toml").read_text(encoding="utf-8"))


@functools.cache
def chips() -> dict[str, dict[str, Any]]:
    return tomllib.loads((OWN / "chips.toml").read_text(encoding="utf-8"))


def listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";") if part.strip())


def typed(field: str, value: str, source: str, note: str = "") -> Fact[Any]:
    """A fact of a table: cores and numbers are parsed."""
    assert source in cited() or source == UNVERIFIED, source
    if field == "cpu":
        fact: Fact[Any] | None = clusters(value, "", source)
    elif field in ("npu_generation", "npu_tops", "ram_gb", "memory_gb_per_s"):
        fact = number(value, source)
    else:
        fact = Fact(value=value, source=source)
    assert fact is not None, value
    return msgspec.structs.replace(fact, note=note or fact.note)


def chip_facts(chip: str) -> dict[str, Fact[Any]]:
    about = chips()[chip] if chip else {}
    fields = [field for field in Facts.__struct_fields__ if field in about]
    return {field: typed(field, **about[field]) for field in fields}


def phones_with(chip: str, about: dict[str, Any]) -> DeviceProfile:
    """What is known of a phone of which its chip alone is known."""
    return DeviceProfile(
        id=chip,
        name=about["name"],
        device_class="phone",
        family=about["family"],
        match=Match(android_soc_model=tuple(about["android_soc_model"]), source=about.get("match_source", UNVERIFIED)),
        facts=Facts(**chip_facts(chip)),
        budget=BUDGETS["phone"],
        sources=cited(),
    )


def known_as(profile: DeviceProfile | None, row: Row) -> DeviceProfile:
    """The device of a row of models.csv: a new one, or *profile* with more names, more keys and better facts."""
    family_of_chip = chips()[row["chip"]]["family"] if row["chip"] else ""
    if profile is None:
        profile = DeviceProfile(
            id=row["id"],
            name=row["name"],
            device_class=msgspec.convert(row["class"], DeviceClass),
            family=family_of_chip,
            budget=budget(row["class"], family_of_chip),
        )
    keys = {key: listed(row.get(key, "")) for key in Match.__struct_fields__ if key != "source"}
    match = merged_match(profile.match, keys, row["match_source"] or row["source"])
    facts = {field: getattr(profile.facts, field) for field in Facts.__struct_fields__}
    fresh = chip_facts(row["chip"])
    if row["ram_gb"]:
        fresh["ram_gb"] = typed("ram_gb", row["ram_gb"], row["ram_source"])
    if row["os"]:
        fresh["os"] = typed("os", row["os"], row["source"])
    for field, fact in fresh.items():
        if facts[field] is None or better(fact, facts[field]):
            facts[field] = fact
    name = row["name"] or profile.name
    names = tuple(text for text in dict.fromkeys((*profile.aliases, *listed(row["aliases"]))) if text != name)
    return msgspec.structs.replace(
        profile,
        name=name,
        aliases=names,
        family=family_of_chip if family_of_chip and profile.family != "Hailo" else profile.family,
        match=match,
        facts=Facts(**facts),
        too_small=row["too_small"],
        sources={**cited(), **profile.sources},
    )


def better(fact: Fact[Any], than: Fact[Any]) -> bool:
    """Has it a source that anybody can look up, where the other has none?"""
    return fact.source != UNVERIFIED and than.source == UNVERIFIED


def merged_match(match: Match, keys: dict[str, tuple[str, ...]], source: str) -> Match:
    """*match* and *keys*; of two sources that of the keys, which are more."""
    added = {key: tuple(dict.fromkeys((*getattr(match, key), *values))) for key, values in keys.items()}
    return Match(**added, source=source if any(keys.values()) and source != UNVERIFIED else match.source)


def corrected(profile: DeviceProfile, row: Row) -> DeviceProfile:
    """*profile* with one fact of facts.csv in place of what it had."""
    fact = typed(row["field"], row["value"], row["source"], row["note"])
    changed = msgspec.structs.replace(
        profile,
        facts=msgspec.structs.replace(profile.facts, **{row["field"]: fact}),
        sources={**cited(), **profile.sources},
    )
    if row["field"] != "soc" or not family(row["value"]):
        return changed
    known = family(row["value"])
    return msgspec.structs.replace(changed, family=known, budget=budget(profile.device_class, row["value"]))


def pruned(profile: DeviceProfile) -> DeviceProfile:
    """*profile* without sources that nothing in it names."""
    facts = [getattr(profile.facts, field) for field in Facts.__struct_fields__]
    used = {fact.source for fact in facts if fact} | {profile.match.source}
    used |= {record.source for record in profile.latency}
    sources = {key: text for key, text in profile.sources.items() if key in used}
    return msgspec.structs.replace(profile, sources=sources)


# published.csv


def usable(row: Row) -> bool:
    kept = row["relevance"] in ("target", "near-target", "analogue")
    return kept and "REJECT" not in row["notes"] and bool(row["latency_ms"])


def published(row: Row) -> tuple[DeviceProfile, LatencyRecord, str]:
    label = row["device"]
    if label in PLACES:
        place = DeviceProfile(id=PLACES[label], name=label, device_class="board")
    else:
        name, title, device_class = MADE[label]
        soc = MADE_SOC.get(name, row["soc"])
        key = source_key(row["source"], {})
        facts = Facts(soc=Fact(value=soc, source=key), cpu=clusters(MADE_CPU.get(name, ""), title, key))
        place = DeviceProfile(
            id=name,
            name=title,
            device_class=device_class,
            family=family(soc),
            facts=facts,
            budget=budget(device_class, soc),
            sources={key: row["source"]},
        )
    size = re.match(r"(?:vit|deit)_(tiny|small|base)(?!_patch32|_bn)", row["model"])
    k = SUBNETWORKS[size[1]][0] if size else None
    threads = re.fullmatch(r"\d+", row["threads"])
    notes = [row["notes"], row["threads"] if not threads else "", row["precision"] if "mix" in row["precision"] else ""]
    presumed = "presumed" in row["framework"]
    unreliable = re.search(r"ANOMALY: (.*)|(3-core number looks like throughput)", row["notes"])
    provenance: Provenance = "published" if row["source_level"].startswith("published") else "unknown"
    provenance = "published_secondhand" if row["source_level"] == "published-secondhand" else provenance
    statistic: Statistic = "from_throughput" if "FPS" in row["as_published"] else "unknown"
    record = LatencyRecord(
        model=row["model"].split(" (")[0],
        k=k,
        gmacs=gmacs(row),
        model_gmacs=BASE_GMACS if k else gmacs(row),
        resolution=int(row["resolution"]),
        tokens=tokens(row),
        device=label,
        runtime=RUNTIMES[row["framework"]],
        precision=FORMATS.get(row["precision"], row["precision"]),  # type: ignore[arg-type]
        unit="npu" if row["compute_unit"].startswith(("NPU", "ANE")) else row["compute_unit"].split(" ")[0].lower(),  # type: ignore[arg-type]
        threads=int(threads[0]) if threads else None,
        batch=int(row["batch"]),
        ms=float(row["latency_ms"]),
        statistic="mean" if "avg of loop" in row["notes"] else statistic,
        date=UNKNOWN,
        provenance=provenance,
        source="",
        note="; ".join(filter(None, [*notes, "the source does not name the runtime" if presumed else ""])),
        suspect=(unreliable[1] or unreliable[2]) if unreliable else suspicion(row),
    )
    return place, record, row["source"]


def suspicion(row: Row) -> str:
    said = f"{row['device']} {row['notes']}"
    return next((reason for words, reason in SUSPECT.items() if words in said), "")


def latest_edition(published_rows: Iterable[Row]) -> list[Row]:
    """Without rows of pages for older versions of what a page for a newer version says."""
    kept: dict[tuple[str, ...], Row] = {}
    for row in published_rows:
        way = (row["device"], row["model"], row["framework"], row["compute_unit"], row["precision"])
        versioned = edition(row) or ":docs/docs/" in row["source"]
        key = (row["source"].split(":")[0], *way) if versioned else tuple(row.values())
        before = kept.get(key)
        if before is None or (edition(row) or (99,)) > (edition(before) or (99,)):
            kept[key] = row
    return [*kept.values()]


def edition(row: Row) -> tuple[int, ...]:
    """The version that a page of documentation is of; empty for the page of today."""
    found = re.search(r"/versioned_docs/version-([\d.]+)", row["source"])
    return tuple(int(part) for part in found[1].strip(".").split(".")) if found else ()


def tokens(row: Row) -> int | None:
    """The sequence length that the row says, or its model's name; None for a patch-16 ViT, whose resolution tells."""
    said = re.search(r"(\d+) tokens", row["notes"])
    if said:
        return int(said[1])
    patch = re.search(r"(?:vit|siglip2?)_[bl]_(\d\d)(?=_)", row["model"])
    if not patch or (patch[1] == "16" and "siglip" not in row["model"]):
        return None
    side = int(row["resolution"]) // int(patch[1])
    return side**2 + (0 if "siglip" in row["model"] else 1)  # SigLIP has no class token


def gmacs(row: Row) -> float:
    """As the row says, or of ViT-B/16 at 256 pixels, where it says none."""
    if row["gmacs"]:
        return float(row["gmacs"])
    assert row["model"].startswith("siglip2_base_patch16_256"), row["model"]
    blocks, width, sequence, pixels = 12, 768, 256, 3 * 16 * 16
    matrices = sequence * (12 * width**2 * blocks + pixels * width)
    attention = 2 * sequence**2 * width * blocks
    return round((matrices + attention) / 1e9, 2)


# qualcomm.csv


def newest(measured: Iterable[Row]) -> list[Row]:
    """Of the rows of one model on one device in one precision and runtime, that of the newest release."""
    latest: dict[tuple[str, ...], Row] = {}
    for row in measured:
        key = (row["device"], row["model"], row["precision"], row["runtime"], row["component"])
        before = latest.get(key)
        if before is None or row["release_date"] >= before["release_date"]:
            latest[key] = row
    return [*latest.values()]


def way(row: Row) -> tuple[str, ...]:
    return row["model"], row["precision"], row["runtime"], row["unit"]


def speedups(measured: Iterable[Row]) -> dict[tuple[str, ...], tuple[str, float]]:
    """How many times faster the newest release is than the last before it: the median over the devices of both."""
    by_device: dict[tuple[tuple[str, ...], str], list[Row]] = {}
    for row in measured:
        by_device.setdefault((way(row), row["device"]), []).append(row)
    ratios: dict[tuple[str, ...], list[float]] = {}
    latest: dict[tuple[str, ...], str] = {}
    for (which, _), several in by_device.items():
        *_, after = several = sorted(several, key=lambda row: row["release_date"])
        latest[which] = max(latest.get(which, ""), after["release_date"])
        if len(several) > 1:
            ratios.setdefault(which, []).append(float(several[-2]["latency_ms"]) / float(after["latency_ms"]))
    return {which: (latest[which], statistics.median(ratios[which])) for which in ratios}


def is_copy(row: Row) -> bool:
    """A proxy's row whose job ran on a real device that has its own row."""
    return bool(row["job_shared_with"]) and "(Proxy)" in row["device"]


def real_device(row: Row) -> str:
    return row["job_shared_with"]


def ai_hub(row: Row, faster: tuple[str, float]) -> tuple[DeviceProfile, LatencyRecord, str]:
    """*faster*: the day of the newest release that ran the model in this way on any device, and its speedup."""
    label = row["device"]
    if label in AI_HUB_PLACES:
        place = DeviceProfile(id=AI_HUB_PLACES[label], name=label, device_class="phone")
    else:
        soc = re.sub("®| Proxy", "", row["chipset"]) or label.removesuffix(" QRD").removesuffix(" (Proxy)")
        name = "-".join(re.findall(r"[a-z0-9]+", re.sub(r"Gen (\d)", r"gen\1", label).lower()))
        device_class: DeviceClass = "vehicle" if label.startswith("SA") else "devkit"
        place = DeviceProfile(
            id=name,
            name=label,
            device_class=device_class,
            family="Qualcomm",
            stand_in="(Proxy)" in label,
            facts=Facts(soc=Fact(value=soc.replace("Qcs", "QCS"), source="qai-hub-models")),
            budget=BUDGETS["video" if device_class == "vehicle" else "phone"],
            sources={"qai-hub-models": "quic/ai-hub-models: the names and chipsets of its performance tables"},
        )
    versions = literal_eval(row["tool_versions"]) if row["tool_versions"] else {}
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    quantized = row["model"] == "vit_quantized"
    low, high = float(row["peak_mem_mb_low"]), float(row["peak_mem_mb_high"])
    released, speedup = faster
    outdated = row["release_date"] < released and speedup >= OUTDATED
    record = LatencyRecord(
        model=row["model"],
        k=12,
        gmacs=BASE_GMACS,
        model_gmacs=BASE_GMACS,
        resolution=224,
        device=label,
        runtime=AI_HUB_RUNTIMES[row["runtime"]],
        runtime_version=told or f"of AI Hub {row['release']}",
        precision=FORMATS.get(row["precision"], row["precision"]),  # type: ignore[arg-type]
        unit=row["unit"].lower(),  # type: ignore[arg-type]
        ms=float(row["latency_ms"]),
        peak_memory_mb=(low, high) if low < high else low,
        ops=Ops(npu=int(row["layers_npu"]), gpu=int(row["layers_gpu"]), cpu=int(row["layers_cpu"])),
        date=row["release_date"],
        provenance="measured",
        source="",
        note=f"AI Hub job {row['job_id']}, {row['runtime']}" + (", static int8 recipe of its own" if quantized else ""),
        suspect=f"a newer release is {speedup:.0f} times faster in this way on other devices" if outdated else "",
    )
    return place, record, row["source"]


if __name__ == "__main__":
    if sys.argv[1:] == ["--schema"]:
        (OUT.parents[1] / device.SCHEMA_FILE).write_bytes(device.schema())
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else OUT)
