"""SIGKILL at random moments of a short run, saves included; each time resumed, and compared bit for bit.

    python benchmarks/training_resume.py [--kills 20] [--seed 0]

One process, one thread, 120 steps on scikit-learn's digits, a save at every fifth. The killed run is killed again and
again at a random moment until that many kills have hit it, then finished; after every kill both of its files must load.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import environment

from hydra_export import checkpoint
from hydra_export.train import record

STEPS = 120
OPTIONS = ["--recipe", "digits", "--steps", str(STEPS), "--threads", "1"]
OVERRIDES = ["drop_path=0.2", "augmentation.erase=0.5", "augmentation.mixup=0.8", "save_every=5", "monitor_every=40"]


def command(out: Path, *more: str) -> list[str]:
    """The run into *out*."""
    overrides = [word for pair in OVERRIDES for word in ("--override", pair)]
    return [sys.executable, "-m", "hydra_export", "train", *OPTIONS, *overrides, "--out", str(out), *more]


def check(out: Path) -> int:
    """The step of the state in *out*, both files of which must load; -1 where there is none yet."""
    if (out / record.CHECKPOINT).exists():
        checkpoint.load(out / record.CHECKPOINT)
    state = record.read_state(out, torch.device("cpu")) if (out / record.CONFIG).exists() else None
    return -1 if state is None else int(state["step"])


def equal(one: Any, other: Any) -> bool:
    """Whether two states are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def killed(out: Path, moment: float, during_save: bool) -> bool:
    """Whether the run in *out*, begun or resumed, could be killed *moment* seconds after it began to make steps."""
    resume = ["--resume"] if (out / record.CONFIG).exists() else []
    process = subprocess.Popen(command(out, *resume), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = check(out)
    while process.poll() is None and check(out) == before:  # until its first new state is there
        time.sleep(0.01)
    deadline = time.monotonic() + moment
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)
    while during_save and process.poll() is None and not list(out.glob(".*.partial")):
        time.sleep(0.0002)
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(environment(("torch",)))
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "whole", Path(folder) / "killed"
        subprocess.run(command(whole), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        expected = record.read_state(whole, torch.device("cpu"))
        assert expected is not None
        hits, in_saves = 0, 0
        while hits < given.kills:
            during_save = bool(draw.randrange(2))
            if not killed(out, draw.uniform(0, 0.3), during_save):
                print("finished before the kill; compared, and begun again")
                compare(expected, out)
                out = Path(folder) / f"killed-after-{hits}"
                continue
            hits += 1
            partial = bool(list(out.glob(".*.partial")))
            in_saves += partial
            print(f"kill {hits}: step {check(out)} is kept{', killed while saving' if partial else ''}", flush=True)
        subprocess.run(command(out, "--resume"), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        compare(expected, out)
        print(f"{hits} kills, {in_saves} of them while saving; weights, moving average and optimiser are bit-identical")


def compare(expected: dict[str, Any], out: Path) -> None:
    """Refuses a state that differs in anything but the time it took."""
    found = record.read_state(out, torch.device("cpu"))
    assert found is not None
    for part in ("step", "model", "ema", "optimizer", "scaler"):
        if not equal(expected[part], found[part]):
            sys.exit(f"{part} differs from the uninterrupted run")


if __name__ == "__main__":
    main()
