"""What times Core AI assets in ``bench``, on a Mac: Apple's runtime for Linux is there to verify, not to be fast.

The text of this module is part of the program that boards run: it takes Python 3.8, numpy and the runtime.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Python 3.8 does not know these forms
    from collections.abc import Callable
    from typing import Any

    Run = Callable[[Any], Any]  # a batch of images to its logits


def _coreai(path: Path, _threads: int) -> Callable[[int], Run]:
    loop = importlib.import_module("asyncio").new_event_loop()
    ends = importlib.import_module("contextlib").AsyncExitStack()
    asset = importlib.import_module("coreai.authoring").AIModelAsset.load(path)
    array = importlib.import_module("coreai.runtime").NDArray
    model = loop.run_until_complete(ends.enter_async_context(asset.executable()))

    def at(heads: int) -> Run:
        name = f"k{heads}"
        function = model.load_function(name if name in model.function_names else "main")

        def run(image: Any) -> Any:
            (output,) = loop.run_until_complete(function({"image": array(image)})).values()
            return output.numpy()

        return run

    return at


RUNNERS = {
    "coreai": {
        "unit": "npu",
        "compute": "fp16",
        "times": "coreai",
        "installed": lambda: sys.platform == "darwin" and importlib.util.find_spec("coreai") is not None,
        "version": lambda: importlib.import_module("importlib.metadata").version("coreai-core"),
        "open": _coreai,
    },
}
NEEDS = "coreai-core (on a Mac)"
