"""Bytes on disk, and what a device must fetch, per target, graph kind and precision. ViT-B/16-224, random weights.

    python benchmarks/sizes.py [--targets onnx,tflite,coreml]

For {3, 6, 12} and for 3..12: all files of a kind together; what a device fetches that runs the smallest of them; what
it fetches more to run the next one, and the largest. A file that it has already is not fetched again. Some minutes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from measuring import environment, make_checkpoint

from hydra_export import checkpoint, targets
from hydra_export.errors import BadInput
from hydra_export.target import Artifact, ExportSpec, Target

LISTS = {"3, 6, 12": (3, 6, 12), "3..12": tuple(range(3, 13))}


def fetched(artifacts: Sequence[Artifact], out: Path, wanted: Sequence[int]) -> list[int]:
    """Bytes to fetch for each of *wanted*, one after the other."""
    had: set[str] = set()
    amounts = []
    for k in wanted:
        # Of a kind that also has graphs which fix the head count, the one that switches.
        chosen = max((each for each in artifacts if k in each.heads), key=lambda each: len(each.heads))
        new = set(chosen.files) - had
        amounts.append(sum((out / name).stat().st_size for name in new))
        had |= new
    return amounts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default=",".join(targets.names()))
    chosen = parser.parse_args().targets.split(",")
    print(environment(()), end="\n\n")
    print("| target | graph kind | precision | heads | on disk | over k = 12 | smallest | next | largest |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vit-b.safetensors"
        make_checkpoint(path)
        for name in chosen:
            target = targets.get(name)
            for spec in specs(target):
                for listed, heads in LISTS.items():
                    out = Path(folder) / "out"
                    out.mkdir()
                    artifacts = target.write(checkpoint.load(path), heads, spec, out)
                    print(row(target, spec, listed, heads, artifacts, out), flush=True)
                    shutil.rmtree(out)


def specs(target: Target) -> list[ExportSpec]:
    """Every graph kind in the target's default precision and in int8."""
    found = [
        ExportSpec(graph=graph, precision=precision)
        for precision in dict.fromkeys((target.precisions[0], "int8"))
        for graph in target.graphs
        if precision in target.precisions
    ]
    return [spec for spec in found if offered(target, spec)]


def offered(target: Target, spec: ExportSpec) -> bool:
    try:
        target.check(spec)
    except BadInput:
        return False
    return True


LARGEST: dict[str, int] = {}  # the k = 12 separate artifact in the default precision, by target


def row(
    target: Target, spec: ExportSpec, listed: str, heads: Sequence[int], artifacts: Sequence[Artifact], out: Path
) -> str:
    total = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    if (spec.graph, spec.precision) == ("separate", target.precisions[0]):
        LARGEST[target.name] = fetched(artifacts, out, heads[-1:])[0]
    amounts = fetched(artifacts, out, [heads[0], heads[1], heads[-1]])
    cells = [target.name, spec.graph, spec.precision, listed, megabytes(total)]
    cells += [f"{total / LARGEST[target.name]:.4f}", *map(megabytes, amounts)]
    return f"| {' | '.join(cells)} |"


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}"


if __name__ == "__main__":
    main()
