"""Makes hydra_export/data/fashion-mnist-1000.npz: the first 100 test images of each class, in test order.

Run from the repository: python scripts/make_packaged_images.py [FOLDER with the idx files]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from hydra_export.train import data

PER_CLASS = 100
OUT = Path(__file__).parents[1] / "hydra_export" / "data" / "fashion-mnist-1000.npz"


def main() -> None:
    test = data.fashion_mnist(Path(sys.argv[1]) if len(sys.argv) > 1 else None).test
    labels = test.labels_B.numpy()
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:PER_CLASS] for label in range(10)]))
    np.savez_compressed(OUT, pixels=test.pixels_BHW.numpy()[chosen], labels=labels[chosen].astype(np.uint8))


if __name__ == "__main__":
    main()
