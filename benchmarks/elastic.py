"""What a universal model gains from a dense ViT, and from a change of its basis, by what the product itself trains.

    python benchmarks/elastic.py --out FOLDER [--model small|deep] [--seeds 0,1,2] [--steps 500,2000] [--plot FILE]

Fashion-MNIST. ``small``: 6 heads of 16, depth 4, images of 28 pixels; ``deep``: 12 heads of 12, depth 12, 64 pixels.
For each seed a dense model is trained first, and every arm starts from it, with the same images and head counts drawn
in the same order. Finished runs in FOLDER are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from measuring import environment, mean_and_range

import hydra_export as hx
from hydra_export import pictures
from hydra_export.data import datasets
from hydra_export.evaluation.accuracy import accuracy

MODELS: dict[str, dict[str, Any]] = {
    "small": {"heads": 6, "head_dim": 16, "depth": 4, "patch_size": 7, "image_size": 28},
    "deep": {"heads": 12, "head_dim": 12, "depth": 12, "patch_size": 16, "image_size": 64},
}
DENSE_STEPS = 1500
# By arm, what differs from recipe elastic; "as it is" is the dense model, and "scratch" has random first weights.
UNTRAINED: dict[str, dict[str, Any]] = {"as it is": {}, "sorted": {"rebase": "sort"}, "rotated": {}}
ARMS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "unsorted": {"rebase": "none", "distill": ""},
    "sorted": {"rebase": "sort", "distill": ""},
    "rotated": {"distill": ""},
    "rotated, distilled": {},
    "rotated, no labels": {"labels": "ignore"},
}
LABELS = {"scratch": "from scratch", "unsorted": "as it is", "rotated, no labels": "rotated, without labels"}
NEVER = {"monitor_every": 10**6, "save_every": 10**6}


def top1(out: Path, recipe: str, steps: int, seed: int, **others: Any) -> dict[int, float]:
    """Accuracy per head count of a run in *out*, which is made where it is not there yet."""
    result = out / "accuracy.json"
    if not result.exists():
        others["override"] = NEVER | others["override"]
        outcome = hx.train_model(recipe, out, seed=seed, steps=steps, **others)
        found = outcome.accuracy if outcome.config.measure == "top-1" else on_labels(outcome.checkpoint)
        result.write_text(json.dumps({"accuracy": found, "seconds": outcome.seconds}))
    return {int(k): value for k, value in json.loads(result.read_text())["accuracy"].items()}


def on_labels(checkpoint: Path) -> dict[int, float]:
    """Accuracy of every subnetwork of *checkpoint*."""
    made, test = hx.load_checkpoint(checkpoint), datasets.load("fashion-mnist").test
    rows = accuracy(made.model, made.info.preprocessing, test, range(1, made.info.config.heads + 1))
    return {k: row.top1 for k, row in rows.items()}


def from_scratch(model: str, lr: float) -> dict[str, Any]:
    """The overrides of recipe fashion-mnist that make it the recipe of the other arms."""
    fields = {f"model.{name}": value for name, value in MODELS[model].items()}
    how = {"mixup": 0.0, "erase": 0.0, "shift": 0}
    fields |= {f"augmentation.{name}": value for name, value in how.items()}
    return fields | {"stored": "float32", "lr": lr, "label_smoothing": 0.0, "active_slices": True}


def measured(out: Path, model: str, arm: str, steps: int, seed: int) -> dict[int, float]:
    """Accuracy per head count of one arm, or of ``dense``, the model that they start from."""
    heads, place = MODELS[model]["heads"], out / model / f"{arm.replace(', ', '-').replace(' ', '-')}-{steps}-{seed}"
    width = heads * MODELS[model]["head_dim"]
    lr = 1e-3 * (96 / width) ** 0.5  # recipe elastic's
    if arm == "dense":
        override = from_scratch(model, lr)
        return top1(place, "fashion-mnist", steps, seed, train_heads=[heads], override=override)
    if arm == "scratch":
        return top1(place, "fashion-mnist", steps, seed + 10, train_heads="all", override=from_scratch(model, lr))
    start = out / model / f"dense-{DENSE_STEPS}-{seed}" / "checkpoint.safetensors"
    if arm == "as it is":
        return on_labels(start)
    small = {"augmentation.crop": None, "augmentation.color_jitter": 0.0, "workers": 0}
    override = small | (ARMS if steps else UNTRAINED)[arm]
    return top1(place, "elastic", steps, seed + 10, data="fashion-mnist", start=start, override=override)


def draw(rows: dict[int, dict[str, list[dict[int, float]]]], path: Path) -> None:
    """Mean accuracy over head counts, one panel per budget, with the range of the seeds."""
    with pictures.drawn(path, "", panels=len(rows), share_y=True) as panels:
        for axes, (steps, arms) in zip(panels, rows.items(), strict=True):
            for arm, by_seed in arms.items():
                heads = sorted(by_seed[0])
                seeds = [[found[k] for found in by_seed] for k in heads]
                axes.errorbar(heads, *mean_and_range(seeds), fmt="o-", label=LABELS.get(arm, arm))
            axes.set(title=f"{steps:,} steps", xlabel="head count, k", xticks=heads)
        panels[0].set(ylabel="top-1 %")
        panels[0].legend(loc="lower right")


def show(title: str, rows: dict[str, list[dict[int, float]]]) -> None:
    """A table in Markdown: mean over seeds per head count, then the mean over head counts and its deviation."""
    heads = sorted(next(iter(rows.values()))[0])
    print(f"\n| {title} | {' | '.join(f'k={k}' for k in heads)} | mean (deviation) |")
    print("|---" * (len(heads) + 2) + "|")
    for arm, by_seed in rows.items():
        means = [statistics.mean(found[k] for found in by_seed if k in found) for k in heads]
        overall = [statistics.mean(found.values()) for found in by_seed]
        spread = f"{statistics.mean(overall):.2f} ({statistics.pstdev(overall):.2f})"
        print(f"| {arm} | {' | '.join(f'{mean:.1f}' for mean in means)} | {spread} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", default="500,2000")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    print(environment(("torch",)))
    seeds = [int(seed) for seed in given.seeds.split(",")]
    full = [measured(given.out, given.model, "dense", DENSE_STEPS, seed) for seed in seeds]
    heads = MODELS[given.model]["heads"]
    print(f"dense, {DENSE_STEPS:,} steps, full width: {', '.join(f'{found[heads]:.2f}' for found in full)}", flush=True)
    rows: dict[int, dict[str, list[dict[int, float]]]] = {}
    for steps in (0, *map(int, given.steps.split(","))):
        rows[steps] = {
            arm: [measured(given.out, given.model, arm, steps, seed) for seed in seeds]
            for arm in (ARMS if steps else UNTRAINED)
        }
        show(f"{given.model}, {steps:,} steps, seeds {given.seeds}", rows[steps])
    if given.plot:
        draw({steps: arms for steps, arms in rows.items() if steps}, given.plot)


if __name__ == "__main__":
    main()
