"""An image of the user, fitted to a model: PNG by its chunks, other formats by their bytes."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from hydra_export.data import folder_images
from hydra_export.preprocess import imagenet
from tests.fuzz import trees
from tests.fuzz.reader import Random, Reader

_PNG = b"\x89PNG\r\n\x1a\n"
_SIZES = [0, 1, 2, 7, 255, 1000, 20_000, 65_000, 2**16, 10**6, 2**31 - 1, 2**31]
_KINDS = [
    b"IHDR",
    b"PLTE",
    b"IDAT",
    b"IEND",
    b"tRNS",
    b"gAMA",
    b"iCCP",
    b"tEXt",
    b"zTXt",
    b"eXIf",
    b"acTL",
    b"fcTL",
    b"xxXx",
]
_DATA = [
    bytes(4),
    b"\xff" * 30,
    b"x\0\0" + zlib.compress(bytes(2**22)),
    b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0",
]
_MOST_PIXEL_BYTES = 2**23
_BYTES_PER_PIXEL = 4 * 4
Chunk = tuple[bytes, bytes]  # its kind and its data


def _seeds() -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
    photograph = Image.fromarray(noise)
    modes = [photograph.convert(mode) for mode in ("RGB", "P", "L", "RGBA", "1")]
    return [
        *(_saved(each, "PNG") for each in modes),
        *(_saved(photograph, kind) for kind in ("JPEG", "GIF", "BMP", "WEBP", "TIFF")),
    ]


def _saved(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def _mutate(random: Random, content: bytes) -> bytes:
    if not content.startswith(_PNG):
        return trees.bruise(random, content)
    chunks = _chunks(content)
    for _ in range(random.choice((1, 1, 2, 3))):
        at, choice = random.randrange(len(chunks)), random.random()
        if choice < 0.5:
            chunks[0] = chunks[0][0], _header(random, chunks[0][1])
            chunks = _with_pixels(chunks) if random.random() < 0.5 else chunks
        elif choice < 0.6:
            chunks.insert(at, (random.choice(_KINDS), random.choice([*_DATA, chunks[at][1]])))
        elif choice < 0.7:
            chunks += [chunks[at]] * random.choice((1, 10, 1000))
        elif choice < 0.8 and len(chunks) > 1:
            del chunks[at]
        else:
            chunks[at] = chunks[at][0], trees.bruise(random, chunks[at][1])
    return trees.bruise(random, _PNG + b"".join(map(_chunk, chunks)), 0.05)


def _chunks(png: bytes) -> list[Chunk]:
    found, at = [], len(_PNG)
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def _chunk(chunk: Chunk) -> bytes:
    kind, data = chunk
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _header(random: Random, header: bytes) -> bytes:
    """Another size, depth, kind of colour, or way of interlacing."""
    width, height, *rest = struct.unpack(">2I5B", header)
    if random.random() < 0.7:
        width, height = random.sample([width, height, random.choice(_SIZES), random.choice(_SIZES)], 2)
    else:
        rest[random.choice((0, 1, 4))] = random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    return struct.pack(">2I5B", width, height, *rest)


def _with_pixels(chunks: list[Chunk]) -> list[Chunk]:
    """As many black pixels as the header says, where that is not too many."""
    width, height, depth, colour = struct.unpack_from(">2I2B", chunks[0][1])
    size = height * (1 + -(-width * depth * {2: 3, 4: 2, 6: 4}.get(colour, 1) // 8))
    if not 0 < size < _MOST_PIXEL_BYTES:
        return chunks
    others = [chunk for chunk in chunks[1:] if chunk[0] not in (b"IDAT", b"IEND")]
    return [chunks[0], *others, (b"IDAT", zlib.compress(bytes(size), 1)), (b"IEND", b"")]


def _parse(content: bytes) -> None:
    Image.open(io.BytesIO(content)).close()


def _read(path: Path) -> None:
    (path.parent / "images").mkdir(exist_ok=True)
    (path.parent / "images" / "photograph.png").write_bytes(path.read_bytes())
    folder_images(path.parent / "images", imagenet(16))


def _needs(content: bytes) -> int:
    """Decoded, turned, converted and resized, each for itself; larger ones than Pillow opens need nothing."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            return _BYTES_PER_PIXEL * image.width * image.height
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0


READER = Reader(_seeds, _mutate, _parse, _read, needs=_needs)
