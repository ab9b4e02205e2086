"""TFLite (LiteRT): files emitted directly from the weights, run by LiteRT's interpreters."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from hydra_export.errors import MissingExtra, UnknownName
from hydra_export.target import (
    METADATA_PREFIX,
    STATIC,
    Artifact,
    Card,
    DeviceRuntime,
    ExportSpec,
    GraphKind,
    InputForm,
    Interface,
    OfModel,
    Option,
    Options,
    Precision,
    Runtime,
    Session,
    Target,
    UsedOperator,
    Work,
)
from hydra_export.targets.tflite.card import CARD
from hydra_export.targets.tflite.devices import RUNTIMES

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint
    from hydra_export.printed import Measured


class TFLiteOptions(Options, frozen=True):
    """Options of TFLite only."""

    overlap: Annotated[
        bool,
        Option(
            "For graph kind universal: store the bytes of each subnetwork separately, for runtimes that do not accept "
            "shared ones; the file is larger.",
            flag="no-overlap",
            graphs=("universal",),
        ),
    ] = True


class TFLiteTarget(Target):
    """Separate files, or one with a signature for every head count and one that takes it as an input."""

    name: ClassVar[str] = "tflite"
    title: ClassVar[str] = "TFLite"
    graphs: ClassVar[tuple[GraphKind, ...]] = ("separate", "universal")
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", *STATIC)
    options: ClassVar[type[Options]] = TFLiteOptions
    layouts: ClassVar[dict[InputForm, str]] = {"tensor": "NHWC", "image": "NHWC"}
    card: ClassVar[Card] = CARD
    runners: ClassVar[str] = str(Path(__file__).with_name("runners.py"))
    device_runtimes: ClassVar[tuple[DeviceRuntime, ...]] = RUNTIMES
    packages: ClassVar[tuple[str, ...]] = ("ai-edge-litert", "flatbuffers")
    further: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("tensorflow", "a second TFLite interpreter", "tensorflow"),
        ("litert-torch", "comparisons in the benchmarks", ""),
    )

    def requires(self) -> None:
        """ai-edge-litert, which has wheels for Linux and macOS; flatbuffers comes with it."""
        if importlib.util.find_spec("ai_edge_litert") is None:
            raise MissingExtra("Target 'tflite'", "ai-edge-litert", "tflite")

    def runtimes(self, precision: Precision) -> tuple[Runtime, ...]:
        """LiteRT's interpreter and its newer compiled model; TensorFlow's own interpreter where it is installed."""
        # The others run in a process of their own, so that a call takes longer than the work.
        found = [Runtime("litert"), Runtime("litert-compiled", timed=False)]
        if importlib.util.find_spec("tensorflow") is not None:
            found.append(Runtime("tensorflow", timed=False, further=True))
        return tuple(found)

    def check(self, spec: ExportSpec, model: OfModel | None = None) -> None:
        """Everything that an ExportSpec can say of this target can be written."""

    def write(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
        """Writes one file per head count into *out*, or one for all."""
        from hydra_export.targets.tflite import separate, universal

        write = universal.write if spec.graph == "universal" else separate.write
        return write(checkpoint, heads, spec, out)

    def planned(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
        """By the names of the model and of the head counts."""
        from hydra_export.targets.tflite import separate, universal

        planned = universal.planned if spec.graph == "universal" else separate.planned
        return planned(checkpoint, heads, spec)

    def needs(self, path: Path) -> dict[str, str]:
        """The runtime that the file names, and lint checks."""
        from hydra_export.targets.tflite import metadata, separate
        from hydra_export.targets.tflite.lint import linted

        model = linted(path)
        entry = model.content(model.metadata[metadata.RUNTIME_VERSION])
        return separate.needs(metadata.oldest_runtime_of(entry))

    def load(self, path: Path, heads: int, threads: int = 0, runtime: str = "") -> Session:
        """A session on the CPU; a file of one head count runs that one whatever *heads* is. It is linted first."""
        self.requires()
        from hydra_export.targets.tflite.session import TFLiteSession

        known = [found.name for found in self.runtimes("fp32")]
        if runtime and runtime not in known:
            raise UnknownName("runtime of target 'tflite'", runtime, known, field="runtime")
        return TFLiteSession(path, threads, runtime or known[0], heads)

    def lint(self, path: Path) -> Work:
        """Everything inside the file, operators and shapes that fit, rank, types, signature, nothing unused."""
        self.requires()  # for the names of its operators
        from hydra_export.targets.tflite import work
        from hydra_export.targets.tflite.lint import linted

        return work.of(linted.afresh(path))

    def metadata(self, path: Path) -> dict[str, str]:
        """Those of its metadata entries that are ours."""
        from hydra_export.targets.tflite.lint import linted

        model = linted(path)
        ours = {name: buffer for name, buffer in model.metadata.items() if name.startswith(METADATA_PREFIX)}
        return {name: model.content(buffer).decode(errors="replace") for name, buffer in ours.items()}

    def signature(self, path: Path) -> Interface:
        """Of its only signature, or of ``run``; of several without ``run``, what they have in common."""
        from hydra_export.targets.tflite import lint

        return lint.signature(lint.linted(path))

    def operators(self, path: Path) -> Iterator[UsedOperator]:
        """Builtins, subgraph for subgraph."""
        from hydra_export.targets.tflite import used

        return used.operators(path)

    def printed(self, text: str, path: Path) -> Iterator[Measured]:
        """What its devices' tools printed."""
        from hydra_export.targets.tflite import printed

        return printed.runs(text, path)

    def reported(self, document: Any, path: Path) -> Iterator[Measured]:
        """What its devices' tools wrote as JSON."""
        from hydra_export.targets.tflite import reported

        return reported.runs(document, path)


TARGET = TFLiteTarget()
