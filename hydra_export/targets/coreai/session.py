"""Running an asset in Apple's runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hydra_export.arrays import Array
from hydra_export.errors import CheckFailed
from hydra_export.targets.coreai import reader
from hydra_export.targets.coreai.asset import ALONE
from hydra_export.unchanged import stamps


class CoreAISession:
    """The function of one head count; *wide*: in float32, with the weights as they are stored."""

    def __init__(self, path: Path, heads: int, wide: bool) -> None:
        functions = reader.functions(path)
        self.function = ALONE if set(functions) == {ALONE} else f"k{heads}"
        if self.function not in functions:
            raise CheckFailed(f"{path} has functions {', '.join(functions)}, none for heads {heads}.")
        self.path, self.wide = path, wide
        (self.input,), (self.output,) = functions[self.function].inputs, functions[self.function].outputs

    def run(self, image: Array) -> Array:
        """Outputs of any number of images, in batches of the asset's own size."""
        name, declared = self.input
        size = declared.shape[0]
        padded = np.concatenate([image, np.repeat(image[-1:], -len(image) % size, axis=0)])
        batches = reader.call(
            "run",
            f"Running {self.path}",
            path=str(self.path),
            stamp=str(stamps(self.path)),
            function=self.function,
            wide=self.wide,
            images=[padded[at : at + size] for at in range(0, len(padded), size)],
            name=name,
            output=self.output[0],
        )
        return np.concatenate(batches)[: len(image)]
