"""Throughput, memory and load time of one subnetwork, each in a process of its own: the paper's remaining columns."""

# B batch
from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer

from hydra_export import files
from hydra_export.architecture import HydraConfig
from hydra_export.checkpoint import Checkpoint
from hydra_export.errors import HydraExportError
from hydra_export.model import HydraViT

_RUNS = 15


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a dense subnetwork costs in PyTorch on this machine's CPU.

    Attributes:
        images_per_second: median over batches of ``batch_size`` images.
        load_ms: from its file of weights to a model that runs, libraries being loaded.
        peak_mib: largest memory while it loads and runs, above that of the libraries; None where the system does not
            tell (only Linux does).
    """

    images_per_second: float
    load_ms: float
    peak_mib: float | None
    batch_size: int
    threads: int


def measure(loaded: Checkpoint, heads: int, *, batch_size: int = 64, threads: int = 1) -> Cost:
    """What subnetwork *heads* costs in a process of its own.

    Raises:
        HydraExportError: its process died, for want of memory perhaps.
    """
    with files.temporary_folder() as folder:
        path = folder / "subnetwork.safetensors"
        safetensors.torch.save_file(loaded.model.subnetwork(heads).state_dict(), path)
        config = msgspec.json.encode(loaded.info.config).decode()
        command = [sys.executable, "-m", __name__, str(path), config, str(heads), str(batch_size), str(threads)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or [f"status {process.returncode}"]
        raise HydraExportError(f"Heads {heads} could not be measured: {last[0]}.", "Use a smaller `batch_size`.")
    return msgspec.json.decode(process.stdout, type=Cost)


def _measure(path: Path, config: HydraConfig, heads: int, batch_size: int, threads: int) -> Cost:
    torch.set_num_threads(threads)
    VisionTransformer(embed_dim=8, depth=1, num_heads=1)(torch.zeros(1, 3, 224, 224))  # what the first model ever costs
    _forget_peak()
    before, start = _resident_mib("VmRSS"), time.perf_counter()
    model = HydraViT(
        msgspec.structs.replace(config, heads=heads, separate_classifiers=()), weight_init="skip", device="meta"
    )
    model.load_state_dict(safetensors.torch.load_file(path), assign=True)
    model.eval()
    load_ms = (time.perf_counter() - start) * 1e3
    image_BCHW = torch.randn(batch_size, config.channels, *config.image_shape)
    times = []
    with torch.inference_mode():
        for _ in range(_RUNS + 2):
            start = time.perf_counter()
            model(image_BCHW)
            times.append(time.perf_counter() - start)
    peak = _resident_mib("VmHWM")
    return Cost(
        images_per_second=round(batch_size / statistics.median(times[2:]), 2),
        load_ms=round(load_ms, 2),
        peak_mib=None if peak is None or before is None else round(peak - before, 1),
        batch_size=batch_size,
        threads=threads,
    )


def _forget_peak() -> None:
    """From here on the kernel counts the peak of resident memory anew."""
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _resident_mib(field: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    weights, described, *numbers = sys.argv[1:]
    cost = _measure(Path(weights), msgspec.json.decode(described, type=HydraConfig), *map(int, numbers))
    sys.stdout.write(json.dumps(msgspec.to_builtins(cost)))
