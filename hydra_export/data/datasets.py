"""Labelled datasets with a split of their own: Fashion-MNIST and digits, in memory; data/sources.py reads others."""

# n images, H height, W width, C channels
from __future__ import annotations

import contextlib
import gzip
import math
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from io import BufferedIOBase
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hydra_export import board, files
from hydra_export.data import FASHION_MNIST_LABELS, ImageSet, shape_of
from hydra_export.errors import BadData, UnknownName
from hydra_export.preprocess import Preprocessing

_DOWNLOAD_SECONDS = 600.0  # that another process may take for it: it is 30 MB
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_IDX_BYTES = 256 * files.MIB  # of 60,000 images of 28 x 28 pixels, five times
_REMEDY = (
    "Pass `data`, a folder with the four idx files of Fashion-MNIST, or install them: "
    "apt-get install dataset-fashion-mnist."
)


def num_readers(workers: int) -> int:
    """How many processes read images where *workers* are asked for: no more than there are cores to use."""
    return min(workers, board.usable_cores())


class Images(Protocol):
    """Labelled images by number, read when they are asked for."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Image.Image, int]:
        """The decoded image *index* and its label.

        Raises:
            BadData: it cannot be decoded.
        """

    def name(self, index: int) -> str:
        """What to call image *index* before people."""


@dataclass(frozen=True)
class Split:
    """Images uint8 [n, H, W, C] in 0-255 and labels int64 [n]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """See Images."""
        pixels_HWC = self.pixels[index]
        picture = Image.fromarray(pixels_HWC.squeeze(-1) if pixels_HWC.shape[-1] == 1 else pixels_HWC)
        return picture, int(self.labels[index])

    def name(self, index: int) -> str:
        """See Images."""
        return f"image {index}"

    def fitted(self, preprocessing: Preprocessing) -> Split:
        """The images as a model takes them; themselves where they have its size and channels already."""
        wanted = (*preprocessing.image_shape, preprocessing.channels)
        if self.pixels.shape[1:] == wanted and preprocessing.crop == 1:
            return self
        return Split(np.stack([preprocessing.fit(self.read(i)[0]) for i in range(len(self))]), self.labels)


Kind = TypeVar("Kind", bound=Images, covariant=True)


@dataclass(frozen=True)
class Dataset(Generic[Kind]):
    """A dataset with its own split; *title* is for people, *license* for model cards."""

    title: str
    license: str
    label_names: tuple[str, ...]
    train: Kind
    test: Kind


def names() -> tuple[str, ...]:
    """All datasets."""
    return tuple(_DATASETS)


def load(name: str, folder: Path | None = None) -> Dataset[Split]:
    """Dataset *name*, read from *folder* where given.

    Raises:
        UnknownName: no such dataset.
        BadData: it is not on this machine and cannot be downloaded, or its files are damaged.
    """
    if name not in _DATASETS:
        raise UnknownName("dataset", name, _DATASETS, field="data")
    return _DATASETS[name](folder)


def fitted_test(name: str, preprocessing: Preprocessing, folder: Path | None = None) -> ImageSet:
    """All test images of dataset *name*, fitted to a model."""
    dataset = load(name, folder)
    test = dataset.test
    fitted = test.fitted(preprocessing)
    source = f"{len(test):,} test images of {dataset.title}"
    if fitted is not test:
        source += f", resized to {shape_of(preprocessing)}"
    return ImageSet(fitted.pixels, fitted.labels, dataset.label_names, source)


def fashion_mnist(folder: Path | None = None) -> Dataset[Split]:
    """60,000 training and 10,000 test images of 28x28 grey pixels in 10 classes (arXiv 1708.07747)."""
    if folder is None:
        folder = DEBIAN_FOLDER if DEBIAN_FOLDER.is_dir() else _downloaded()
    elif not folder.is_dir():
        raise BadData(f"There is no folder {folder}.", _REMEDY)
    train, test = (
        Split(
            _idx(folder, f"{part}-images-idx3-ubyte", 3)[..., None],
            _idx(folder, f"{part}-labels-idx1-ubyte", 1).astype(np.int64),
        )
        for part in ("train", "t10k")
    )
    for split in (train, test):
        if len(split.pixels) != len(split.labels) or split.labels.max(initial=0) > 9:
            raise BadData(f"Images and labels in {folder} do not belong together.", _REMEDY)
    return Dataset("Fashion-MNIST", "MIT (c) 2017 Zalando SE", FASHION_MNIST_LABELS, train, test)


def digits(folder: Path | None = None) -> Dataset[Split]:
    """1,797 handwritten digits of 8x8 grey pixels, the ones of scikit-learn; the last 360 are the test images."""
    if folder is not None:
        raise BadData(f"The digits come with the package, not from {folder}.", "Leave out `data`.")
    with resources.files("hydra_export.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        pixels_nHWC = np.round(arrays["pixels"][..., None] * (255 / 16)).astype(np.uint8)  # as counted: 0-16
        labels_n = arrays["labels"].astype(np.int64)
    # Cut without shuffling, as scikit-learn's own examples do.
    train, test = (Split(pixels_nHWC[part], labels_n[part]) for part in (slice(-360), slice(-360, None)))
    return Dataset("scikit-learn's digits", "CC BY 4.0 (UCI)", tuple("0123456789"), train, test)


_DATASETS: dict[str, Callable[[Path | None], Dataset[Split]]] = {"digits": digits, "fashion-mnist": fashion_mnist}


def _idx(folder: Path, name: str, ndim: int) -> NDArray[np.uint8]:
    """One idx file, packed or not: two zero bytes, type 8 (uint8), the number of axes, big-endian sizes, the values."""
    path = next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)
    if path is None:
        raise BadData(f"Folder {folder} has no file {name}.gz.", _REMEDY)
    try:
        with files.opened(path, _IDX_BYTES, f"File {path}", _REMEDY) as file:
            stream: BufferedIOBase = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            magic, shape = stream.read(4), struct.unpack(f">{ndim}I", stream.read(4 * ndim))
            count = math.prod(shape)
            content = stream.read(count + 1) if count <= _IDX_BYTES else b""  # whatever gzip would make of it
    except (OSError, EOFError, zlib.error) as error:
        raise BadData(f"File {path} cannot be read: {error}.", _REMEDY) from error
    except struct.error:
        magic = b""
    if magic != bytes((0, 0, 8, ndim)) or len(content) != count:
        raise BadData(f"File {path} is not an idx file of {ndim} axes, or is truncated.", _REMEDY)
    return np.frombuffer(content, np.uint8).reshape(shape)


def _downloaded() -> Path:
    cache = files.caches()
    from torchvision.datasets import FashionMNIST

    try:
        with files.alone_in(cache, _DOWNLOAD_SECONDS), contextlib.redirect_stdout(sys.stderr):
            FashionMNIST(str(cache), download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; torchvision's, after all mirrors, a RuntimeError
        raise BadData(f"Fashion-MNIST is not on this machine and cannot be downloaded: {error}.", _REMEDY) from error
    return cache / "FashionMNIST" / "raw"
