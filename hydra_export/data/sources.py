"""Datasets as people keep them: folders and tar files of images, WebDataset shards, Hugging Face datasets on disk."""

# n images
from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timm.data.readers import create_reader  # type: ignore[attr-defined]
from timm.utils.misc import natural_key

from hydra_export import files
from hydra_export.data.classes import plain
from hydra_export.data.datasets import Dataset, Images
from hydra_export.data.decoding import decoded
from hydra_export.errors import BadData, BadInput, MissingExtra

_TRAIN, _TEST = ("train", "training"), ("val", "validation", "test", "testing")
_PICTURES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_NUMBER_BYTES, _MOST_CLASSES = 32, 1_000_000
_LAYOUT = "Pass FOLDER/CLASS/IMAGE, with train/ and val/ above the classes where there is a split."


@dataclass(frozen=True)
class ReaderImages:
    """Some images of a timm reader, their labels renumbered.

    Attributes:
        reader: one of timm.data's, or of tar files, with class numbers of its own.
        indices: int64 [n] into it.
        labels: int64 [n].
    """

    reader: Any
    indices: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """See Images."""
        return decoded(_source(self.reader, int(self.indices[index])), self.name(index)), int(self.labels[index])

    def name(self, index: int) -> str:
        """See Images."""
        return str(self.reader.filename(int(self.indices[index])))


def _source(reader: Any, index: int) -> Path | io.BytesIO:
    """Where image *index* lies; timm's own readers would open it, and wait for what is no file."""
    if isinstance(reader, _Tar):
        return reader.content(index)
    if hasattr(reader, "samples"):
        return Path(reader.samples[index][0])
    image = reader.dataset[index][reader.image_key]  # Hugging Face's
    return io.BytesIO(image["bytes"]) if image.get("bytes") else Path(image["path"])


def load(path: str, held_out: float, *, labelled: bool = True) -> Dataset[Images]:
    """The dataset at *path*: a folder, a .tar, a folder of WebDataset shards, or ``hfds/`` and a local dataset.

    Without a test split of its own, *held_out* of each class is kept for testing, the same at every call. Where it need
    not be *labelled*, all images may lie in one folder.

    Raises:
        BadData: nothing there, no images, images without classes, or one class alone.
        MissingExtra: the package for that kind is not installed.
    """
    if not path:
        raise BadInput("This recipe needs images.", "Pass `data`, a folder with one folder of images per class.")
    train, test, names = _hugging_face(path) if path.startswith("hfds/") else _local(Path(path))
    if len(names) < 2 and labelled:
        raise BadData(f"The images of {path} are of one class ({names[0] or 'no name'}).", _LAYOUT)
    if test is None:
        train, test = _split(train, held_out)
    return Dataset(Path(path).name, "", names, train, test)


def images(path: Path) -> tuple[ReaderImages, tuple[str, ...]]:
    """All images of *path* and their classes.

    Raises:
        BadData: there are none.
    """
    reader, names = _reader(path)
    return _all_of(reader), names


def renumbered(dataset: Dataset[Images], names: Sequence[str]) -> Dataset[Images] | None:
    """*dataset* with the classes counted as in *names*, or None where they are others; spelling is taken loosely."""
    wanted, there = ([plain(name) for name in every] for every in (names, dataset.label_names))
    if sorted(wanted) != sorted(there) or len(set(wanted)) != len(wanted):
        return None
    order = np.asarray([wanted.index(name) for name in there])
    return replace(
        dataset,
        label_names=tuple(names),
        train=_relabelled(dataset.train, order),
        test=_relabelled(dataset.test, order),
    )


def _relabelled(images: Images, order: NDArray[np.int64]) -> Images:
    labels: NDArray[np.int64] = images.labels  # type: ignore[attr-defined]
    return replace(images, labels=order[labels])  # type: ignore[type-var]


def _local(path: Path) -> tuple[ReaderImages, ReaderImages | None, tuple[str, ...]]:
    if path.is_file() and path.suffix == ".tar":
        reader, names = _reader(path)
        return _all_of(reader), None, names
    if not path.is_dir():
        raise BadData(f"There is no folder or .tar file {path}.", _LAYOUT)
    train = next((path / name for name in _TRAIN if (path / name).is_dir()), path)
    test = next((path / name for name in _TEST if (path / name).is_dir()), None) if train != path else None
    reader, names = _reader(train)
    if test is None:
        return _all_of(reader), None, names
    test_images, test_names = _reader(test)
    if foreign := [name for name in test_names if name not in names]:
        raise BadData(f"Class {foreign[0]} of {test} is not in {train}.", "Pass the same classes to both.")
    number = np.asarray([names.index(name) for name in test_names])
    held_out = _all_of(test_images)
    return _all_of(reader), replace(held_out, labels=number[held_out.labels]), names


def _reader(path: Path) -> tuple[Any, tuple[str, ...]]:
    """A reader with a list of samples, and its classes in order."""
    tars = [path] if path.is_file() else sorted(path.glob("*.tar"))
    if tars:
        tar = _Tar(tars)
        return tar, tar.names
    try:
        reader = create_reader("", root=str(path))
    except RuntimeError as error:  # timm's way to say that there are none
        raise BadData(f"There are no images in {path}.", _LAYOUT) from error
    return reader, tuple(sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__))


def _all_of(reader: Any) -> ReaderImages:
    targets = [target for _, target in reader.samples]
    return ReaderImages(reader, np.arange(len(targets)), np.asarray(targets, np.int64))


def _split(images: ReaderImages, held_out: float) -> tuple[ReaderImages, ReaderImages]:
    """Each class cut in two, at least one image on either side."""
    kept: list[NDArray[np.int64]] = []
    test_images: list[NDArray[np.int64]] = []
    for label in np.unique(images.labels):
        members = np.flatnonzero(images.labels == label)
        if len(members) < 2:
            raise BadData("A class has only one image, so none can be held out for testing.", "Add images, or val/.")
        members = np.random.default_rng((int(label), 2)).permutation(members)
        count = min(max(1, round(held_out * len(members))), len(members) - 1)
        test_images.append(members[:count])
        kept.append(members[count:])

    def some(parts: list[NDArray[np.int64]]) -> ReaderImages:
        chosen = np.sort(np.concatenate(parts))
        return ReaderImages(images.reader, images.indices[chosen], images.labels[chosen])

    return some(kept), some(test_images)


def _hugging_face(path: str) -> tuple[ReaderImages, ReaderImages | None, tuple[str, ...]]:
    try:
        from datasets import get_dataset_split_names  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise MissingExtra(f"`data` {path}", "datasets", "train") from None
    name = path.removeprefix("hfds/")
    try:
        splits = get_dataset_split_names(name)
        train, *tests = [next(split for split in _TRAIN if split in splits), *(s for s in _TEST if s in splits)]
        reader = create_reader(path, split=train)
        test = create_reader(path, split=tests[0]) if tests else None
    except (OSError, ValueError, StopIteration, KeyError) as error:
        raise BadData(f"Dataset {name} cannot be read: {error}.", "Pass a dataset with images and labels.") from error
    names = tuple(sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__))
    parts = [
        ReaderImages(one, np.arange(len(one)), np.asarray(one.dataset[one.label_key], np.int64))
        for one in (reader, test)
        if one is not None
    ]
    return parts[0], parts[1] if test is not None else None, names


def _class_number(text: bytes) -> int:
    number = int(text)
    if not 0 <= number < _MOST_CLASSES:
        raise ValueError(f"class {number} is not from 0 to {_MOST_CLASSES - 1}")
    return number


class _Tar:
    """Images in tar files by number: KEY.jpg beside KEY.cls with a class number (WebDataset), or in class folders.

    timm and webdataset read shards as a stream, from which no run can be resumed exactly, and timm's readers of tar
    files keep them open, which processes that are forked then share; a place and a size in a file do neither.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        numbers: dict[str, int] = {}
        pictures: list[tuple[str, tuple[Path, int, int, str]]] = []
        for path in paths:
            try:
                with files.opened(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                    for member in tar:
                        tar.members.clear()  # type: ignore[attr-defined]  # it would keep all, at four times their headers
                        key, _, kind = member.name.rpartition(".")
                        if kind == "cls" and member.isfile() and (content := tar.extractfile(member)) is not None:
                            numbers[f"{path.name}/{key}"] = _class_number(content.read(_NUMBER_BYTES))
                        elif f".{kind.lower()}" in _PICTURES and member.isfile() and not member.issparse():
                            place = (path, member.offset_data, member.size, member.name)
                            pictures.append((f"{path.name}/{key}", place))
            except (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError, EOFError) as error:
                raise BadData(f"{path} cannot be read: {error}.", "Write it again, uncompressed.") from error
        if numbers:
            self.names = tuple(str(number) for number in range(max(numbers.values()) + 1))
            self.samples = [(place, numbers[key]) for key, place in pictures if key in numbers]
        else:
            folders = [PurePosixPath(place[3]).parent.name for _, place in pictures]
            self.names = tuple(sorted(set(folders), key=natural_key))
            places = {name: number for number, name in enumerate(self.names)}
            self.samples = [(p[1], places[f]) for p, f in zip(pictures, folders, strict=True)]
        if not self.samples:
            raise BadData(f"There are no images in {paths[0]}.", _LAYOUT)

    def content(self, index: int) -> io.BytesIO:
        (path, start, size, _), _ = self.samples[index]
        with files.opened(path) as tar:
            tar.seek(start)
            return io.BytesIO(tar.read(size))

    def filename(self, index: int) -> str:
        (path, _, _, name), _ = self.samples[index]
        return f"{path.name}/{name}"
