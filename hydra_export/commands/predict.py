"""``hydra-export predict``: what is on these images, by an artifact of a bundle?"""

from __future__ import annotations

