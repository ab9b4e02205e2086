"""What a bundle holds for people and their apps: its README, labels, preprocessing, licences and snippets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hydra_export.arrays import Pixels
from hydra_export.bundle import Manifest
from hydra_export.card import licences, plain, readme, snippets

__all__ = ["write"]


def write(
    folder: Path, manifest: Manifest, pixels: Pixels, best: Mapping[int, snippets.Best], image_license: str
) -> None:
    """Writes all of it into *folder*, which holds the artifacts already.

    Args:
        pixels: the golden images, uint8 [n, H, W, C].
        best: by head count, what the subnetwork says of the last of them.
        image_license: the packaged licence of the golden images, "" where they are the user's own.
    """
    texts = plain.files(manifest) | licences.files(manifest, image_license)
    if len(pixels):  # none where int8 agrees with the model on no image, and was accepted unchecked
        texts |= snippets.files(manifest, best)
        (folder / snippets.PIXELS).write_bytes(pixels[-1].tobytes())
    texts["README.md"] = readme.render(manifest, sorted(texts), image_license)
    for path, text in texts.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(text.encode())
