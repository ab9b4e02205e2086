"""What manifest.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hydra_export import network
from hydra_export.architecture import HydraConfig
from hydra_export.bundle.sums import ByteCount, FileEntry, Sha256
from hydra_export.calibration import Calibration
from hydra_export.latency import Workload
from hydra_export.parity import ParityRecord, Percent, Share
from hydra_export.preprocess import Preprocessing
from hydra_export.target import GraphKind, InputForm, Precision, TensorInfo

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
Milliseconds = Annotated[float, Meta(ge=0, le=1e12)]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _few(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """How the activations of an artifact are quantized.

    Attributes:
        images: the images that the ranges were measured on.
        methods: how many ranges were chosen by each method, over all head counts.
        smooth: channels were equalized.
        wide: by head count, the tensors with 16 bits where others have 8.
    """

    images: str
    methods: dict[str, Annotated[int, Meta(ge=0)]]
    smooth: bool
    wide: dict[int, tuple[str, ...]]

    @property
    def text(self) -> str:
        """For a person, a sentence and what has 16 bits."""
        methods = f", ranges by {_counts(self.methods)}" if self.methods else ""
        wide = [f"16 bits at k = {k}: {_few(names)}." for k, names in self.wide.items()]
        return " ".join([f"Activations were calibrated by {self.images}{methods}.", *wide])


class ArtifactEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One exported graph.

    Attributes:
        bytes, sha256: of the file at *path*; of an .mlpackage, of all its files together and of their SHA256SUMS.
        files: paths of everything that a device must fetch to run it, *path* or what is in it included.
        needs: the oldest version that can run it, such as ``{"opset": "17"}`` or ``{"ios": "18"}``.
        parity: per head count.
        warnings: what to know before using it, such as that one of its head counts was not trained.
        quantization: for an artifact with integer activations.
    """

    path: str
    target: str
    graph: GraphKind
    precision: Precision
    input: InputForm
    heads: tuple[int, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    bytes: ByteCount
    sha256: Sha256
    files: tuple[str, ...]
    parity: dict[int, ParityRecord]
    needs: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    quantization: Quantization | None = None

    @property
    def fixes_heads(self) -> bool:
        """A universal graph in the form for one head count, which takes no choice."""
        return self.graph == "universal" and len(self.heads) == len(self.inputs) == 1

    @property
    def kind(self) -> str:
        """What it is, in fewer letters than its path."""
        words = [self.target, self.graph, "fixed" * self.fixes_heads, self.precision.replace("fp32", "")]
        return " ".join(filter(None, words))

    @property
    def batch(self) -> int:
        """Images a call."""
        return batch(self.inputs)


class SubnetworkEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about one exported head count.

    Attributes:
        accuracy: top-1 in percent, None if unknown.
        agreement: with the dense model that it was made from, in percent, None if unknown.
    """

    heads: int
    width: int
    params: int
    gmacs: float
    accuracy: Percent | None
    agreement: Annotated[float, Meta(ge=-100, le=100)] | None = None
    trained: bool | Literal["unknown"]


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The universal model that the artifacts were cut from.

    Attributes:
        assumed: what had to be assumed because its checkpoint does not state it, one sentence each.
        trained_heads: all that were trained, exported or not; empty where unknown.
    """

    name: str
    config: HydraConfig
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    checkpoint_sha256: str
    accuracy_data: str
    agreement_data: str = ""
    license: str
    subnetworks: tuple[SubnetworkEntry, ...]
    assumed: tuple[str, ...] = ()
    trained_heads: tuple[int, ...] = ()

    @property
    def is_plain(self) -> bool:
        """An ordinary ViT, of which only the full width was trained."""
        return self.config.is_plain(self.trained_heads)

    @property
    def heads(self) -> tuple[int, ...]:
        """The exported head counts."""
        return tuple(each.heads for each in self.subnetworks)

    @property
    def gmacs(self) -> dict[int, float]:
        """By head count."""
        return {each.heads: each.gmacs for each in self.subnetworks}

    @property
    def accuracy(self) -> dict[int, float]:
        """Top-1 in percent by head count, where it is known."""
        return {each.heads: each.accuracy for each in self.subnetworks if each.accuracy is not None}

    @property
    def workload(self) -> Workload:
        """What the latency model needs to know."""
        return Workload.of(self.name, self.config, self.heads, self.accuracy)

    def macs(self, heads: Sequence[int], num_images: int) -> int:
        """Multiply-accumulates of *num_images* through each subnetwork of *heads*."""
        return num_images * sum(network.macs(self.config, k) for k in heads)


class DeviceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The choice for a device, if the export was for devices.

    Attributes:
        heads: None if no time is known, so that every head count was exported.
        fits: whether it fits by its central estimate; *sure*: whether it fits by its high bound; *chance*: the
            probability that it fits.
        ms, low, high: the time and its 80 % interval. *provenance*: measured, published, estimated, ...
        artifacts: paths of the artifacts that the device may run.
    """

    id: str
    name: str
    runtime: str
    unit: str
    target: str
    heads: int | None
    fits: bool
    sure: bool
    chance: Share | None
    why: str
    budget_ms: Milliseconds
    ms: Milliseconds | None
    low: Milliseconds | None
    high: Milliseconds | None
    provenance: str | None
    artifacts: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a bundle.

    Attributes:
        generator: always "hydra-export"; a folder without it is not a bundle.
        tool: versions of everything that shaped an artifact.
        images: a description of the images that parity was measured on.
        files: every file of the bundle but the manifest itself and SHA256SUMS.
        devices: the choice for each device; empty if the export was not for devices.
        calibration: the model's calibrated confidence and its cascades; None if it was not calibrated.
    """

    generator: Literal["hydra-export"] = "hydra-export"
    schema_version: int = SCHEMA_VERSION
    model: ModelEntry
    tool: dict[str, str]
    images: str
    artifacts: tuple[ArtifactEntry, ...]
    files: tuple[FileEntry, ...]
    devices: tuple[DeviceEntry, ...] = ()
    calibration: Calibration | None = None

    def fetch_bytes(self, *artifacts: ArtifactEntry) -> int:
        """Bytes of everything that a device must fetch to run *artifacts*."""
        sizes = {file.path: file.bytes for file in self.files}
        return sum(sizes[path] for path in {path for artifact in artifacts for path in artifact.files})

    def weight_bytes(self, artifact: ArtifactEntry) -> int:
        """Of its weights as runtimes hold them: float32, apart for each head count even where the file shares them."""
        params = sum(network.num_params(self.model.config, k) for k in artifact.heads)
        return max(4 * params, self.fetch_bytes(artifact))


def batch(inputs: Sequence[TensorInfo]) -> int:
    """Images a call: the graph's own number, or one where any number will do."""
    size = next((size for tensor in inputs[:1] for size in tensor.shape), 1)
    return size if isinstance(size, int) and size > 0 else 1


def schema() -> bytes:
    """The JSON Schema of manifest.json, as docs/ holds it."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Manifest)), indent=2) + b"\n"
