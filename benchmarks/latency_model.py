"""How well do three measured head counts foretell the others? ViT-B/16-224 on this machine, onnxruntime, one thread.

    python benchmarks/latency_model.py [--runs 30] [--work FOLDER]

One process times k = 3, 6, 12 and keeps the times as a user's; a later one times k = 1 to 12. After one common factor
from k = 6 (the machine may be faster or slower by then), what the latency model says of k = 4 to 11 is held against
what was measured: by the median on the clock, and by the least CPU time of a call, which other programs disturb less.
Exit status 1 past 3 % on average or 6 % anywhere, by the latter. About five minutes and 8 GB of memory; repeat it until
the machine is quiet.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import measuring
import msgspec

from hydra_export import bench, latency, profiles
from hydra_export.architecture import HydraConfig
from hydra_export.profiles import ResolvedProfile

BEFORE, JUDGED, ALL = (3, 6, 12), (4, 5, 7, 8, 9, 10, 11), range(1, 13)
MOST_MEAN, MOST = 0.03, 0.06
Clock = Literal["median_ms", "cpu_min_ms"]
CLOCKS: dict[Clock, str] = {"median_ms": "median by the clock", "cpu_min_ms": "least CPU time"}


def hydra_export(*arguments: str, into: Path | None = None) -> None:
    """Runs the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "hydra_export", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    if into is not None:
        into.write_bytes(done.stdout)


def times(path: Path, clock: Clock) -> dict[int, float]:
    """Per head count, of a report."""
    return {timing.heads: getattr(timing, clock) for timing in bench.read(path).timings}


def foretold(folder: Path, saved: dict[int, float]) -> dict[int, float]:
    """What the model says of every head count from *saved* times of the user's."""
    device, known = next((name, entry) for name, entry in profiles.resolve(folder).items() if entry.own)
    records = tuple(msgspec.structs.replace(r, ms=saved[r.k], low=None, high=None) for r in known.own if r.k in saved)
    profile = msgspec.structs.replace(known.profile, latency=records)
    evidence = latency.Evidence({device: ResolvedProfile(profile, records)})
    model = latency.Workload.of("vit-b", HydraConfig(heads=12), ALL, {})
    path = latency.ExecutionPath("onnxruntime", "float", "cpu")
    return {k: one.ms for k, one in latency.estimates(evidence, device, path, model).items()}


def judge(folder: Path, before: Path, later: Path, clock: Clock) -> tuple[float, float]:
    """Prints a table; the mean and the largest error."""
    saved, measured = times(before, clock), times(later, clock)
    said = foretold(folder, saved)
    factor = measured[6] / saved[6]
    print(f"\n{CLOCKS[clock]}; common factor from k = 6: {factor:.3f}\n")
    print(f"{'k':>3} {'foretold':>9} {'measured':>9} {'error':>8}")
    errors = {}
    for k in ALL:
        errors[k] = factor * said[k] / measured[k] - 1
        mark = "" if k in JUDGED else "  (timed before)" if k in BEFORE else "  (below all that was timed before)"
        print(f"{k:3} {factor * said[k]:9.1f} {measured[k]:9.1f} {errors[k]:8.1%}{mark}")
    judged = [abs(errors[k]) for k in JUDGED]
    mean, worst = statistics.mean(judged), max(judged)
    print(f"k = 4 to 11 without 6: mean error {mean:.1%}, largest {worst:.1%}")
    return mean, worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--work", type=Path, help="kept, and used again where it holds the bundles")
    asked = parser.parse_args()
    print(measuring.environment(("onnxruntime",)))
    with tempfile.TemporaryDirectory() as temporary:
        work = asked.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        checkpoint, folder = work / "vit-b.safetensors", work / "profiles"
        if not checkpoint.exists():
            measuring.make_checkpoint(checkpoint)
        for name, heads in (("before", "3,6,12"), ("later", "all")):
            if not (work / name).exists():
                hydra_export("--checkpoint", str(checkpoint), "--heads", heads, "--out", str(work / name))
        folder.mkdir(exist_ok=True)
        runs, reports = ("--runs", str(asked.runs)), {name: work / f"{name}.json" for name in ("before", "later")}
        keep = ("--save", "--profiles", str(folder))
        hydra_export("bench", "--bundle", str(work / "before"), *runs, *keep, "--json", into=reports["before"])
        hydra_export("bench", "--bundle", str(work / "later"), *runs, "--json", into=reports["later"])
        noisy = [t for path in reports.values() for t in bench.read(path).timings if t.noise]
        print(f"{len(noisy)} of {len(BEFORE) + len(ALL)} times are noisy")
        judge(folder, reports["before"], reports["later"], "median_ms")
        mean, worst = judge(folder, reports["before"], reports["later"], "cpu_min_ms")
    return 0 if mean <= MOST_MEAN and worst <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
