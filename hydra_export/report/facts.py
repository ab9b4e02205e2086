"""Figures that follow from a manifest: what each artifact takes to fetch, and how near it came to its bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

import msgspec

from hydra_export.bundle import Manifest
from hydra_export.parity import ParityRecord
from hydra_export.target import GATED, GraphKind, InputForm, Precision

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
Kind = TypeVar("Kind", bound=msgspec.Struct)


class ParityCheck(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact against PyTorch at one head count.

    Attributes:
        allowed: the largest error that passes, None for int8 and its kind; *share*: the error as a share of it.
        accuracy_change: of those on labelled images, in percentage points of top-1.
        judgement: what decided on them, and why.
    """

    heads: int
    max_abs_error: float
    allowed: float | None
    share: float | None
    cosine: float
    top1_agreement: float
    num_images: int
    accuracy_change: float | None
    runtimes: dict[str, float]
    judgement: str = ""

    @classmethod
    def of(cls, heads: int, record: ParityRecord) -> ParityCheck:
        labelled = record.accuracy is not None and record.accuracy_fp32 is not None
        return derived(
            cls,
            record,
            heads=heads,
            allowed=record.bound,
            share=None if record.bound is None else _share(record.max_abs_error, record.bound),
            accuracy_change=(record.accuracy or 0) - (record.accuracy_fp32 or 0) if labelled else None,
        )


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact.

    Attributes:
        fetch_bytes: of everything that a device must fetch to run it.
        fixed: of a universal graph, the form for one head count.
    """

    path: str
    target: str
    graph: GraphKind
    precision: Precision
    input: InputForm
    heads: tuple[int, ...]
    fixed: bool
    fetch_bytes: int
    num_files: int
    sha256: str
    needs: dict[str, str]
    checks: tuple[ParityCheck, ...] = msgspec.field(name="proofs")
    warnings: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What it is, apart from its head count."""
        form = " image" if self.input == "image" else ""
        return f"{self.target} {self.graph}{', k fixed' if self.fixed else ''}, {self.precision}{form}"

    @property
    def worst(self) -> ParityCheck:
        """The one nearest to failing: by its share of the bound, or by its accuracy, or by its agreement."""
        return max(self.checks, key=lambda c: (c.share or 0, -(c.accuracy_change or 0), -c.top1_agreement))

    def check(self, heads: int) -> ParityCheck | None:
        return next((check for check in self.checks if check.heads == heads), None)


def products(manifest: Manifest) -> tuple[Product, ...]:
    """Every artifact, in the manifest's order."""
    return tuple(
        derived(
            Product,
            artifact,
            fixed=artifact.fixes_heads,
            fetch_bytes=manifest.fetch_bytes(artifact),
            num_files=len(artifact.files),
            checks=tuple(ParityCheck.of(k, artifact.parity[k]) for k in artifact.heads),
        )
        for artifact in manifest.artifacts
    )


def derived(kind: type[Kind], source: object, **fields: object) -> Kind:
    """A *kind* with *fields*, and for its others those of *source* that have the same names."""
    rest = (name for name in kind.__struct_fields__ if name not in fields)
    return kind(**{name: getattr(source, name) for name in rest}, **fields)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items with the same key, in the order of the first of each."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def by_kind(products: Iterable[Product]) -> dict[str, list[Product]]:
    """Artifacts that differ in their head counts alone, under what they have in common."""
    return grouped(products, lambda product: product.kind)


def accuracy_of(product: Product, heads: int, levels: Mapping[int, float]) -> float | None:
    """Top-1 of an artifact: the subnetwork's, of int8 and its kind with the measured change; None where unknown."""
    check = product.check(heads)
    if heads not in levels or check is None:
        return None
    if product.precision not in GATED:
        return levels[heads]
    return None if check.accuracy_change is None else levels[heads] + check.accuracy_change


def checks(products: Iterable[Product]) -> list[tuple[Product, ParityCheck]]:
    return [(product, check) for product in products for check in product.checks]


def _share(error: float, bound: float) -> float:
    if bound > 0:
        return error / bound
    return 0.0 if error == 0 else math.inf
