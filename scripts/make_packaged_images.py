"""Makes hydra_export/data/fashion-mnist-1000.npz: the first 100 test images of each class, in test order.

Run from the repository: python scripts/make_packaged_images.py [FOLDER with the four idx files]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from hydra_export.data.datasets import fashion_mnist

PER_CLASS = 100
OUT = Path(__file__).parents[1] / "hydra_export" / "data" / "fashion-mnist-1000.npz"


def main() -> None:
    test = fashion_mnist(Path(sys.argv[1]) if len(sys.argv) > 1 else None).test
    chosen = np.sort(np.concatenate([np.flatnonzero(test.labels == label)[:PER_CLASS] for label in range(10)]))
    np.savez_compressed(OUT, pixels=test.pixels[chosen, ..., 0], labels=test.labels[chosen].astype(np.uint8))


if __name__ == "__main__":
    main()
