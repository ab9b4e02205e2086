"""What a target is. Each file or folder in targets/ implements one."""

# B batch, H height, W width, C channels
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from hydra_export.errors import BadInput

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

GraphKind = Literal["separate", "shared", "universal"]
Precision = Literal["fp32", "fp16", "int8"]
InputForm = Literal["tensor", "image"]
Pixels = NDArray[np.uint8]  # [B, H, W, C], 0-255
Array = NDArray[Any]


class ExportSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to write: one choice of each. ``batch`` is a number, or "dynamic" for any; ``opset`` is ONNX's.

    ``weight_files`` is for graph kind ``shared``: one per listed head count, or one for all.
    """

    graph: GraphKind = "separate"
    precision: Precision = "fp32"
    input: InputForm = "tensor"
    batch: int | Literal["dynamic"] = 1
    opset: int | None = None
    weight_files: Literal["each", "one"] = "each"

    def __post_init__(self) -> None:
        if isinstance(self.batch, int) and self.batch < 1:
            raise BadInput(f"A batch of {self.batch} images cannot be run.", "Give 1 or more, or 'dynamic'.")


class TensorInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output of a graph; a name in *shape* stands for a size chosen at run time."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """One exported graph.

    Attributes:
        path: of the graph, relative to the folder that was written to, POSIX.
        files: everything that a device must fetch to run it, *path* included.
    """

    path: str
    files: tuple[str, ...]
    target: str
    spec: ExportSpec
    heads: tuple[int, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class Session(Protocol):
    """A loaded artifact that runs at one head count."""

    def run(self, image: Array) -> Array:
        """Logits [B, classes] float32.

        Args:
            image: in the artifact's input form: ``tensor`` float32 [B, C, H, W] normalised, or ``image`` uint8
                [B, H, W, C]. A target with another layout transposes here; any B is taken in pieces that fit.
        """


class Target(Protocol):
    """An on-device format."""

    name: ClassVar[str]
    graphs: ClassVar[tuple[GraphKind, ...]]
    precisions: ClassVar[tuple[Precision, ...]]

    def requires(self) -> None:
        """Raises MissingExtra where the packages that it needs are not installed."""

    def check(self, spec: ExportSpec) -> None:
        """Raises BadInput for a choice within its graphs and precisions that it does not have."""

    def write(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
        """Writes the artifacts of *heads* (ascending) into the folder *out*."""

    def load(self, path: Path, heads: int, threads: int = 0) -> Session:
        """A session that runs the artifact at *path* with the first *heads* heads; 0 threads: its choice."""

    def lint(self, path: Path) -> None:
        """Raises CheckFailed where the written file is not as portable as promised."""
