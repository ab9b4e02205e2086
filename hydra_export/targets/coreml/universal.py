"""One package that holds every listed subnetwork: a function for each, over weights that are stored once.

Experimental until it is run on Apple hardware. What is verified of each function is what it computes, by our evaluator;
not what Core ML makes of many products of small constant blocks, which stand for
each Linear (see ``graph``), nor that it loads a block once for several functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_export.target import Artifact, ExportSpec
from hydra_export.targets.coreml import package

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint


def planned(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
    """``<model>-universal.mlpackage``, ``-universal-fp32`` or ``-universal-int8``."""
    return [package.planned(checkpoint, heads, spec, "universal")]


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
    """Writes what is ``planned`` into *out*.

    Its functions are ``k3``, ``k6``, ...; the one that runs where none is named is the largest.
    """
    package.check_labels(checkpoint, spec)
    info = checkpoint.info
    spans = list(itertools.pairwise((0, *heads)))
    (height, width), listed = info.config.image_shape, ", ".join(map(str, heads))
    text = (
        f"{info.name}, subnetworks of {listed} of {info.config.heads} attention heads, as functions k{heads[0]} to "
        f"k{heads[-1]} over common weights: Vision Transformers for images of {height} x {width} pixels. "
        f"Experimental: it has not been run on Apple hardware."
    )
    (artifact,) = planned(checkpoint, heads, spec)
    programs = [(f"k{k}", spans[:count]) for count, k in enumerate(heads, start=1)]
    return [package.write(checkpoint, artifact, out, programs, text)]
