"""What a bundle's manifest says, worked out: what each artifact takes to fetch, and how near it came to its bound."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from hydra_export.bundle import ArtifactEntry, Manifest
from hydra_export.parity import ParityRecord
from hydra_export.target import GraphKind, InputForm, Precision


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact against PyTorch at one head count.

    Attributes:
        allowed: the largest error that passes, None for int8; *share*: the error as a share of it.
        accuracy_change: of int8 on labelled images, in percentage points of top-1.
        judgement: what decided on int8, and why.
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
    def of(cls, heads: int, record: ParityRecord) -> Proof:
        known = record.accuracy is not None and record.accuracy_fp32 is not None
        return cls(
            heads=heads,
            max_abs_error=record.max_abs_error,
            allowed=record.bound,
            share=None if record.bound is None else _share(record.max_abs_error, record.bound),
            cosine=record.cosine,
            top1_agreement=record.top1_agreement,
            num_images=record.num_images,
            accuracy_change=(record.accuracy or 0) - (record.accuracy_fp32 or 0) if known else None,
            runtimes=record.runtimes,
            judgement=record.judgement,
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
    proofs: tuple[Proof, ...]
    warnings: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What it is, apart from its head count."""
        form = " image" if self.input == "image" else ""
        return f"{self.target} {self.graph}{', k fixed' if self.fixed else ''}, {self.precision}{form}"

    @property
    def worst(self) -> Proof:
        """The one nearest to failing: by its share of the bound, or by its accuracy, or by its agreement."""
        return max(self.proofs, key=lambda p: (p.share or 0, -(p.accuracy_change or 0), -p.top1_agreement))

    def proof(self, heads: int) -> Proof | None:
        return next((proof for proof in self.proofs if proof.heads == heads), None)


def products(manifest: Manifest) -> tuple[Product, ...]:
    """Every artifact, in the manifest's order."""
    return tuple(_product(artifact, manifest.fetch_bytes(artifact)) for artifact in manifest.artifacts)


def _product(artifact: ArtifactEntry, fetch_bytes: int) -> Product:
    return Product(
        path=artifact.path,
        target=artifact.target,
        graph=artifact.graph,
        precision=artifact.precision,
        input=artifact.input,
        heads=artifact.heads,
        fixed=artifact.fixes_heads,
        fetch_bytes=fetch_bytes,
        num_files=len(artifact.files),
        sha256=artifact.sha256,
        needs=artifact.needs,
        proofs=tuple(Proof.of(k, artifact.parity[k]) for k in artifact.heads),
        warnings=artifact.warnings,
    )


def by_kind(listed: tuple[Product, ...]) -> dict[str, list[Product]]:
    """Artifacts that differ in their head counts alone, under what they have in common."""
    grouped: dict[str, list[Product]] = {}
    for product in listed:
        grouped.setdefault(product.kind, []).append(product)
    return grouped


def accuracy_of(product: Product, heads: int, unrounded: dict[int, float]) -> float | None:
    """Top-1 of an artifact: the subnetwork's, for int8 with the change that was measured; None where unknown."""
    proof = product.proof(heads)
    if heads not in unrounded or proof is None:
        return None
    if product.precision != "int8":
        return unrounded[heads]
    return None if proof.accuracy_change is None else unrounded[heads] + proof.accuracy_change


def proofs(listed: tuple[Product, ...]) -> Iterator[tuple[Product, Proof]]:
    for product in listed:
        for proof in product.proofs:
            yield product, proof


def _share(error: float, bound: float) -> float:
    if bound > 0:
        return error / bound
    return 0.0 if error == 0 else math.inf
