"""One universal model against independent ones at equal total compute, and both optimisers, on Fashion-MNIST.

    python benchmarks/training_universal.py --out FOLDER [--seeds 0,1,2] [--budgets 1600,6400] [--plot FILE]

Widths are 1 to 4 heads of 16 channels, depth 3, patches of 7. A universal model of N steps draws each width in a
quarter of them, and each independent model of one width has N / 4 steps. Finished runs in FOLDER are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import msgspec
from measuring import environment, mean_and_range

from hydra_export import pictures
from hydra_export.architecture import HydraConfig
from hydra_export.train import recipes, run
from hydra_export.train.config import Augmentation, TrainConfig

HEADS = (1, 2, 3, 4)
OPTIMIZERS = {"plain": False, "slices": True}


def config(heads: int, trained: tuple[int, ...], steps: int, seed: int, active_slices: bool) -> TrainConfig:
    """The same recipe for all: nothing differs but widths, steps, seed and optimiser."""
    return msgspec.structs.replace(
        recipes.fashion_mnist(),
        model=HydraConfig(heads=heads, head_dim=16, depth=3, patch_size=7, image_size=28, channels=1, num_classes=10),
        trained_heads=trained,
        export_heads=trained,
        steps=steps,
        seed=seed,
        batch_size=128,
        lr=2e-3,
        active_slices=active_slices,
        augmentation=Augmentation(flip=0.5),
        save_every=10**6,
        monitor_every=10**6,
        stored="float32",
    )


def accuracy(out: Path, wanted: TrainConfig) -> dict[int, float]:
    """Top-1 per head count of that run, trained where it is not there yet."""
    result = out / "accuracy.json"
    if not result.exists():
        outcome = run.run(wanted, out)
        result.write_text(json.dumps({"accuracy": outcome.accuracy, "seconds": outcome.seconds}))
    return {int(k): top1 for k, top1 in json.loads(result.read_text())["accuracy"].items()}


def seconds(out: Path) -> float:
    """What that run took."""
    return float(json.loads((out / "accuracy.json").read_text())["seconds"])


def draw(measured: dict[int, dict[str, list[list[float]]]], path: Path) -> None:
    """Mean accuracy over the widths, one panel per budget, with the range of the seeds."""
    with pictures.drawn(path, "", panels=len(measured)) as panels:
        for axes, (budget, rows) in zip(panels, measured.items(), strict=True):
            for name, by_seed in rows.items():
                axes.errorbar(HEADS, *mean_and_range(list(zip(*by_seed, strict=True))), fmt="o-", label=name)
            axes.set(title=f"{budget:,} steps in all", xlabel="head count, k", ylabel="top-1 %", xticks=HEADS)
            axes.legend(loc="lower right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--budgets", default="1600,6400")
    parser.add_argument("--optimizers", default="plain,slices")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    print(environment(("torch",)))
    optimizers = {name: OPTIMIZERS[name] for name in given.optimizers.split(",")}
    measured: dict[int, dict[str, list[list[float]]]] = {}
    for budget in map(int, given.budgets.split(",")):
        rows: dict[str, list[list[float]]] = {
            name: [] for name in ("independent", *(f"universal {o}" for o in optimizers))
        }
        measured[budget] = rows
        spent: dict[str, list[float]] = {name: [] for name in rows}
        for seed in map(int, given.seeds.split(",")):
            place = given.out / f"{budget}-{seed}"
            for name, active_slices in optimizers.items():
                universal = place / f"universal-{name}"
                found = accuracy(universal, config(4, HEADS, budget, seed, active_slices))
                rows[f"universal {name}"].append([found[k] for k in HEADS])
                spent[f"universal {name}"].append(seconds(universal))
            alone = [place / f"independent-{k}" for k in HEADS]
            found_alone = [
                accuracy(out, config(k, (k,), budget // 4, seed, False)) for k, out in zip(HEADS, alone, strict=True)
            ]
            rows["independent"].append([found[k] for k, found in zip(HEADS, found_alone, strict=True)])
            spent["independent"].append(sum(map(seconds, alone)))
        print(f"\n{budget} steps, mean top-1 % (standard deviation) over seeds {given.seeds}")
        for name, by_seed in rows.items():
            columns = list(zip(*by_seed, strict=True))
            shown = "  ".join(f"{statistics.mean(c):.2f} ({statistics.pstdev(c):.2f})" for c in columns)
            print(f"{name:18s} {shown}   {statistics.mean(spent[name]):.0f} s")
            for top1 in by_seed:
                print(f"{'':18s} {'  '.join(f'{value:.2f}' for value in top1)}")
    if given.plot:
        draw(measured, given.plot)


if __name__ == "__main__":
    main()
