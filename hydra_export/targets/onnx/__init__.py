"""ONNX: graphs emitted directly from the weights, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from hydra_export.errors import BadInput
from hydra_export.target import (
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
from hydra_export.targets.onnx.card import CARD
from hydra_export.targets.onnx.devices import RUNTIMES
from hydra_export.unchanged import Latest

if TYPE_CHECKING:
    import onnx

    from hydra_export.architecture import HydraConfig
    from hydra_export.checkpoint import Checkpoint
    from hydra_export.printed import Measured

_SMALL_BYTES = 256  # of what is no weight
_WIDE_OPSET = 21  # from which QuantizeLinear gives 16 bits
OPSETS = range(13, 24)
_DEFAULT_OPSET = 17  # the first with LayerNormalization


class OnnxOptions(Options, frozen=True):
    """Options of ONNX only."""

    opset: Annotated[
        int | None,
        Option(
            "ONNX opset, 13 to 23; by default 17, which the oldest runtimes take, or what a graph needs: 21 for "
            "16-bit activations. Below 17, nine operators replace LayerNorm, as some compilers need it; 23 uses its "
            "Attention operator."
        ),
    ] = None
    weight_files: Annotated[
        Literal["each", "one"],
        Option(
            "For graph kind shared: one weight file per head count (smallest download per device), or one file for all "
            "(loads faster at larger head counts).",
            graphs=("shared",),
        ),
    ] = "each"


class OnnxTarget(Target):
    """Separate files, small graphs over shared weight files, or one graph that takes the head count as an input."""

    name: ClassVar[str] = "onnx"
    title: ClassVar[str] = "ONNX"
    graphs: ClassVar[tuple[GraphKind, ...]] = ("separate", "shared", "universal")
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", *STATIC)
    options: ClassVar[type[Options]] = OnnxOptions
    layouts: ClassVar[dict[InputForm, str]] = {"tensor": "NCHW", "image": "NHWC"}
    card: ClassVar[Card] = CARD
    runners: ClassVar[str] = str(Path(__file__).with_name("runners.py"))
    device_runtimes: ClassVar[tuple[DeviceRuntime, ...]] = RUNTIMES
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir", "onnxruntime")
    further: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("onnxsim", "the tests that ONNX graphs are minimal", "dev"),
    )

    def requires(self) -> None:
        """Nothing: the base install has all of it."""

    def runtimes(self, precision: Precision) -> tuple[Runtime, ...]:
        """onnxruntime."""
        return (Runtime("onnxruntime"),)

    def check(self, spec: ExportSpec, model: OfModel | None = None) -> None:
        """Refuses an opset that the emitter does not know."""
        opset, least = OnnxOptions.of(spec).opset, _least_opset(spec, None if model is None else model.config)
        if opset is not None and opset not in OPSETS:
            raise BadInput(f"`opset` {opset} is not supported.", f"Use {OPSETS[0]} to {OPSETS[-1]}.")
        if opset is not None and opset < least:
            raise BadInput(
                f"`opset` {opset} is too old for a {spec.precision} graph of this model.", f"Use {least} or more."
            )

    def write(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
        """Writes one graph per head count into *out*."""
        from hydra_export.targets.onnx import separate, shared, universal

        self.check(spec)
        write = {"separate": separate.write, "shared": shared.write, "universal": universal.write}[spec.graph]
        return write(checkpoint, heads, spec, _opset(checkpoint, spec), out)

    def planned(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
        """By the names of the model and of the head counts."""
        from hydra_export.targets.onnx import separate, shared, universal

        planned = {"separate": separate.planned, "shared": shared.planned, "universal": universal.planned}[spec.graph]
        return planned(checkpoint, heads, spec, _opset(checkpoint, spec))

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

    def metadata(self, path: Path) -> dict[str, str]:
        """Its metadata properties."""
        return {entry.key: entry.value for entry in _around_weights(path).metadata_props}

    def signature(self, path: Path) -> Interface:
        """Of the graph."""
        from hydra_export.targets.onnx import file

        return file.signature(_around_weights(path))

    def operators(self, path: Path) -> Iterator[UsedOperator]:
        """Nodes of the graph and its branches; one between DequantizeLinear and QuantizeLinear is in integers."""
        from hydra_export.targets.onnx import used

        return used.operators(path)

    def printed(self, text: str, path: Path) -> Iterator[Measured]:
        """What its devices' tools printed."""
        from hydra_export.targets.onnx import printed

        return printed.runs(text, path)

    def reported(self, document: Any, path: Path) -> Iterator[Measured]:
        """What its devices' tools wrote as JSON."""
        from hydra_export.targets.onnx import reported

        return reported.runs(document, path)


def _least_opset(spec: ExportSpec, config: HydraConfig | None, is_wide: bool = False) -> int:
    """QuantizeLinear gives 16 bits from 21 on; in integers GELU by tanh is one operator alone, from 20 on."""
    if spec.precision == "w8a16" or is_wide:
        return _WIDE_OPSET
    if spec.precision not in STATIC:
        return OPSETS[0]
    by_tanh = config is not None and config.activation == "gelu_tanh"
    return 20 if by_tanh else OPSETS[0]


def _opset(checkpoint: Checkpoint, spec: ExportSpec) -> int:
    """What was chosen, or the lowest that does.

    Raises:
        BadInput: what was chosen does not.
    """
    ranges = (checkpoint.activations or {}).get(spec.precision, {}).values()
    is_wide = any(each.wide for of_heads in ranges for each in of_heads.values())
    least = _least_opset(spec, checkpoint.info.config, is_wide)
    opset = OnnxOptions.of(spec).opset or max(least, _DEFAULT_OPSET)
    if opset < least:
        what = "16-bit activations" if least == _WIDE_OPSET else "GELU by tanh in integers"
        raise BadInput(f"`opset` {opset} has no {what}.", f"Use {least} or more.")
    return opset


def _read_around_weights(path: Path) -> onnx.ModelProto:
    import onnx

    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _SMALL_BYTES:
            tensor.ClearField("raw_data")
    return model


_around_weights = Latest(_read_around_weights)  # what is in a file besides its weights


TARGET = OnnxTarget()
