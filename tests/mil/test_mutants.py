"""Damaged packages, thousands of them: each is refused with an error of ours, or runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_BASES = ("ios15-FLOAT16", "ios16-palette", "ios18-int4", "ios18-vectors", "classifier", "functions")
MUTANTS = int(os.environ.get("HYDRA_EXPORT_MUTANTS", "1000"))
_ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_no_mutant_crashes_hangs_or_raises_what_is_not_ours(converted: Path, universal: Path) -> None:
    paths = [*(str(converted / f"{name}.mlpackage") for name in _BASES), str(universal)]
    done = subprocess.run(
        [sys.executable, "tests/mil/mutants.py", "0", str(MUTANTS), *paths],
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    fates = json.loads(done.stdout)
    assert sum(fates.values()) == MUTANTS
    assert fates.keys() == {"refused", "same", "other"}, fates
    assert fates["refused"] > MUTANTS / 2  # most changes are seen; the others change names, or constants
