"""An image file as pixels: upright, of 8 bits per channel, or one clear error; whoever wrote the file."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps

from hydra_export import files
from hydra_export.errors import BadData, Unreadable

# What is in them decides, not their names: without this list a "photo.png" of PostScript would start Ghostscript.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_LARGEST_BYTES = 2**30  # some decoders read the whole file at once


def decoded(source: Path | BinaryIO, name: str = "") -> Image.Image:
    """The first frame of an image, turned as its EXIF orientation says.

    Args:
        source: a file's path, or an open file.
        name: what a message calls it; by default its path.

    Raises:
        BadData: it is no regular file, cannot be decoded, has more than twice ``Image.MAX_IMAGE_PIXELS`` pixels
            (Pillow's limit, 178,956,970), or more than 8 bits per channel.
    """
    name = name or str(source)
    try:
        with (
            _opened(source) as file,
            warnings.catch_warnings(action="ignore"),  # of odd metadata, and of images that are large but allowed
            Image.open(file, formats=_known()) as image,
        ):
            if image.mode.startswith(("I", "F")):  # converted, their values would be cut off at 255
                raise BadData(f"Image {name} has more than 8 bits per channel.", "Convert it to 8 bits.")
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
            image.info.pop("transparency", None)  # it is dropped anyway, and of palettes Pillow would warn of that
            return image
    except BadData:
        raise
    except Unreadable as error:
        raise BadData(f"Image {name} cannot be read: {error.reason}.", error.remedy) from error
    except Exception as error:  # Pillow's decoders share no base of their errors
        reason = str(error) or type(error).__name__
        raise BadData(f"Image {name} cannot be decoded: {reason}.", "Repair or remove it.") from error


def _opened(source: Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    return files.opened(source, _LARGEST_BYTES) if isinstance(source, Path) else nullcontext(source)


def _known() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]  # an older Pillow knows fewer
