"""What a target is. Each file or folder in targets/ implements one."""

# B batch, H height, W width, C channels
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self, get_args, get_type_hints

import msgspec

from hydra_export.errors import BadInput
from hydra_export.text import kept

if TYPE_CHECKING:
    from hydra_export.architecture import HydraConfig
    from hydra_export.arrays import Array
    from hydra_export.checkpoint import Checkpoint
    from hydra_export.preprocess import Preprocessing
    from hydra_export.printed import Measured

GraphKind = Literal["separate", "shared", "universal"]
Precision = Literal["fp32", "fp16", "int8", "int8-static", "w8a16"]
InputForm = Literal["tensor", "image"]
STATIC: tuple[Precision, ...] = ("int8-static", "w8a16")  # of integer activations
GATED: tuple[Precision, ...] = ("int8", *STATIC)  # judged by their accuracy, as no rounding of theirs is small
ComputeUnit = Literal["cpu", "gpu", "npu"]

METADATA_PREFIX = "hydra_export."  # of what artifacts say of themselves


class Option(msgspec.Struct, frozen=True):
    """A choice specific to one target: annotates a field of its ``Options``, in ``Annotated``.

    Attributes:
        help: the help text, in sentences.
        flag: its name on the command line, if that is not the field's. A choice that is on by default uses the name
            that turns it off.
        graphs: the graph kinds that it applies to; empty for all.
    """

    help: str
    flag: str = ""
    graphs: tuple[GraphKind, ...] = ()


class OptionField(NamedTuple):
    """A field of a target's ``Options``."""

    name: str
    kind: Any
    default: Any
    flag: str
    about: Option


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of one target; each target that has options derives its own class, with defaults for all."""

    @classmethod
    def of(cls, spec: ExportSpec) -> Self:
        """The options in *spec*, or the defaults if it has none."""
        if spec.options is None:
            return cls()
        if not isinstance(spec.options, cls):
            raise TypeError(f"{spec.options} are options of another target; this one takes {cls.__name__}.")
        return spec.options

    @classmethod
    def fields(cls) -> list[OptionField]:
        """Every field, with its annotation."""
        hints = get_type_hints(cls, include_extras=True)
        found = []
        for field in msgspec.structs.fields(cls):
            kind, about = get_args(hints[field.name])
            flag = about.flag or field.name.replace("_", "-")
            found.append(OptionField(field.name, kind, field.default, flag, about))
        return found


class ExportSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to write.

    Attributes:
        batch: a number, or "dynamic" for any.
        io: input and output type of graphs with integer activations: floats, or the integers themselves.
        options: an instance of the target's ``options``; None for the defaults.
    """

    graph: GraphKind = "separate"
    precision: Precision = "fp32"
    input: InputForm = "tensor"
    batch: int | Literal["dynamic"] = 1
    io: Literal["float", "integer"] = "float"
    options: Options | None = None

    def __post_init__(self) -> None:
        if isinstance(self.batch, int) and self.batch < 1:
            raise BadInput(f"A batch of {self.batch} images is not possible.", "Use 1 or more, or 'dynamic'.")


class TensorInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One input or output of a graph; a name in *shape* stands for a size chosen at run time.

    Attributes:
        scale, zero_point: for quantized integers: number = scale * (integer - zero_point).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    scale: float | None = None
    zero_point: int = 0


Interface = tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]  # inputs and outputs


def image_info(config: HydraConfig, spec: ExportSpec, channels_last: bool = False) -> TensorInfo:
    """The image that an artifact takes; pixels in 0-255 have their channels last, normalised ones where it says so."""
    is_raw = spec.input == "image"
    axes = (*config.image_shape, config.channels)
    axes = axes if is_raw or channels_last else (axes[2], *axes[:2])
    return TensorInfo(name="image", dtype="uint8" if is_raw else "float32", shape=(_batch(spec), *axes))


def output_info(config: HydraConfig, heads: Sequence[int], spec: ExportSpec) -> TensorInfo:
    """What an artifact of *heads* gives; features are as many as the subnetwork is wide, or a projection says."""
    *others, last = zip(*(config.output_shape(k) for k in heads), strict=True)
    size = last[0] if len(set(last)) == 1 else "width"
    return TensorInfo(name=config.output, dtype="float32", shape=(_batch(spec), *(sizes[0] for sizes in others), size))


def _batch(spec: ExportSpec) -> int | str:
    return "batch" if spec.batch == "dynamic" else spec.batch


class Runtime(msgspec.Struct, frozen=True):
    """A runtime that runs artifacts on this machine.

    Attributes:
        exact: it computes in float32, so the error bound is float32's own noise; others round intermediate results.
        timed: its speed is meaningful, unlike that of an evaluator that only verifies.
        further: an additional runtime that takes seconds to import, and verifies only on request.
    """

    name: str
    exact: bool = True
    timed: bool = True
    further: bool = False


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """One exported graph.

    Attributes:
        path: of the graph, a file or a folder (.mlpackage), relative to the output folder, POSIX.
        files: everything that a device must fetch to run it, *path* or the files in it included.
        needs: the oldest version that can run it, such as ``{"opset": "17"}``.
    """

    path: str
    files: tuple[str, ...]
    target: str
    spec: ExportSpec
    heads: tuple[int, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    needs: dict[str, str] = {}


class DeviceRuntime(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime that runs a target's files on devices.

    Attributes:
        unit: the compute unit that it uses, if not the usual one.
        kernels: the library that computes for it on CPUs, if other runtimes use it too.
        maker: the family of devices whose chips it is limited to; empty for any.
        cards: these chips are also sold as cards for other computers.
        handheld: phones and tablets run it.
        usual: its rank among those that run artifacts without special tools: by family of devices where the family
            has its own, else for "handheld" and for "other" devices. Several units if the family has them.
        quantizes: its compiler quantizes the weights and activations of float files.
        converts: it takes artifacts only through its own converter, so it is evidence rather than a choice.
        reads_results: ``profile`` imports its times that were measured elsewhere.
        timed_by: the tools that time only this runtime, whose output ``printed`` reads or whose files ``reported``
            reads.
        timers: what times it on a device, by compute unit or "" for any: format strings of stem, a file's name without
            its ending.
        timer_classes: the classes of devices that the timers work on; empty for all.
        browser: the npm packages that run it in browsers, and the folders where a page keeps them; empty if it does not
            run in browsers. Times of a browser runtime are evidence only for itself, on the device and at the head
            counts that were timed, and it is chosen only on request.
    """

    name: str
    unit: ComputeUnit = "cpu"
    kernels: str = ""
    maker: str = ""
    cards: bool = False
    handheld: bool = True
    usual: dict[str, int] = {}
    quantizes: bool = False
    converts: bool = False
    reads_results: bool = False
    timed_by: tuple[str, ...] = ()
    timers: dict[str, str] = {}
    timer_classes: tuple[str, ...] = ()
    browser: dict[str, str] = {}


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A file of ``data/snippets`` that a bundle gets with a target's artifacts.

    Attributes:
        called: how to call it; empty for what other programs import.
        row: of the table of artifacts in it: a format string of path, heads, takes_heads, function, pixels, batch,
            outputs, best and value.
    """

    name: str
    called: str = ""
    row: str = ""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle's README and its programs need to know about a target.

    Attributes:
        imports, code: Python that runs one artifact, the latter a format string of path, image, chosen, function, last
            and output. ``function`` is the name of the head count's function, in quotation marks; ``last`` the same as
            one more argument, empty where the artifact has one function.
        image: by input form, the code that turns golden data into the input of *code*.
        choice: how the head count of a universal artifact is chosen.
        python, javascript: the package by which ``run.py`` and ``hydra_runtime.mjs`` run the artifacts; empty where
            they do not.
        only_function: ``function`` of an artifact that has only one, also in a program's row.
    """

    imports: str = ""
    code: str = ""
    image: dict[InputForm, str] = {}
    choice: str = ""
    python: str = ""
    javascript: str = ""
    programs: tuple[Program, ...] = ()
    only_function: str = ""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """The least that one run of an artifact takes, by its declared shapes; a size chosen at run time counts as one.

    Attributes:
        macs: multiply-accumulates of its products, in all of its graphs together.
        tensor_bytes: of the largest tensor that is computed.
    """

    macs: int
    tensor_bytes: int


class UsedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output of an operator.

    Attributes:
        dtype: of its numbers as they are stored, by numpy's name; "" where it is left out.
        shape: -1 for a size that is chosen at run time.
        constant: it is in the file, or computed from what is.
        behind: its numbers come after the structure that describes them.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    constant: bool = False
    behind: bool = False


class UsedOperator(msgspec.Struct, frozen=True, kw_only=True):
    """One operator at one place of an artifact.

    Attributes:
        name: as the format calls it.
        place: its name there, or that of its output.
        graph: the graph that it is in, "" for a file's only one.
        version: its own, or that of its operator set; 0 if the format has none.
        inputs, outputs: integers if the format states that it computes in them, whatever surrounds it.
        is_island: it computes in float between operators that compute in integers.
    """

    name: str
    place: str
    graph: str = ""
    version: int = 0
    inputs: tuple[UsedTensor, ...]
    outputs: tuple[UsedTensor, ...]
    is_island: bool = False


class Session(Protocol):
    """A loaded artifact that runs at one head count."""

    def run(self, image: Array) -> Array:
        """Returns logits, features or patch tokens, float32, with ``output_shape`` for each of B images.

        Args:
            image: in the artifact's input form: ``tensor`` float32 [B, C, H, W] normalised, or ``image`` uint8
                [B, H, W, C]. A target with another layout transposes here; any B is split into parts that fit.
        """


class Target(Protocol):
    """An on-device format.

    Attributes:
        title: its name as people write it.
        precisions: those that it writes, the default first.
        options: the type of its options; ``Options`` itself if it has none.
        experimental: by graph kind, what to know about artifacts that never ran on their devices.
        layouts: the order of the image's axes, N images, C channels, H height, W width; or another description.
        runners: the file of a module with RUNNERS, which ``bench`` and boards run artifacts by (see ``board``); or "".
        on_boards: whether boards run its artifacts: False for what only Apple's systems run.
        device_runtimes: what runs its artifacts on phones and boards.
        packages: the distributions whose versions shape its artifacts.
        further: distributions that add to it: name, what for, and the extra that brings it, or "".
    """

    name: ClassVar[str]
    title: ClassVar[str]
    graphs: ClassVar[tuple[GraphKind, ...]]
    precisions: ClassVar[tuple[Precision, ...]]
    options: ClassVar[type[Options]] = Options
    experimental: ClassVar[dict[GraphKind, str]] = {}
    layouts: ClassVar[dict[InputForm, str]]
    card: ClassVar[Card] = Card()
    runners: ClassVar[str] = ""
    on_boards: ClassVar[bool] = True
    device_runtimes: ClassVar[tuple[DeviceRuntime, ...]] = ()
    packages: ClassVar[tuple[str, ...]]
    further: ClassVar[tuple[tuple[str, str, str], ...]] = ()

    def requires(self) -> None:
        """Raises MissingExtra if packages that it needs are not installed, or BadInput if they cannot be."""

    def runtimes(self, precision: Precision) -> tuple[Runtime, ...]:
        """The runtimes of its artifacts on this machine; the first is exact."""

    def check(self, spec: ExportSpec, model: OfModel | None = None) -> None:
        """Raises BadInput for a choice within its graphs and precisions that it, or *model*, does not support."""

    def write(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
        """Writes the artifacts of *heads* (ascending) into the folder *out*."""

    def planned(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
        """What ``write`` will return; without ``needs`` if only the file shows it."""

    def needs(self, path: Path) -> dict[str, str]:
        """The oldest version that can run an artifact that passes lint, as ``write`` returns it."""

    def load(self, path: Path, heads: int, threads: int = 0, runtime: str = "") -> Session:
        """Returns a session that runs the artifact at *path* with the first *heads* heads.

        Args:
            threads: 0 for the runtime's choice.
            runtime: a name from ``runtimes``, the first by default.

        Raises:
            CheckFailed: the file is damaged, or the runtime cannot run it.
        """

    def lint(self, path: Path) -> Work:
        """Raises CheckFailed if the written file is not as portable as promised; returns what a run takes."""

    def metadata(self, path: Path) -> dict[str, str]:
        """The metadata of an artifact that passes lint, as ``described`` returned it."""

    def signature(self, path: Path) -> Interface:
        """The inputs and outputs of an artifact that passes lint, as ``write`` returned them."""

    def operators(self, path: Path) -> Iterator[UsedOperator]:
        """The operators of an artifact that passes lint, graph by graph; none if no delegate table covers it."""
        return iter(())

    def printed(self, text: str, path: Path) -> Iterator[Measured]:
        """The times in *text*, the output of a tool that times its artifacts, from the file *path*.

        Returns None if the text is not from a tool that its ``device_runtimes`` are ``timed_by``.
        """
        return iter(())

    def reported(self, document: Any, path: Path) -> Iterator[Measured]:
        """The times in a JSON *document* of such a tool, from the file *path*; None if it is from another."""
        return iter(())


class OfModel(Protocol):
    """What an artifact states about its model; a checkpoint's information and a manifest's entry both have it."""

    @property
    def name(self) -> str: ...
    @property
    def config(self) -> HydraConfig: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def license(self) -> str: ...


class OfGraph(Protocol):
    """What an artifact states about its graph; an ExportSpec and a manifest's entry both have it."""

    @property
    def graph(self) -> GraphKind: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def input(self) -> InputForm: ...


def described(model: OfModel, checkpoint_sha256: str, heads: Sequence[int], graph: OfGraph) -> dict[str, str]:
    """An artifact's metadata, for people and programs: texts, JSON where structured.

    None contains control characters, whatever the checkpoint has.
    """
    pairs = {
        "model": model.name,
        "heads": ",".join(map(str, heads)),
        "graph": graph.graph,
        "precision": graph.precision,
        "input": graph.input,
        "preprocessing": msgspec.json.encode(model.preprocessing).decode(),
        "labels": json.dumps([kept(label) for label in model.labels], ensure_ascii=False) if model.labels else "",
        "checkpoint_sha256": checkpoint_sha256,
        "license": model.license,
    }
    return {f"{METADATA_PREFIX}{name}": kept(text) for name, text in pairs.items() if text}
