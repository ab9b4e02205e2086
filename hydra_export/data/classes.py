"""Which of a model's classes each folder of images holds, and what tells."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra_export.errors import BadData, UnknownName

IMAGENET_CLASSES = 1000  # classes of ImageNet-1K
_SYNSET = re.compile(r"n\d{8}")
_TYPING_ERROR = 0.8  # a name as near as this to a label is that label misspelt, rather than something else
_MOST_NAMED, _MOST_COMPARED = 3, 20


@dataclass(frozen=True)
class Classes:
    """The classes of some folders as a model counts them.

    Attributes:
        numbers: by folder; None where they are no classes of the model, so that their images are unlabelled.
        names: the model's classes in their order, by what is known of them.
        known_by: what tells, behind "classes": ``by name``.
        note: what was assumed or left out, for the user to see; empty where the names are the model's own.
    """

    numbers: dict[str, int] | None
    names: tuple[str, ...] = ()
    known_by: str = ""
    note: str = ""


def classes_of(folders: Sequence[str], labels: Sequence[str], num_classes: int) -> Classes:
    """Which classes of a model the *folders*, in sorted order, are: by name, synset or number, else by their order.

    Args:
        labels: the model's names of its classes; letter case and punctuation aside, as T-shirt/top can name no folder.
        num_classes: how many it has; without names, as many folders are taken for them.

    Raises:
        BadData: some folders are named as classes of the model and others are not.
    """
    names = tuple(labels)
    by_name = _by_name(folders, labels)
    if labels and len(by_name) == len(folders):
        return Classes(by_name, names, "by name")
    named_so = num_classes == IMAGENET_CLASSES and all(map(_SYNSET.fullmatch, folders))
    synsets = imagenet_synsets(labels) if named_so else ()
    if synsets and set(folders) <= set(synsets):
        note = f"The {len(folders)} folders are named by synset; they are assumed to be ImageNet's, in timm's order."
        return Classes({name: synsets.index(name) for name in folders}, names or synsets, "by synset", note)
    _check_misspelt([folder for folder in folders if folder not in by_name], len(by_name), labels)
    if len(folders) != num_classes or not num_classes:
        return Classes(None, note=_foreign(folders, labels, num_classes))
    if sorted(int(name) for name in folders if name.isdecimal()) == list(range(num_classes)):
        note = f"The {num_classes} folders are named by number; they are assumed to be the model's classes."
        numbers = {name: int(name) for name in folders}
        return Classes(numbers, names or tuple(sorted(folders, key=int)), "by number", note)
    if labels:
        return Classes(None, note=_foreign(folders, labels, num_classes))
    note = (
        f"The model does not name its classes: the {num_classes} folders, sorted by name, are assumed to be classes "
        f"0 to {num_classes - 1} ({folders[0]} to {folders[-1]})."
    )
    numbers = {name: number for number, name in enumerate(folders)}
    return Classes(numbers, tuple(folders), "in the order of their names", note)


def plain(name: str) -> str:
    """*name* without its letter case and punctuation."""
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def named(names: Sequence[str]) -> str:
    """The first few of *names*."""
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")


def _by_name(folders: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """The class of each folder that is named as one class is."""
    exact = {label: number for number, label in enumerate(labels)}
    alike = [plain(label) for label in labels]
    count = Counter(alike)
    once = {name: number for number, name in enumerate(alike) if count[name] == 1}
    found = {folder: exact.get(folder, once.get(plain(folder))) for folder in folders}
    return {folder: number for folder, number in found.items() if number is not None}


def _check_misspelt(others: Sequence[str], num_right: int, labels: Sequence[str]) -> None:
    near = [o for o in others[:_MOST_COMPARED] if difflib.get_close_matches(o, labels, n=1, cutoff=_TYPING_ERROR)]
    if not near and not (others and num_right):
        return
    nearest = UnknownName("class", near[0], labels).remedy if near else f"Known: {named(labels)}."
    raise BadData(
        f"Class folder {(near or others)[0]} is not one of the model's {len(labels)} classes.",
        f"{nearest} Name every folder as a class, or pass the images without class folders.",
    )


def imagenet_synsets(labels: Sequence[str]) -> tuple[str, ...]:
    """ImageNet's synsets as timm counts them; none where *labels* are known and are, for the most part, others."""
    from timm.data import ImageNetInfo  # type: ignore[attr-defined]

    info: Any = ImageNetInfo()
    synsets, words = info.label_names(), info.label_descriptions()
    alike = sum(
        label == synset or plain(label.split(",")[0]) in {plain(word) for word in lemmas.split(",")}
        for label, synset, lemmas in zip(labels, synsets, words, strict=False)
    )
    numbered = list(labels) == [str(number) for number in range(IMAGENET_CLASSES)]  # as shards have them
    return tuple(synsets) if not labels or numbered or alike > len(synsets) / 2 else ()


def _foreign(folders: Sequence[str], labels: Sequence[str], num_classes: int) -> str:
    if not num_classes:
        return f"The model has no classes: the images of the {len(folders)} class folders count as unlabelled."
    of = f" ({named(labels)})" if labels else ""
    return (
        f"The {len(folders)} class folders ({named(folders)}) are not the model's {num_classes} classes{of}: "
        "their images count as unlabelled."
    )
