"""Core ML: ML Program packages, written and verified here by our own code, without Apple's."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from hydra_export.errors import BadInput, UnknownName
from hydra_export.target import (
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
from hydra_export.targets.coreml.card import CARD
from hydra_export.targets.coreml.devices import RUNTIMES

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

# An iOS version and the macOS of the same year.
MACOS = {15: "12", 16: "13", 17: "14", 18: "15"}

_OLDEST = {"int8": (16, "quantized weights"), "int8-static": (17, "quantized activations")}
_OLDEST_UNIVERSAL = 18


class CoreMLOptions(Options, frozen=True):
    """Options of Core ML only."""

    ios: Annotated[
        Literal[15, 16, 17, 18],
        Option("The oldest iOS that the packages must run on, 15 to 18; macOS 12 to 15 correspond."),
    ] = 18
    classifier: Annotated[
        bool,
        Option(
            "The packages also output the label and every class's probability, as Vision and Xcode expect.",
            flag="coreml-classifier",
        ),
    ] = False


class CoreMLTarget(Target):
    """Packages for Core ML on iOS and macOS: one per head count, or one with a function for each (experimental).

    Tensor inputs and outputs are float32 whatever the precision: what Swift code hands over without converting, and
    the same at every iOS version.
    """

    name: ClassVar[str] = "coreml"
    title: ClassVar[str] = "Core ML"
    graphs: ClassVar[tuple[GraphKind, ...]] = ("separate", "universal")
    precisions: ClassVar[tuple[Precision, ...]] = ("fp16", "fp32", "int8", "int8-static")
    options: ClassVar[type[Options]] = CoreMLOptions
    experimental: ClassVar[dict[GraphKind, str]] = {
        "universal": "verified as a file, function by function, not run on Apple hardware"
    }
    layouts: ClassVar[dict[InputForm, str]] = {"tensor": "NCHW", "image": "CVPixelBuffer"}
    card: ClassVar[Card] = CARD
    runners: ClassVar[str] = str(Path(__file__).with_name("runners.py"))
    on_boards: ClassVar[bool] = False
    device_runtimes: ClassVar[tuple[DeviceRuntime, ...]] = RUNTIMES
    packages: ClassVar[tuple[str, ...]] = ("protobuf",)
    further: ClassVar[tuple[tuple[str, str, str], ...]] = (("coremltools", "runs packages on a Mac", "coreml"),)

    def requires(self) -> None:
        """Nothing that hydra-export does not bring."""

    def runtimes(self, precision: Precision) -> tuple[Runtime, ...]:
        """Our evaluator, and on macOS Core ML itself."""
        found = [Runtime("mil", timed=False)]
        if precision != "fp32":
            found.append(Runtime("mil-fp16", exact=False, timed=False))
        if sys.platform == "darwin" and _has_coremltools():
            found.append(Runtime("coreml", exact=False))
        return tuple(found)

    def check(self, spec: ExportSpec, model: OfModel | None = None) -> None:
        """Refuses what a package cannot be: of any batch, of images by the batch, a classifier without labels."""
        options = CoreMLOptions.of(spec)
        if options.ios not in MACOS:
            raise BadInput(f"`ios` {options.ios} is not supported.", f"Use {min(MACOS)} to {max(MACOS)}.")
        oldest, lacking = _OLDEST.get(spec.precision, (0, ""))
        if options.ios < oldest:
            raise BadInput(
                f"`precision={spec.precision}` needs iOS {oldest} or newer: `ios` {options.ios} has no {lacking}.",
                f"Pass `ios={oldest}` or newer, or `precision=fp16`.",
            )
        if spec.io == "integer":
            raise BadInput(
                "Core ML packages have float inputs and outputs: `io` integer is not available.",
                "Pass `io=float`, or leave coreml out.",
            )
        if spec.graph == "universal" and options.ios < _OLDEST_UNIVERSAL:
            raise BadInput(
                f"`graph=universal` needs iOS {_OLDEST_UNIVERSAL}: `ios` {options.ios} has no packages of functions.",
                f"Pass `ios={_OLDEST_UNIVERSAL}`, or `graph=separate`.",
            )
        if spec.batch == "dynamic":
            raise BadInput(
                "Core ML packages need a fixed batch: otherwise the Neural Engine is not used.",
                "Pass `batch=1`, or the number of images that your app runs at once.",
            )
        if spec.batch != 1 and (spec.input == "image" or options.classifier):
            what = "A Core ML classifier" if options.classifier else "An image input of Core ML"
            raise BadInput(f"{what} takes one image at a time, not {spec.batch}.", "Pass `batch=1`.")
        if model is not None and options.classifier and not model.config.num_classes:
            raise BadInput(f"{model.name} has no classes.", "Export it without `classifier`.")
        if model is not None and options.classifier and not model.labels:
            raise BadInput(
                f"A classifier needs labels, and {model.name} has none.", "Pass `labels`, one class name per line."
            )

    def write(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
        """Writes ``<model>-k3.mlpackage``, ... or ``<model>-universal.mlpackage`` into *out*."""
        from hydra_export.targets.coreml import separate, universal

        self.check(spec)
        write = {"separate": separate.write, "universal": universal.write}[spec.graph]
        return write(checkpoint, heads, spec, out)

    def planned(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
        """By the names of the model and of the head counts."""
        from hydra_export.targets.coreml import separate, universal

        planned = {"separate": separate.planned, "universal": universal.planned}[spec.graph]
        return planned(checkpoint, heads, spec)

    def needs(self, path: Path) -> dict[str, str]:
        """The iOS of its operations, and the macOS of the same year."""
        from hydra_export.targets.coreml import package, session

        return package.needs(session.opened(path).ios)

    def load(self, path: Path, heads: int, threads: int = 0, runtime: str = "") -> Session:
        """A session in our evaluator, "mil" or "mil-fp16", or in Core ML itself, "coreml"."""
        from hydra_export.targets.coreml import session

        if runtime in ("", "mil"):
            return session.EvaluatorSession(path, heads, "fp32", threads)
        if runtime == "mil-fp16":
            return session.EvaluatorSession(path, heads, "fp16", threads)
        if runtime == "coreml":
            return session.CoreMLSession(path, heads)
        raise UnknownName("Core ML runtime", runtime, ("mil", "mil-fp16", "coreml"))

    def lint(self, path: Path) -> Work:
        """Files, operations, rank, iOS version, weights, and nothing that says when or where it was made."""
        from hydra_export.targets.coreml.lint import lint

        return lint(path)

    def metadata(self, path: Path) -> dict[str, str]:
        """Its metadata of the user's own."""
        from hydra_export.targets.coreml import session

        return dict(session.opened(path).user_metadata)

    def signature(self, path: Path) -> Interface:
        """Of its functions; a classifier gives a label and probabilities as well."""
        from hydra_export.targets.coreml import session

        return session.signature(session.opened(path))

    def operators(self, path: Path) -> Iterator[UsedOperator]:
        """Operations, function for function; constants and what makes weights of weights left out."""
        from hydra_export.targets.coreml import used

        return used.operators(path)


def _has_coremltools() -> bool:
    return importlib.util.find_spec("coremltools") is not None


TARGET = CoreMLTarget()
