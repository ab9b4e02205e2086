"""Times that papers, vendors and others published: published.csv and the later tables of its kind."""

from __future__ import annotations

import re
from collections.abc import Iterable

from device_tables import BASE_GMACS, SUBNETWORKS, Row, budget, clusters, family, number_format, source_key

from hydra_export.device import (
    UNKNOWN,
    DeviceClass,
    DeviceProfile,
    Fact,
    Facts,
    LatencyRecord,
    Provenance,
    Statistic,
)

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
    unit = "npu" if row["compute_unit"].startswith(("NPU", "ANE")) else row["compute_unit"].split(" ")[0].lower()
    record = LatencyRecord(
        model=row["model"].split(" (")[0],
        k=k,
        gmacs=gmacs(row),
        model_gmacs=BASE_GMACS if k else gmacs(row),
        resolution=int(row["resolution"]),
        tokens=tokens(row),
        device=label,
        runtime=RUNTIMES[row["framework"]],
        precision=number_format(row["precision"], unit),
        unit=unit,  # type: ignore[arg-type]
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
