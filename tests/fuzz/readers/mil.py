"""Core ML packages of anybody, opened and run."""

from __future__ import annotations

import numpy as np

from tests.fuzz import checkpoints, packages
from tests.fuzz.reader import Reader
from tests.mil import mutants
from tests.mil.conftest import weight_file, write_package
from tests.mil.test_files import WEIGHT, adding
from tests.mil.test_refusals import doubling


def _seeds() -> list[bytes]:
    place = checkpoints.folder() / "mil"
    if not place.exists():
        write_package(place / "adding.mlpackage", adding(), weight_file(WEIGHT))
        write_package(place / "doubling.mlpackage", doubling(16)[0], weight_file(np.zeros(3, np.float16)))
    return [packages.of(path) for path in sorted(place.iterdir())]


READER = Reader(
    _seeds, packages.mutate, packages.parse, lambda path: mutants.run(packages.unpacked(path)), ".mlpackage.zip"
)
