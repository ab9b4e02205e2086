"""What a training step costs: forward and backward over the same-size plain timm ViT, and whole steps per optimiser.

    python benchmarks/training_step.py [--rounds 8] [--batch 4]

ViT-B/16 at 224 pixels, random weights, CPU time of one thread, interleaved; ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from measuring import environment
from timm.models.vision_transformer import VisionTransformer
from torch.func import functional_call

from hydra_export.data.datasets import Split
from hydra_export.train import batches, initial, recipes
from hydra_export.train.config import Augmentation, TrainConfig
from hydra_export.train.distributed import World
from hydra_export.train.loop import Trainer, leaves

HEADS = (3, 6, 12)


def spent(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def trainer(k: int, batch: int, active_slices: bool) -> Trainer:
    """ViT-B/16 with k = 3..12 to train, of which every step draws *k*; the images are noise."""
    config: TrainConfig = msgspec.structs.replace(
        recipes.imagenet_base(),
        steps=1000,
        batch_size=batch,
        drop_path=0.0,
        ema_decay=0.0,
        kept_weights="raw",
        clip=1.0,
        augmentation=Augmentation(flip=0.0),
        active_slices=active_slices,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), np.uint8)
    images = Split(pixels, np.arange(8))
    exact = msgspec.structs.replace(config.preprocessing, crop=1.0)
    config = msgspec.structs.replace(config, preprocessing=exact)
    world = World(0, 1, torch.device("cpu"))
    made = Trainer(config, initial.model(config, None, False), batches.batches(config, images), world)
    made._draw_heads = lambda step: (k,)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    given = parser.parse_args()
    print(environment(("torch", "timm")))
    torch.set_num_threads(1)
    image, label = torch.randn(given.batch, 3, 224, 224), torch.arange(given.batch)
    for k in HEADS:
        plain_step, sliced_step = (trainer(k, given.batch, active) for active in (False, True))
        model = plain_step.model
        dense = VisionTransformer(embed_dim=64 * k, depth=12, num_heads=k, num_classes=1000)
        parameters, where = dict(model.named_parameters()), model.cuts

        def timm_vit(dense: VisionTransformer = dense) -> None:
            dense.zero_grad(set_to_none=True)
            F.cross_entropy(dense(image), label).backward()

        def ours(k: int = k, model: torch.nn.Module = model, parameters=parameters, where=where) -> None:
            active = leaves(parameters, where, (k,))
            F.cross_entropy(functional_call(model, active, (image, k)), label).backward()

        works = {
            "timm": timm_vit,
            "forward and backward": ours,
            "step, plain": plain_step.train_step,
            "step, active slices": sliced_step.train_step,
        }
        for work in works.values():
            work()
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(given.rounds):
            for name, work in works.items():
                times[name].append(spent(work))
        for name in list(works)[1:]:
            ratio = statistics.median(a / b for a, b in zip(times[name], times["timm"], strict=True))
            ms = 1e3 * statistics.median(times[name])
            print(f"k={k:2d}  {name:22s} {ratio:.3f} of timm's forward and backward ({ms:.0f} ms)", flush=True)
        del plain_step, sliced_step, model, dense, parameters


if __name__ == "__main__":
    main()
