"""ONNX: graphs emitted directly from the weights, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hydra_export.errors import BadInput
from hydra_export.target import Artifact, ExportSpec, GraphKind, Interface, Precision, Runtime, Session, Work
from hydra_export.unchanged import Latest

if TYPE_CHECKING:
    import onnx

    from hydra_export.checkpoint import Checkpoint

DEFAULT_OPSET = 17
OPSETS = range(17, 24)


class OnnxTarget:
    """Separate files, small graphs over shared weight files, or one graph that takes the head count as an input."""

    name: ClassVar[str] = "onnx"
    graphs: ClassVar[tuple[GraphKind, ...]] = ("separate", "shared", "universal")
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir", "onnxruntime")
    isolated: ClassVar[bool] = False

    def requires(self) -> None:
        """Nothing: the base install has all of it."""

    def runtimes(self, precision: Precision) -> tuple[Runtime, ...]:
        """onnxruntime."""
        return (Runtime("onnxruntime"),)

    def check(self, spec: ExportSpec) -> None:
        """Refuses an opset that the emitter does not know."""
        if spec.opset is not None and spec.opset not in OPSETS:
            raise BadInput(f"--opset {spec.opset} is not supported.", f"Give {OPSETS[0]} to {OPSETS[-1]}.")

    def write(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
        """Writes one graph per head count into *out*."""
        from hydra_export.targets.onnx import separate, shared, universal

        self.check(spec)
        write = {"separate": separate.write, "shared": shared.write, "universal": universal.write}[spec.graph]
        return write(checkpoint, heads, spec, _opset(spec), out)

    def planned(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
        """By the names of the model and of the head counts."""
        from hydra_export.targets.onnx import separate, shared, universal

        planned = {"separate": separate.planned, "shared": shared.planned, "universal": universal.planned}[spec.graph]
        return planned(checkpoint, heads, spec, _opset(spec))

    def needs(self, path: Path) -> dict[str, str]:
        """The opset, and the version of ONNX's own format."""
        from hydra_export.targets.onnx import file

        graph = _around_weights(path)
        opsets = {opset.domain: opset.version for opset in graph.opset_import}
        return file.needs(opsets[""], graph.ir_version)

    def load(self, path: Path, heads: int, threads: int = 0, runtime: str = "") -> Session:
        """An onnxruntime session on the CPU; a graph that fixes the head count runs that one whatever *heads* is."""
        from hydra_export.targets.onnx.session import OnnxSession

        return OnnxSession(path, threads, heads)

    def lint(self, path: Path) -> Work:
        """onnx.checker, rank, operators, unused initializers, IR version."""
        from hydra_export.targets.onnx.lint import lint

        return lint(path)

    def said(self, path: Path) -> dict[str, str]:
        """Its metadata properties."""
        return {entry.key: entry.value for entry in _around_weights(path).metadata_props}

    def declared(self, path: Path) -> Interface:
        """Of the graph."""
        from hydra_export.targets.onnx import file

        return file.declared(_around_weights(path))


def _read_around_weights(path: Path) -> onnx.ModelProto:
    import onnx

    model = onnx.load(path, load_external_data=False)
    model.graph.ClearField("initializer")
    return model


_around_weights = Latest(_read_around_weights)  # what is in a file besides its weights


def _opset(spec: ExportSpec) -> int:
    return DEFAULT_OPSET if spec.opset is None else spec.opset


TARGET = OnnxTarget()
