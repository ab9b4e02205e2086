"""How fast CPU cores are, relative to each other, and how many of them share the work.

Only ratios matter. They set what is expected before anything is timed; how far chips stray from them is part of the
model (``kriging``).
"""

from __future__ import annotations

import functools
import re

from hydra_export.device import Cluster, DeviceProfile, LatencyRecord

# Work per clock of one core on a ViT, Cortex-A72 = 1. Source: Tencent/ncnn@a4d2ea1d:benchmark/README.md, its
# vision_transformer on one thread unless it says otherwise: 6606 ms * 1.8 GHz of an A72 / (ms * GHz). ncnn computes in
# fp16 where a core can (from A55 and A76 on), in fp32 on x86. Clocks are those of the README's headings or the profile.
_TIMED = {
    "A53": 0.58,  # Arduino UNO Q
    "A55": 0.9,  # two RK3566
    "A72": 1.0,  # Raspberry Pi 4
    "A76": 3.8,  # the mean of a Raspberry Pi 5, an RK3588S and a Snapdragon 855+, 3.3 to 4.1
    "A78AE": 3.2,  # Jetson Orin Nano
    "A710": 4.4,  # Azure Cobalt 100, whose Neoverse N2 is the A710 of servers
    "A720": 4.6,  # Radxa Orion O6
    "X3": 3.6,  # Snapdragon 8 Gen 2
    "X4": 5.0,  # Dimensity 9300
    "Everest": 2.9,  # MacBook Air M3
    "U74": 0.15,  # VisionFive 2, four threads
    "X60": 0.06,  # MUSE Pi Pro, eight threads
    "Skylake": 4.3,  # Core i7-7700K
    "Willow Cove": 4.5,  # Core i7-11800H
    "Golden Cove": 5.0,  # Xeon 8573C, whose cores are the next of the same design
    "Zen 3": 3.0,  # the mean of an EPYC 7742, a 5700G and a 5950X, 1.6 to 5.5: builds differ, vector units do not
    "Zen 5": 5.6,  # EPYC 9V45, without AVX-512
}
# Estimated: as another core, by how wide their vector units are said to be, and where that is not known as the next.
_ESTIMATED = {
    "A57": ("A72", 1.0),
    "A73": ("A72", 1.0),
    "A75": ("A76", 0.65),
    "A77": ("A76", 1.0),
    "A78": ("A76", 1.05),
    "A510": ("A55", 1.0),
    "A520": ("A55", 1.1),
    "A715": ("A710", 1.0),
    "A725": ("A720", 1.0),
    "X1": ("X3", 1.0),
    "X2": ("X3", 1.0),
    "X925": ("X4", 1.1),
    "C1-Ultra": ("X4", 1.2),
    "C1-Premium": ("X4", 1.1),
    "C1-Pro": ("A720", 1.05),
    "C1-Nano": ("A55", 1.3),
    "M5": ("A76", 1.0),
    "Carmel": ("A78AE", 0.8),
    "Oryon": ("X4", 0.9),
    "Vortex": ("Everest", 0.75),
    "Lightning": ("Everest", 0.75),
    "Firestorm": ("Everest", 1.0),
    "Avalanche": ("Everest", 1.0),
    "P": ("Everest", 1.0),
    "Tempest": ("Everest", 0.3),
    "Thunder": ("Everest", 0.3),
    "Icestorm": ("Everest", 0.4),
    "Blizzard": ("Everest", 0.4),
    "Sawtooth": ("Everest", 0.45),
    "E": ("Everest", 0.45),
    "Redwood Cove": ("Golden Cove", 1.0),
    "Lion Cove": ("Golden Cove", 1.05),
    "Gracemont": ("Golden Cove", 0.5),
    "Crestmont": ("Golden Cove", 0.5),
    "Skymont": ("Golden Cove", 0.8),
    "Zen 2": ("Zen 3", 1.0),
    "Zen 4": ("Zen 3", 1.1),
}
_USUAL_GHZ = 3.0  # of a core whose clock is not known: that of a laptop, of which makers do not publish it
_SCALING = 0.85  # time falls with the power of the cores that share the work: four of a Pi 4 are 3.5-fold, of 855+ 1.7
_USUAL_THREADS = 4  # on phones and boards at least, whatever their cores are
# onnxruntime runs as many threads as there are cores (onnxruntime.ai/docs/performance/tune-performance/threading.html,
# "Number of physical CPU Cores"): on PCs all, or so many where those are not known; elsewhere the fastest kind alone.
_PCS, _PC_THREADS = ("laptop", "desktop"), 8


def cpu_speed(profile: DeviceProfile, threads: int | None) -> float | None:
    """Of so many threads on the fastest cores of a device; None where its cores are not known."""
    each = []
    for cluster in _clusters(profile):
        if (per_clock := _per_clock(cluster.core)) is None:
            return None
        each += [per_clock * (cluster.ghz or _USUAL_GHZ)] * cluster.cores
    if not each:
        return None
    working = sorted(each, reverse=True)[: threads or usual_threads(profile)]
    return float(working[0] * (sum(working) / working[0]) ** _SCALING)


def usual_threads(profile: DeviceProfile) -> int:
    """On which a runtime runs there if nobody says how many."""
    cores = [cluster.cores for cluster in _clusters(profile)]
    if profile.device_class in _PCS:
        return sum(cores) or _PC_THREADS
    return max([_USUAL_THREADS, *cores[:1]])


def oversubscribed(profile: DeviceProfile, record: LatencyRecord) -> bool:
    """Did more threads run than a device has cores of its faster kinds? The slowest then makes all others wait."""
    clusters = _clusters(profile)
    num_fast = sum(cluster.cores for cluster in clusters[: max(1, len(clusters) - 1)])
    return record.unit == "cpu" and (record.threads or 0) > max(_USUAL_THREADS, num_fast)


def _clusters(profile: DeviceProfile) -> tuple[Cluster, ...]:
    return profile.facts.cpu.value if profile.facts.cpu else ()


@functools.cache
def _per_clock(core: str) -> float | None:
    """Of one core, whose name may stand within that of its maker: "Kryo 385 Gold(A75)"."""
    named = [name for name in (*_TIMED, *_ESTIMATED) if re.search(rf"\b{name}(?![\w-])", core)]
    if not named:
        return None
    like, share = _ESTIMATED.get(name := max(named, key=len), (name, 1.0))
    return _TIMED[like] * share
