"""What computing blocks again saves in memory and costs in time: whole steps of a ViT-S/16 on the processor.

    python benchmarks/training_memory.py [--batch 8] [--rounds 5]

Each setting runs in a process of its own, whose peak resident memory is compared with that before the first step; CPU
time of one thread, median over the rounds. The settings take turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import msgspec
import numpy as np
import torch
from measuring import environment

from hydra_export.data.datasets import Split
from hydra_export.train import batches, initial, recipes
from hydra_export.train.config import Augmentation, TrainConfig
from hydra_export.train.distributed import World
from hydra_export.train.loop import Trainer


def trainer(batch: int, again: bool, precision: str) -> Trainer:
    """ViT-S/16 of which every step trains the full width; the images are noise."""
    config: TrainConfig = msgspec.structs.replace(
        recipes.imagenet_small(),
        steps=1000,
        trained_heads=(6,),
        export_heads=(6,),
        batch_size=batch,
        augmentation=Augmentation(flip=0.0),
        checkpoint_blocks=again,
        precision=precision,
    )
    images = Split(np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), np.uint8), np.arange(batch))
    world = World(0, 1, torch.device("cpu"))
    return Trainer(config, initial.model(config, None, False), batches.batches(config, images), world)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(batch: int, again: bool, precision: str) -> dict[str, float]:
    """CPU seconds of the second step, and MiB that steps took beyond model and data."""
    torch.set_num_threads(1)
    made = trainer(batch, again, precision)
    before = peak_mib()
    made.train_step()
    start = time.process_time()
    made.train_step()
    return {"seconds": time.process_time() - start, "mib": peak_mib() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--one", choices=("true", "false"), help="measure with or without, here")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.batch, given.one == "true", given.precision)))
        return
    print(environment(("torch", "timm")))
    results: dict[str, list[dict[str, float]]] = {"false": [], "true": []}
    for _ in range(given.rounds):
        for one, rows in results.items():
            command = [
                sys.executable,
                __file__,
                "--one",
                one,
                "--batch",
                str(given.batch),
                "--precision",
                given.precision,
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    for one, rows in results.items():
        mib, ms = (statistics.median(row[name] for row in rows) for name in ("mib", "seconds"))
        print(f"checkpoint_blocks={one:5s}  {mib:6.0f} MiB  {1e3 * ms:6.0f} ms per step")


if __name__ == "__main__":
    main()
