"""Runs saved Core ML packages (.mlpackage, ML Program) anywhere, from their files alone::

    package = mil.load(Path("model.mlpackage"))
    logits = package.run({"image": image})["logits"]

It needs neither coremltools nor Apple's software: numpy, scipy and protobuf.

What it verifies: that the saved file, its weights included, computes a function; that types and shapes are declared as
they follow; that nothing in it is unknown here: an unknown message field, operation, parameter or mode is an error,
never ignored. What it does not verify: what Apple's compiler, its scheduling, or the arithmetic of a GPU or of the
Neural Engine make of that file. With ``compute="fp16"`` results are rounded where the program declares fp16: that shows
how large such errors are, not which they are.

Files are not trusted: paths lead nowhere else, every number is checked against the file and against ``Limits`` before
memory or time is spent, and whatever is wrong is a CheckFailed that says where.
"""

from __future__ import annotations

from pathlib import Path

from hydra_export.mil.evaluate import Compute
from hydra_export.mil.package import Feature, Package, Signature, load
from hydra_export.mil.program import Function, Limits

__all__ = ["Compute", "Feature", "Function", "Limits", "Package", "Signature", "check", "load"]


def check(path: Path) -> None:
    """Raises CheckFailed where ``load`` does; nothing is run."""
    load(path)
