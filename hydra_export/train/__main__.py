"""``torchrun ... -m -- hydra_export.train``: the program ``hydra-export train`` in each of the processes."""

from __future__ import annotations

import os
import runpy
import sys

if __name__ == "__main__":
    if int(os.environ.get("RANK", "0")) > 0:  # the first process prints; the others would say the same
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 (as long as the process)
    sys.argv.insert(1, "train")
    runpy.run_module("hydra_export", run_name="__main__")
