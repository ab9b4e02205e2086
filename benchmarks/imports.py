"""What becomes of checkpoints as others write them: equal to the original, assumed aloud, or refused.

    python benchmarks/imports.py

Random weights, 32 pixels, depth 2; the error is that of full-width logits on two random images, over the largest.
Exit status 1 where one was accepted, computes something else and says nothing. Half a minute.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cases are the tests' own

from measuring import environment

from tests.importing.cases import cases, outcome


def main() -> None:
    print(environment(("torch", "timm")), end="\n\n")
    ends: dict[str, int] = {}
    print("| checkpoint | end | error | assumed, or the reason |\n|---|---|---|---|")
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            found = outcome(case, Path(folder))
        ends[found.end] = ends.get(found.end, 0) + 1
        error = "" if found.error is None else f"{found.error:.1e}"
        said = (
            found.detail.partition(": ")[2]
            or found.detail
            or ", ".join(f"{line.split(':')[0]}" for line in found.assumed)
        )
        print(f"| {case.name} | {found.end} | {error} | {said} |")
    print(f"\n{sum(ends.values())} checkpoints: {', '.join(f'{count} {end}' for end, count in sorted(ends.items()))}")
    sys.exit(1 if "SILENT" in ends else 0)


if __name__ == "__main__":
    main()
