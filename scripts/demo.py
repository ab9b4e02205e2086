"""The table that ``make demo`` ends with: what each head count of a bundle costs here, on a phone and on a board.

python scripts/demo.py BUNDLE      times the bundle here in one runtime; phone and board are estimates
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.table import Table

from hydra_export import bundle, profiles
from hydra_export.bench import Report, bench
from hydra_export.bundle import Manifest
from hydra_export.commands import percent, table, talk
from hydra_export.commands.console import Console
from hydra_export.commands.progress import shown_progress
from hydra_export.latency import Advice, Constraints, Evidence, advise, words
from hydra_export.latency.spread import rounded

RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime"}  # the first that the bundle has files for
DEVICES = {"pixel7": "Pixel 7", "rpi5": "Pi 5"}
RUNS = 500


def main(folder: Path) -> None:
    manifest = bundle.read(folder)
    formats = [*dict.fromkeys(artifact.target for artifact in manifest.artifacts)]
    target = next(target for target in RUNTIMES if target in formats)
    with shown_progress(talk()) as progress:
        report = bench(folder, runs=RUNS, runtimes=[RUNTIMES[target]], progress=progress)
    evidence = Evidence(profiles.resolve(None))
    advice = [advise(evidence, profiles.get(name), manifest.model.workload, Constraints()) for name in DEVICES]
    noisy = ", ".join(str(timing.heads) for timing in report.timings if timing.noise)
    program = Path(sys.executable).with_name("hydra-export")
    program = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    out = Console()
    footnote = f" (noisy at k = {noisy})" if noisy else ""
    limits = [
        f"{name} in {words.milliseconds(each.budget.ms)}" for name, each in zip(DEVICES.values(), advice, strict=True)
    ]
    out.print("One model, every size: MB in each format, ms for one image", style="bold")
    out.print(_table(manifest, formats, report, advice))
    for line in (
        f"ms here: median of {RUNS} calls in {RUNTIMES[target]} on one core{footnote}.",
        f"Does one image fit: {', '.join(limits)}? These are estimates; your own measurement replaces them.",
        "",
        f"{folder}/ contains these files, verified, and README.md, which says how to run them.",
        f"Next, your own ViT: {program} timm:deit_tiny_patch16_224 --target {target} --out my-vit",
    ):
        out.print(line, soft_wrap=True)


def _table(manifest: Manifest, formats: list[str], report: Report, advice: list[Advice]) -> Table:
    shown = table("k", "top-1 %", *formats, "ms here", *DEVICES.values())
    for k in manifest.model.heads:
        files = [next(a for a in manifest.artifacts if a.target == target and k in a.heads) for target in formats]
        megabytes = [f"{manifest.fetch_bytes(file) / 1e6:.1f}" for file in files]
        here = next(timing.median_ms for timing in report.timings if timing.heads == k)
        fits = [f"{each.verdicts[k]}, {words.milliseconds(each.estimates[k].ms)}" for each in advice]
        shown.add_row(str(k), percent(manifest.model.accuracy.get(k)), *megabytes, rounded(here), *fits)
    return shown


if __name__ == "__main__":
    main(Path(sys.argv[1]))
