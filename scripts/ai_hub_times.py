"""Times that Qualcomm AI Hub measured: qualcomm.csv and the later tables of its kind."""

from __future__ import annotations

import re
import statistics
from ast import literal_eval
from collections.abc import Iterable

from device_tables import BASE_GMACS, BUDGETS, Row, number_format

from hydra_export.device import DeviceClass, DeviceProfile, Fact, Facts, LatencyRecord, Ops

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
        precision=number_format(row["precision"], row["unit"].lower()),
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
