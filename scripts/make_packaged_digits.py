"""Makes hydra_export/data/digits.npz: scikit-learn's 1,797 digits, 8x8 pixels that count 0 to 16.

Run from the repository: python scripts/make_packaged_digits.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

OUT = Path(__file__).parents[1] / "hydra_export" / "data" / "digits.npz"


def main() -> None:
    digits = load_digits()
    np.savez_compressed(OUT, pixels=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8))


if __name__ == "__main__":
    main()
