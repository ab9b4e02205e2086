"""What times pickled modules in ``bench``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Run = Callable[[Any], Any]


def _pytorch(path: Path, threads: int) -> Callable[[int], Run]:
    import torch

    torch.set_num_threads(threads)
    module = torch.load(path, weights_only=False)["module"]
    return lambda _heads: lambda image: module(torch.from_numpy(image)).detach().numpy()


def _version() -> str:
    import torch

    return str(torch.__version__)


RUNNERS = {
    "pytorch": {
        "unit": "cpu",
        "compute": "fp32",
        "times": "pytorch",
        "installed": lambda: importlib.util.find_spec("torch") is not None,
        "version": _version,
        "open": _pytorch,
    },
}
NEEDS = "torch"
