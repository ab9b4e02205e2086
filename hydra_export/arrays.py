"""Names of array types."""

# B batch, H height, W width, C channels
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # [B, H, W, C], 0-255
Array = NDArray[Any]
