"""Core AI: assets for iOS and macOS 27, written with Apple's own package and verified in its runtime for Linux."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hydra_export.errors import BadInput, MissingExtra, UnknownName
from hydra_export.target import (
    Artifact,
    Card,
    ExportSpec,
    GraphKind,
    InputForm,
    Interface,
    OfModel,
    Precision,
    Runtime,
    Session,
    Target,
    Work,
)
from hydra_export.targets.coreai.card import CARD

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

_OLDEST_GLIBC = (2, 34)  # of the wheel: manylinux_2_34
_WHEELS = {("linux", "x86_64"), ("darwin", "arm64")}  # that there are; no source distribution
_NOT_RUN = "verified in Apple's runtime for Linux, not run on a device"


class CoreAITarget(Target):
    """Assets for Core AI on iOS and macOS 27: one per head count, or one with a function for each.

    Inputs and outputs are float32 whatever the precision, but for images, which are uint8. fp16 and int8 assets compute
    in float16, which Apple's runtime for Linux does a hundred times slower than in float32: they are verified there
    with float32 in place of float16, and every weight as it is stored.
    """

    name: ClassVar[str] = "coreai"
    title: ClassVar[str] = "Core AI"
    graphs: ClassVar[tuple[GraphKind, ...]] = ("separate", "universal")
    precisions: ClassVar[tuple[Precision, ...]] = ("fp16", "fp32", "int8")
    experimental: ClassVar[dict[GraphKind, str]] = {
        "separate": _NOT_RUN,
        "universal": f"{_NOT_RUN}; it is not known whether it loads each weight once for all functions",
    }
    layouts: ClassVar[dict[InputForm, str]] = {"tensor": "NCHW", "image": "NHWC"}
    card: ClassVar[Card] = CARD
    runners: ClassVar[str] = str(Path(__file__).with_name("runners.py"))
    on_boards: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ("coreai-core",)

    def requires(self) -> None:
        """Apple's package, which is there for some systems alone."""
        check_system(sys.platform, platform.machine(), platform.libc_ver())
        if importlib.util.find_spec("coreai") is None:
            raise MissingExtra("Target 'coreai'", "coreai-core", "coreai")

    def runtimes(self, precision: Precision) -> tuple[Runtime, ...]:
        """Apple's, which computes in float32 for every export, and in float16 where it is asked to."""
        if precision == "fp32":
            return (Runtime("coreai", timed=False),)
        return Runtime("coreai-fp32", timed=False), Runtime("coreai", exact=False, timed=False, further=True)

    def check(self, spec: ExportSpec, model: OfModel | None = None) -> None:
        """Refuses a batch of any size."""
        if spec.batch == "dynamic":
            raise BadInput(
                "Core AI assets need a fixed batch: the Neural Engine does not run `batch=dynamic`.",
                "Pass `batch=1`, or the number of images that your app runs at once.",
            )

    def write(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
        """Writes ``<model>-k3.aimodel``, ... or ``<model>-universal.aimodel`` into *out*."""
        from hydra_export.targets.coreai import asset

        self.check(spec)
        return [asset.write(checkpoint, artifact, out) for artifact in asset.planned(checkpoint, heads, spec)]

    def planned(self, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec) -> list[Artifact]:
        """By the names of the model and of the head counts."""
        from hydra_export.targets.coreai import asset

        return asset.planned(checkpoint, heads, spec)

    def needs(self, path: Path) -> dict[str, str]:
        """The first systems that have Core AI."""
        from hydra_export.targets.coreai import asset

        return dict(asset.NEEDS)

    def load(self, path: Path, heads: int, threads: int = 0, runtime: str = "") -> Session:
        """A session in Apple's runtime, "coreai", or "coreai-fp32" with float32 in place of float16."""
        from hydra_export.targets.coreai import session

        if runtime not in ("", "coreai", "coreai-fp32"):
            raise UnknownName("Core AI runtime", runtime, ("coreai", "coreai-fp32"))
        return session.CoreAISession(path, heads, wide=runtime != "coreai")

    def lint(self, path: Path) -> Work:
        """Files, hash, functions, operations, types, sizes, and nothing that says when or where it was made."""
        from hydra_export.targets.coreai.lint import lint

        return lint(path)

    def metadata(self, path: Path) -> dict[str, str]:
        """Its metadata of the user's own."""
        from hydra_export.targets.coreai import folder

        return folder.metadata(path)

    def signature(self, path: Path) -> Interface:
        """Of its functions."""
        from hydra_export.targets.coreai import reader

        return reader.signature(path)


def check_system(system: str, machine: str, libc: tuple[str, str]) -> None:
    """Raises BadInput where there is no package of Apple's for the system that Python names so."""
    instead = "Export on Linux (x86-64) or a Mac with Apple silicon, or pass `targets=coreml`, which works anywhere."
    if (system, machine) not in _WHEELS:
        raise BadInput(f"Apple has no coreai-core for {system} on {machine}.", instead)
    name, version = libc
    if system == "linux" and (name != "glibc" or tuple(map(int, version.split(".")[:2])) < _OLDEST_GLIBC):
        have = f"{name} {version}".strip() or "no glibc"
        raise BadInput(f"Apple's coreai-core needs glibc 2.34 or newer; this system has {have}.", instead)


TARGET = CoreAITarget()
