"""Makes hydra_export/profiles/*.toml from tables of devices and of published latencies.

Run from the repository: python scripts/make_device_profiles.py FOLDER [OUT]
or, for docs/device-profile.schema.json alone: python scripts/make_device_profiles.py --schema

FOLDER holds devices.csv (one row per device), qualcomm.csv (AI Hub's measurements) and published.csv (papers and
vendors). Kept are times of vision transformers that have, or come near, the shape of a subnetwork. Left out are rows
that their table marks do-not-use or REJECT, rows of other architectures (marked context), and of proxies that share a
job with a real device the copy.
"""

from __future__ import annotations

import csv
import re
import sys
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path

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
    "Rockchip": r"RK",
    "Axera": r"AX\d",
    "MediaTek": r"Helio|Dimensity",
    "Allwinner": r"Allwinner|H616",
    "AMD": r"Ryzen",
    "Intel": r"Lunar Lake",
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
}
AI_HUB_RUNTIMES = {"tflite": "litert", "qnn_dlc": "qnn", "qnn_context_or_lib": "qnn", "onnxruntime-qnn": "onnxruntime"}
AI_HUB_MODELS = ("vit", "vit_quantized")

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
    for row in rows(folder / "published.csv"):
        if usable(row):
            add(profiles, *published(row))
    shared = [row for row in rows(folder / "qualcomm.csv") if row["model"] in AI_HUB_MODELS]
    for row in shared:
        if not is_copy(row):
            add(profiles, *ai_hub(row))
    for profile in profiles.values():
        copies = {row["device"] for row in shared if is_copy(row) and real_device(row) == profile.name}
        proxies = sorted(copies - {other.name for other in profiles.values()})
        profile = msgspec.structs.replace(profile, aliases=(*profile.aliases, *proxies))
        (out / f"{profile.id}.toml").write_text(device.encode(profile), encoding="utf-8")


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
    # What the table cites by a number that nobody else can look up.
    text = re.sub(r"(in )?code index,? id \d+", r"\1a public repository, not recorded which", text)
    if not text.startswith("general-knowledge"):
        sources[source_key(text.split(";")[0], {})] = text
    given = next(iter(sources), UNVERIFIED)
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
        gpu=fact("gpu"),
        npu=fact("npu"),
        npu_tops=number(tops, source("npu_tops")),
        ram_gb=number(row["ram_gb"], source("ram_gb")),
        memory_gb_per_s=number(row["mem_bw_gbs"], source("mem_bw_gbs")),
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
    if device_class == "phone":
        return BUDGETS["phone"]
    accelerated = family(soc) in ("Hailo", "Jetson", "Axera")
    return BUDGETS["video" if accelerated or device_class in ("laptop", "accelerator") else "answer"]


def clusters(text: str, name: str, source: str) -> Fact[tuple[Cluster, ...]] | None:
    """``2x X1@2.80 + 4x A55@1.80``, or Apple's ``4P+4E``."""
    if found := re.fullmatch(r"(\d)P\+(\d)E \((M\d): (\d)P\+(\d)E\)", text):
        performance, efficiency = found.group(4, 5) if name.endswith(found[3]) else found.group(1, 2)
        both = Cluster(cores=int(performance), core="P"), Cluster(cores=int(efficiency), core="E")
        return Fact(value=both, source=source)
    parsed, notes = [], []
    for part in filter(None, text.split(" + ")):
        found = re.fullmatch(r"(\d+)x (.+)@([\d.]+)(.*)", part)
        assert found, part
        parsed.append(Cluster(cores=int(found[1]), core=found[2], ghz=float(found[3])))
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
        chips = [
            found[1].strip('" ')
            for text in texts
            if (found := re.match(r'(?:ro\.soc\.model=)?"?((?:SM|SDM)\d+|Tensor G\d)"?', text))
        ]
        models = [f"{text}*" if text.startswith("SM-") else text for text in texts if re.match(r"Pixel|SM-", text)]
        others = tuple(text for text in texts if re.fullmatch(r"[a-z]+", text))
        return Match(android_model=tuple(models), android_soc_model=tuple(chips), source=source), others
    if method.startswith("sysctl hw.machine"):
        return Match(ios_machine=tuple(texts), source=source), ()
    if "machdep" in method or "Windows" in method:
        return Match(cpu_name=tuple(f"{text}*" if "Elite" in text else text for text in texts), source=source), ()
    boards = [re.sub(r"( Rev 1\.[\dx]| \.\.\.)$", "", text.strip('" ')) for text in texts]
    known = [board for board in boards if re.match(r"Raspberry|NVIDIA|NXP|Freescale", board)]
    return Match(devicetree_model=tuple(dict.fromkeys(known)), source=source if known else UNVERIFIED), ()


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
    size = re.match(r"(?:vit|deit)_(tiny|small|base)(?!_patch32)", row["model"])
    k = SUBNETWORKS[size[1]][0] if size else None
    tokens = re.search(r"(\d+) tokens", row["notes"])
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
        gmacs=float(row["gmacs"]),
        model_gmacs=BASE_GMACS if k else float(row["gmacs"]),
        resolution=int(row["resolution"]),
        tokens=int(tokens[1]) if tokens else None,
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
        suspect=(unreliable[1] or unreliable[2]) if unreliable else "",
    )
    return place, record, row["source"]


# qualcomm.csv


def is_copy(row: Row) -> bool:
    """A proxy's row whose job ran on a real device that has its own row."""
    return bool(row["job_shared_with"]) and "(Proxy)" in row["device"]


def real_device(row: Row) -> str:
    return row["job_shared_with"]


def ai_hub(row: Row) -> tuple[DeviceProfile, LatencyRecord, str]:
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
    )
    return place, record, row["source"]


if __name__ == "__main__":
    if sys.argv[1:] == ["--schema"]:
        (OUT.parents[1] / device.SCHEMA_FILE).write_bytes(device.schema())
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else OUT)
