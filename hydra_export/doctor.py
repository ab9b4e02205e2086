"""What works here: versions, and every target tried on a tiny model, each in a process of its own."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from hydra_export import board, files, targets
from hydra_export.bundle import Progress, silent
from hydra_export.errors import BadInput, HydraExportError, MissingExtra
from hydra_export.installation import install_command
from hydra_export.target import GraphKind, Precision, Target
from hydra_export.version import VERSION
from hydra_export.worker import Worker, available_memory_mib

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

TIME_LIMIT_SECONDS = 300.0
# What every target is made and verified with; targets name what they need themselves.
_BASE = ("torch", "torchvision", "timm", "safetensors", "numpy")
_FURTHER = (("matplotlib", "charts", "plot"),)
State = Literal["works", "fails", "not installed", "not available"]


class HostInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where this runs. ``cores`` are those that this process may use; ``available_memory_mib`` is None if unknown."""

    python: str
    system: str
    architecture: str
    cores: int
    memory_mib: int
    available_memory_mib: int | None


class Accelerators(msgspec.Struct, frozen=True, kw_only=True):
    """What torch and onnxruntime find; *problem* says why nothing is known."""

    gpus: tuple[str, ...] = ()
    onnxruntime_providers: tuple[str, ...] = ()
    problem: str = ""


class PackageState(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution that matters; where it is not installed, *version* is None and *remedy* says what to do."""

    name: str
    version: str | None
    purpose: str
    remedy: str = ""


class TargetState(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one target.

    Attributes:
        precision: the one that was tried: the target's default.
        runtimes: that ran the artifacts here, each with its largest error in logits.
        message, remedy: why it does not work, and what to do.
        detail: a traceback or the last output of what failed.
    """

    name: str
    state: State
    graphs: tuple[GraphKind, ...]
    precisions: tuple[Precision, ...]
    precision: Precision
    runtimes: dict[str, float] = {}
    seconds: float = 0.0
    message: str = ""
    remedy: str = ""
    detail: str = ""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """All that ``hydra-export doctor`` finds."""

    hydra_export: str
    machine: HostInfo
    accelerators: Accelerators
    packages: tuple[PackageState, ...]
    targets: tuple[TargetState, ...]


def diagnose(progress: Progress = silent, seconds: float = TIME_LIMIT_SECONDS) -> Diagnosis:
    """Looks at this machine and tries every target; nothing that a trial does, dying and hanging included, ends it.

    Args:
        seconds: that one trial may take.
    """
    names = targets.names()
    progress("looking for GPUs", 0, len(names) + 1)
    accelerators = _accelerators(seconds)
    states = []
    for step, name in enumerate(names, start=1):
        progress(f"trying {name}", step, len(names) + 1)
        states.append(_state(targets.get(name), seconds))
    progress("done", len(names) + 1, len(names) + 1)
    return Diagnosis(
        hydra_export=VERSION,
        machine=HostInfo(
            python=platform.python_version(),
            system=platform.platform(),
            architecture=platform.machine(),
            cores=board.usable_cores(),
            memory_mib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
            available_memory_mib=available_memory_mib(),
        ),
        accelerators=accelerators,
        packages=tuple(_packages()),
        targets=tuple(states),
    )


def _accelerators(seconds: float) -> Accelerators:
    """Asked in a process of its own: a broken driver may crash it, and torch is slow to load."""
    try:
        with Worker() as worker:
            found = worker.call(f"{__name__}:find_accelerators", what="The search for GPUs", seconds=seconds)
    except HydraExportError as error:
        return Accelerators(problem=error.message)
    return msgspec.convert(found, Accelerators)


def find_accelerators() -> dict[str, list[str]]:
    """The fields of Accelerators; imports torch and onnxruntime where they are installed."""
    gpus, providers = [], []
    if find_spec("torch"):
        import torch

        if torch.cuda.is_available():
            gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        elif torch.backends.mps.is_available():
            gpus = ["Apple GPU (mps)"]
    if find_spec("onnxruntime"):
        import onnxruntime

        providers = onnxruntime.get_available_providers()
    return {"gpus": gpus, "onnxruntime_providers": providers}


def _packages() -> Iterator[PackageState]:
    """Every distribution once, those of targets with what the target says of their absence."""
    every = [targets.get(name) for name in targets.names()]
    known = {name: _package(name, "every export", f"Run: {install_command()}") for name in _BASE}
    for target in every:
        refusal = _refusal(target)
        remedy = refusal.remedy if refusal else f"Run: {install_command()}"
        for name in target.packages:
            known.setdefault(name, _package(name, f"target {target.name}", remedy))
    for name, purpose, extra in (*(each for target in every for each in target.further), *_FURTHER):
        how = install_command(extra) if extra else f"pip install {name}"
        known.setdefault(name, _package(name, purpose, f"Run: {how}"))
    yield from known.values()


def _package(name: str, purpose: str, remedy: str) -> PackageState:
    try:
        return PackageState(name=name, version=version(name), purpose=purpose)
    except PackageNotFoundError:
        return PackageState(name=name, version=None, purpose=purpose, remedy=remedy)


def _refusal(target: Target) -> BadInput | None:
    """Why *target* does not write here, if so."""
    try:
        target.requires()
    except BadInput as error:
        return error
    return None


def _state(target: Target, seconds: float) -> TargetState:
    precision = target.precisions[0]

    def state(state: State, **found: Any) -> TargetState:
        return TargetState(
            name=target.name,
            state=state,
            graphs=target.graphs,
            precisions=target.precisions,
            precision=precision,
            **found,
        )

    refusal = _refusal(target)
    if refusal:
        kind: State = "not installed" if isinstance(refusal, MissingExtra) else "not available"
        return state(kind, message=refusal.message, remedy=refusal.remedy)
    if absent := [name for name in ("torch", "timm") if not find_spec(name)]:  # a board that only runs artifacts
        return state(
            "not installed",
            message=f"Exports need {absent[0]}; bundles are verified without it.",
            remedy=f"Run: {install_command()}",
        )
    began = time.monotonic()
    with files.temporary_folder("hydra-export-doctor-") as folder, Worker() as worker:
        try:
            runtimes = worker.call(
                f"{__name__}:try_target",
                what=f"The trial of target '{target.name}'",
                seconds=seconds,
                name=target.name,
                folder=str(folder),
            )
        except HydraExportError as error:
            detail = "\n".join(getattr(error, "__notes__", []))
            return state("fails", message=error.message, remedy=error.remedy, detail=detail)
    return state("works", runtimes=runtimes, seconds=time.monotonic() - began)


def try_target(name: str, folder: str) -> dict[str, float]:
    """Exports a tiny model to the target called *name* and verifies it; the largest error of logits in each runtime."""
    from hydra_export.exporting import export, jobs
    from hydra_export.verification import verify

    target = targets.get(name)
    bundle = Path(folder) / "bundle"
    listed = jobs([name], target.graphs[:1], target.precisions[:1])
    every = [runtime.name for runtime in target.runtimes(listed[0].spec.precision)]
    export(tiny_checkpoint(Path(folder)), bundle, listed, verify_with=every)
    runtimes: dict[str, float] = {}
    for run in verify(bundle, verify_with=every):
        for runtime, error in run.record.runtimes.items():
            runtimes[runtime] = max(error, runtimes.get(runtime, 0.0))
    return runtimes


def tiny_checkpoint(folder: Path) -> Checkpoint:
    """Two heads, two blocks, 16 x 16 pixels; a fresh ViT's biases and classifier are zero and would hide errors."""
    import torch

    from hydra_export import checkpoint, checkpoint_file
    from hydra_export.architecture import HydraConfig
    from hydra_export.model import HydraViT
    from hydra_export.preprocess import imagenet

    torch.manual_seed(0)
    model = HydraViT(HydraConfig(heads=2, head_dim=8, depth=2, patch_size=4, image_size=16, num_classes=7))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    info = checkpoint_file.CheckpointInfo(
        name="tiny", config=model.config, preprocessing=imagenet(16), trained_heads=(1, 2), license="CC0-1.0"
    )
    path = folder / "tiny.safetensors"
    checkpoint_file.write(path, model.state_dict(), info)
    return checkpoint.load(path)
