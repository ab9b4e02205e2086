"""The functions that a program calls: export, open a bundle, train, choose for a device."""

# B batch, C channels, H height, W width
from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec
import numpy as np
from PIL import Image

from hydra_export import archive, fitting, text, verification
from hydra_export import bundle as bundles
from hydra_export import targets as registry
from hydra_export.architecture import check_heads, parse_heads
from hydra_export.arrays import Array
from hydra_export.bundle import ArtifactEntry, DeviceEntry, Manifest, Progress, silent
from hydra_export.errors import BadInput, CheckFailed
from hydra_export.gate import Gate
from hydra_export.latency import REFERENCE
from hydra_export.preprocess import Preprocessing
from hydra_export.target import STATIC, GraphKind, InputForm, OfModel, Options, Precision, Session
from hydra_export.verification import Verified

if TYPE_CHECKING:
    from types import TracebackType

    import torch
    from torch import nn

    from hydra_export.adapted import Output
    from hydra_export.cache import Cache
    from hydra_export.calibration import Calibration
    from hydra_export.checkpoint import Checkpoint
    from hydra_export.checkpoint_file import CheckpointInfo
    from hydra_export.data import ImageSet
    from hydra_export.quantized.ranges import Choice
    from hydra_export.train.run import Outcome
    from hydra_export.train.run import Progress as TrainingProgress


class Bundle:
    """A bundle's artifacts and manifest, in a folder or in an archive, which stays unpacked while this is open.

    Nothing is run or hashed before ``verify``: call it first on a bundle that is not your own.

    Attributes:
        path: the folder or the archive.
        folder: what the manifest's paths are relative to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with ExitStack() as stack:
            is_archive = self.path.is_file()
            self.folder = stack.enter_context(archive.unpacked(self.path)) if is_archive else self.path
            self.manifest: Manifest = bundles.read(self.folder)
            self._close = weakref.finalize(self, stack.pop_all().close)

    @property
    def artifacts(self) -> tuple[BundleArtifact, ...]:
        """Every artifact, in the manifest's order."""
        return tuple(BundleArtifact(self, entry) for entry in self.manifest.artifacts)

    def verify(
        self,
        *,
        limit_memory_mib: int | None = None,
        limit_seconds: float | None = None,
        verify_with: Sequence[str] | str = (),
        progress: Progress = silent,
    ) -> tuple[Verified, ...]:
        """Checks every hash and runs every artifact on the golden images, in a separate process.

        Args:
            limit_memory_mib: memory limit of that process; by default what the largest artifact needs. Linux only.
            limit_seconds: time limit of each artifact at each head count; by default enough for a slow board.
            verify_with: names of runtimes that run them in addition to each target's own.

        Raises:
            VerificationFailed: a file is damaged, missing or not listed, or an artifact's outputs are not the model's.
            LimitExceeded: an artifact exceeds its memory or time limit.
        """
        return verification.verify(
            self.path,
            progress,
            limit_memory_mib=limit_memory_mib,
            limit_seconds=limit_seconds,
            verify_with=[verify_with] if isinstance(verify_with, str) else verify_with,
        )

    def calibrate(
        self, images: str | Path | ImageSet, *, within: float = 0.0, progress: Progress = silent
    ) -> Calibration:
        """Fits the confidence of each head count, and cascades; replaces the bundle as a whole, without changing
        artifacts.

        Args:
            images: a folder, ideally with one folder of images per class, ``fashion-mnist``, ``digits``, ``packaged``,
                or an ImageSet; without labels, an answer counts as correct if the largest head count gives it too.
            within: largest loss of a cascade on the images it is fitted on, in percentage points.

        Raises:
            BadInput: the model has no classes, or there are too few images.
            LimitExceeded, VerificationFailed: as ``verify`` raises them.
        """
        from hydra_export import calibrating

        chosen = _calibration_images(self.manifest.model, images)
        found = calibrating.calibrate(self.path, chosen, within=within, progress=progress)
        self.manifest = msgspec.structs.replace(self.manifest, calibration=found)
        return found

    def close(self) -> None:
        """Deletes the unpacked copy of an archive; leaves a folder as it is."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        artifacts = text.counted(len(self.manifest.artifacts), "artifact")
        return f"<Bundle {self.path}: {artifacts} of {self.manifest.model.name}>"


@dataclass(frozen=True, repr=False)
class BundleArtifact:
    """One artifact of a bundle.

    Attributes:
        entry: its entry in the manifest.
    """

    bundle: Bundle
    entry: ArtifactEntry

    @property
    def path(self) -> Path:
        """The file, or the folder of an .mlpackage."""
        return self.bundle.folder / self.entry.path

    @property
    def target(self) -> str:
        return self.entry.target

    @property
    def graph(self) -> GraphKind:
        return self.entry.graph

    @property
    def precision(self) -> Precision:
        return self.entry.precision

    @property
    def heads(self) -> tuple[int, ...]:
        """The head counts that it runs at, ascending."""
        return self.entry.heads

    def session(self, heads: int | None = None, *, threads: int = 0, runtime: str = "") -> ImageSession:
        """Loads the artifact in this process.

        Args:
            heads: one of its head counts; the largest by default.
            threads: 0 for the runtime's choice.
            runtime: a runtime of its target; the first that runs here by default.

        Raises:
            BadInput: it does not have that head count.
            MissingExtra: its runtime is not installed.
            CheckFailed: it is damaged, or the runtime cannot run it.
        """
        chosen = max(self.heads) if heads is None else heads
        if chosen not in self.heads:
            counts = ", ".join(map(str, self.heads))
            raise BadInput(f"{self.entry.path} has no `heads` {chosen}.", f"Choose from {counts}.")
        loaded = registry.get(self.target).load(self.path, chosen, threads, runtime)
        return ImageSession(loaded, self.entry, self.bundle.manifest.model.preprocessing)

    def __repr__(self) -> str:
        return f"<BundleArtifact {self.entry.path}, heads {', '.join(map(str, self.heads))}>"


@dataclass(frozen=True)
class ImageSession:
    """A loaded artifact that takes images as well as arrays."""

    session: Session
    entry: ArtifactEntry
    preprocessing: Preprocessing

    def run(self, image: str | Path | Image.Image | Array) -> Array:
        """Returns logits [B, classes], features [B, width] or patch tokens [B, patches, width], float32.

        Args:
            image: an image or its path, which is preprocessed as the manifest specifies; or an array in the artifact's
                own input form: ``tensor`` float32 [B, C, H, W] normalised, ``image`` uint8 [B, H, W, C].
        """
        if isinstance(image, str | Path):
            from hydra_export.data.decoding import decoded

            image = decoded(Path(image))
        if isinstance(image, Image.Image):
            pixels_1HWC = self.preprocessing.fit(image)[None]
            image = pixels_1HWC if self.entry.input == "image" else self.preprocessing.normalise(pixels_1HWC)
        return self.session.run(np.asarray(image))


_MOST_CALIBRATION_IMAGES = 10_000


def export(
    model: str | Path | Checkpoint | nn.Module | None = None,
    out: str | Path = "hydra-bundle",
    *,
    targets: str | Sequence[str] = registry.DEFAULT,
    device: str | Sequence[str] = (),
    budget_ms: float | None = None,
    heads: int | str | Sequence[int] | None = None,
    graphs: str | Sequence[str] = "separate",
    precisions: str | Sequence[str] = (),
    input: InputForm = "tensor",  # noqa: A002 (the name that it has everywhere)
    batch: int | Literal["dynamic"] = 1,
    options: Options | Sequence[Options] = (),
    output: Output | None = None,
    labels: Sequence[str] = (),
    check_images: str | Path | ImageSet | None = None,
    calibrate: str | Path | ImageSet | None = None,
    calibration_images: int = 128,
    calibration_method: Choice = "auto",
    smooth: bool = True,
    mixed: bool = False,
    io: Literal["float", "integer"] = "float",
    max_drop: float = 1.0,
    max_class_drop: float | None = None,
    accept_unchecked: bool = False,
    allow_untrained: bool = False,
    zip: bool = False,  # noqa: A002 (likewise)
    cache: bool | str | Path | Cache = False,
    verify_with: Sequence[str] | str = (),
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda note: None,
) -> Bundle:
    """Writes a bundle at *out*: every artifact is run and verified against the float64 model before it is kept.

    An existing bundle at *out* is replaced as a whole, or left as it is if anything fails.

    Args:
        model: a Checkpoint, anything that ``load_checkpoint`` takes, or a torch module, whose own outputs are then
            verified as well; None for the packaged model.
        targets: ``onnx``, ``tflite``, ``coreml``.
        device: names such as ``pixel7`` or ``pixel7:RUNTIME``, instead of *targets*: each device gets the target of its
            best known runtime, or of RUNTIME, and the head count that fits.
        budget_ms: with *device*: time budget for one image in milliseconds; by default each device's own.
        heads: head counts, in a list or as ``3,6,12``, or ``all``; by default those that the checkpoint lists for
            export.
        graphs: ``separate``, ``shared``, ``universal``.
        precisions: ``fp32``, ``fp16``, ``int8`` (weights), ``int8-static`` (weights and activations), ``w8a16`` (8-bit
            weights, 16-bit activations); by default each target's own.
        input: ``tensor`` (normalised float32) or ``image`` (uint8 pixels).
        batch: images per call, or ``dynamic``.
        options: options of a single target, such as ``OnnxOptions(opset=20)``.
        output: ``logits``, ``embedding`` (the classifier's input) or ``tokens`` (of all patches); by default what the
            model has.
        labels: class names in the order of the logits, instead of the checkpoint's.
        check_images: a folder of images, or an ImageSet, to verify artifacts on; the packaged ones by default.
        calibrate: images to calibrate the activations, the model's confidence and its cascades with, as
            ``Bundle.calibrate`` takes them; activations of the packaged model default to the packaged images.
        calibration_images: how many of these images to use for the activations' ranges.
        calibration_method: ``min-max``, ``percentile`` or ``mse`` for all ranges; ``auto`` chooses the best for each.
        smooth: equalizes channels that are much larger than others.
        mixed: for int8-static, uses 16 bits for the activations that lose most at 8 bits, as few as pass the check.
        io: input and output type of graphs with integer activations: ``float``, or ``integer`` for the integers
            themselves.
        max_drop: largest loss of top-1 by quantization, in percentage points.
        max_class_drop: largest loss of any one class by quantization, in percentage points; unlimited by default.
        accept_unchecked: exports quantized artifacts without images to judge them by.
        allow_untrained: exports head counts that were not trained.
        zip: also writes OUT.zip next to *out*.
        verify_with: names of runtimes that verify in addition to each target's own.
        cache: reuses artifacts that were written before, and verifies them again: True for the user's cache, or a
            folder.
        progress: is called with the current step's description, the steps done and the total number of steps.
        tell: is called with what was assumed about the model ("note: ...") and with warnings ("warning: ...").

    Raises:
        BadInput: an argument is wrong, or the model cannot be exported.
        CheckFailed: with *budget_ms*, nothing is known to fit it on a device.
        OutputRefused: *out* exists and is not a bundle, or cannot be written.
        ParityFailed: an artifact does not compute its subnetwork.
    """
    from hydra_export import checkpoint as checkpoints
    from hydra_export import exporting
    from hydra_export.cache import Cache, default_folder

    devices = [device] if isinstance(device, str) else list(device)
    if budget_ms is not None and not (devices and 0 < budget_ms < 1e9):
        remedy = "Use a number of milliseconds above 0." if devices else "Add `device=NAME`."
        raise BadInput(f"`budget_ms` is {budget_ms:g}." if devices else "`budget_ms` needs `device`.", remedy)
    planned = partial(
        exporting.jobs, graphs=graphs, precisions=precisions, input=input, batch=batch, io=io, options=options
    )
    listed = [] if devices else planned(targets)
    loaded = _loaded(model)
    if output is not None:
        loaded = checkpoints.with_output(loaded, output)
    info, usual = loaded.info, checkpoints.default_heads(loaded.info)
    if isinstance(heads, str):
        counts = parse_heads(heads, info.config.heads, usual)
    else:
        counts = check_heads(
            usual if heads is None else [heads] if isinstance(heads, int) else heads, info.config.heads
        )
    for note in loaded.notes:
        tell(f"note: {note}")
    if warning := checkpoints.check_trained(info, counts, allow_untrained):
        tell(f"warning: {warning}")
    entries = _fitting(devices, info, counts, budget_ms, tell) if devices else []
    if entries:
        listed = planned(list(dict.fromkeys(entry.target for entry in entries)))
    if labels:
        loaded = checkpoints.with_labels(loaded, tuple(labels))
    if isinstance(cache, Cache):
        kept: Cache | None = cache
    else:
        kept = None if cache is False else Cache(default_folder() if cache is True else Path(cache))
    if kept:
        kept.check()
    static = any(job.spec.precision in STATIC for job in listed)
    shown = None if calibrate is None else _calibration_images(loaded.info, calibrate, strictly=not static)
    quantizing = None
    if static:
        quantizing = exporting.Quantizing.of(
            loaded.info, shown, calibration_images, method=calibration_method, smooth=smooth, mixed=mixed
        )
    calibration = None if shown is None else _calibration(loaded, counts, shown, tell if static else None)
    place = Path(out).absolute()  # the current folder may be what is replaced
    exporting.export(
        loaded,
        out,
        listed,
        heads=counts,
        images=_images(check_images, loaded.info, tell),
        gate=Gate(max_drop=max_drop, open=accept_unchecked, max_class_drop=max_class_drop),
        progress=progress,
        devices=entries,
        cache=kept,
        verify_with=[verify_with] if isinstance(verify_with, str) else verify_with,
        zipped=archive.beside(Path(out)) if zip else None,
        calibration=calibration,
        quantizing=quantizing,
    )
    if kept:
        kept.prune()
    return Bundle(place)


def _calibration(
    loaded: Checkpoint, heads: Sequence[int], chosen: ImageSet, tell: Callable[[str], None] | None
) -> Calibration | None:
    """By what the model itself says of images; with *tell*, which are for activations first, where they can be."""
    from hydra_export import network
    from hydra_export.calibration import LEAST_IMAGES, calibrated
    from hydra_export.evaluation.confidence import logits

    if tell is not None and (not loaded.info.config.num_classes or len(heads) < 2 or len(chosen) < LEAST_IMAGES):
        tell("note: No cascades were fitted: they need classes, two head counts and more calibration images.")
        return None
    said = logits(loaded.model, loaded.info.preprocessing, chosen.pixels, heads)
    gmacs = {k: round(network.macs(loaded.info.config, k) / 1e9, 6) for k in heads}
    return calibrated(said, chosen.labels, gmacs, chosen.source)


def _calibration_images(model: OfModel, images: str | Path | ImageSet, strictly: bool = True) -> ImageSet:
    from hydra_export.data import ImageSet
    from hydra_export.data.of_model import check_classes, fitted_to

    if strictly:
        check_classes(model)
    return images if isinstance(images, ImageSet) else fitted_to(model, str(images), _MOST_CALIBRATION_IMAGES)


def _fitting(
    names: Sequence[str],
    info: CheckpointInfo,
    heads: Sequence[int],
    budget_ms: float | None,
    tell: Callable[[str], None],
) -> list[DeviceEntry]:
    """What is chosen for each device."""
    devices = fitting.fit(names, fitting.workload(info, heads), budget_ms)
    missed = [entry for entry in devices if not entry.fits]
    too_slow = [entry for entry in missed if entry.chance is not None]  # of the others nothing is known
    if too_slow and budget_ms is not None:
        reasons = "; ".join(f"{entry.id}: {entry.why}" for entry in too_slow)
        raise CheckFailed(
            f"Nothing is known to fit {budget_ms:g} ms on {reasons}.",
            f"Nothing was exported. hydra-export profile shows how to settle it for {too_slow[0].runtime} on "
            f"{too_slow[0].id}.",
        )
    for entry in missed:
        instead = f"; k = {entry.heads}, the fastest, is exported" if entry.heads else ""
        tell(f"warning: {entry.id}: {entry.why}{instead}.")
    return devices


def _images(
    images: str | Path | ImageSet | None, info: CheckpointInfo, tell: Callable[[str], None]
) -> ImageSet | Callable[[int], ImageSet] | None:
    """*images*, or what reads so many of a folder's."""
    if not isinstance(images, str | Path):
        return images
    folder = Path(images)

    def read(count: int) -> ImageSet:
        from hydra_export.data import folder_images

        read = folder_images(folder, info.preprocessing, info.labels, count, num_classes=info.config.num_classes)
        if read.note:
            tell(f"note: {read.note}")
        return read

    return read


def _loaded(model: str | Path | Checkpoint | nn.Module | None) -> Checkpoint:
    from hydra_export import checkpoint as checkpoints
    from hydra_export.model import HydraViT
    from hydra_export.reference import held_to_module

    if isinstance(model, checkpoints.Checkpoint):
        return model
    loaded = checkpoints.load(model)
    if model is None or isinstance(model, str | Path | HydraViT):
        return loaded
    return held_to_module(loaded, model)


def choose(
    device: str,
    budget_ms: float | None = None,
    *,
    model: Bundle | Checkpoint | str | Path | nn.Module | None = None,
    heads: Sequence[int] | None = None,
    profiles: str | Path | None = None,
) -> DeviceEntry:
    """Chooses what to run on a device: the runtime, its target, and the largest head count that fits.

    Args:
        device: a name such as ``pixel7``, or ``pixel7:RUNTIME`` for a runtime other than the best known one.
        budget_ms: time budget for one image in milliseconds; the device's own by default.
        model: the model whose subnetworks to choose from; the published HydraViT, hydravit_base_patch16_224, by
            default.
        heads: head counts to choose from; all that *model* lists by default.
        profiles: the folder of your own device profiles.

    Raises:
        UnknownName, BadInput: there is no such device or runtime.
    """
    if model is None:
        workload = REFERENCE
    elif isinstance(model, Bundle):
        workload = model.manifest.model.workload
    else:
        from hydra_export.checkpoint import default_heads

        info = _loaded(model).info
        workload = fitting.workload(info, default_heads(info))
    if heads is not None:
        if unknown := sorted({*heads} - {*workload.gmacs}):
            counts = ", ".join(map(str, workload.gmacs))
            raise BadInput(f"{workload.name} has no `heads` {unknown[0]} to choose.", f"Choose from {counts}.")
        workload = workload.only(heads)
    (entry,) = fitting.fit([device], workload, budget_ms, None if profiles is None else Path(profiles))
    return entry


def open_bundle(path: str | Path) -> Bundle:
    """Opens the bundle at *path*, a folder or an archive, and checks that its manifest is consistent.

    Raises:
        BadInput: there is no bundle at *path*.
        VerificationFailed: its manifest or its archive is damaged.
    """
    return Bundle(path)


def make_elastic(
    model: str | Path | Checkpoint | nn.Module,
    images: str | Path | ImageSet | torch.Tensor | Iterable[Any],
    *,
    how: Literal["rotate", "sort"] = "rotate",
) -> Checkpoint:
    """Puts a dense ViT into a basis in which its first heads, hidden units and channels matter most.

    The outputs of the full width stay the same, and narrower subnetworks improve; recipe ``elastic`` of ``train_model``
    does this first and then trains them. A model without a classifier gets a projection, so that every subnetwork
    outputs features in the space of the dense model.

    Args:
        model: anything that ``load_checkpoint`` takes, with one classifier or none.
        images: a few hundred images like those it will see, without need for labels: a folder, an ImageSet, a tensor of
            normalised images [N, C, H, W], or batches of these, such as a DataLoader, with or without labels [N].
        how: whether channels are rotated to their principal components, or only sorted as heads and hidden units are.
            Models whose channels cannot be rotated without changing the outputs are sorted; ``Checkpoint.notes`` report
            this.

    Raises:
        BadInput: there are no images, or the model is already universal, or outputs patch tokens.
        CheckFailed: the outputs of the full width change.
    """
    from hydra_export.elastic.checkpoints import made_elastic

    dense = _loaded(model)
    return made_elastic(dense, _shown(images, dense.info.preprocessing), how)


def _shown(images: str | Path | ImageSet | torch.Tensor | Iterable[Any], pixels: Preprocessing) -> Iterator[Any]:
    """Batches of normalised images, and their labels where these are known."""
    import torch

    from hydra_export.data import ImageSet, sources
    from hydra_export.elastic.observation import BATCH
    from hydra_export.evaluation.preprocessed import batches, spread
    from hydra_export.train.config import REBASE_IMAGES

    if isinstance(images, str | Path):
        found, _ = sources.images(Path(images))
        for pixels_BHWC, _ in batches(found, spread(len(found), REBASE_IMAGES), pixels, BATCH, 0):
            yield torch.from_numpy(pixels.normalise(pixels_BHWC)), None
    elif isinstance(images, ImageSet):
        for i in range(0, len(images), BATCH):
            labels = None if images.labels is None else torch.from_numpy(images.labels[i : i + BATCH])
            yield torch.from_numpy(pixels.normalise(images.pixels[i : i + BATCH])), labels
    elif isinstance(images, torch.Tensor):
        yield from ((images[i : i + BATCH], None) for i in range(0, len(images), BATCH))
    else:
        for batch in images:
            yield (batch, None) if isinstance(batch, torch.Tensor) else batch


def train_model(
    recipe: str | None = None,
    out: str | Path = "hydra-run",
    *,
    data: str | Path | None = None,
    start: str | Path | None = None,
    seed: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    train_heads: Sequence[int] | Literal["all"] | None = None,
    head_weights: Sequence[float] | None = None,
    override: Mapping[str, Any] | None = None,
    tensorboard: bool = False,
    resume: bool = False,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
    tell: Callable[[tuple[str, ...]], None] = lambda notes: None,
) -> Outcome:
    """Trains a universal model into the folder *out*; its checkpoint is ready for ``export``.

    Args:
        recipe: ``fashion-mnist`` (the default), ``digits``, ``elastic``, ``finetune``, ``imagenet-base`` or
            ``imagenet-small``.
        out: a new or empty folder, or, with *resume*, the run to continue.
        data: a folder with one folder of images per class, or another form that the recipe's dataset accepts.
        start: the checkpoint for the initial weights, as ``load_checkpoint`` takes it.
        seed: determines the initial weights, the order and augmentation of the images, and the drawn head counts.
        steps: total number of updates.
        batch_size: images per step, over all processes.
        lr: peak learning rate.
        train_heads: the head counts to draw from; the others become useless.
        head_weights: how often to draw each of them; all equally by default.
        override: any other field of the run by its dotted name, such as ``{"augmentation.mixup": 0.8}``.
        tensorboard: also writes metrics for TensorBoard.
        report: is called with the progress after every step.
        tell: is called with what was assumed about the initial checkpoint.

    Raises:
        OutputRefused: *out* is not empty and *resume* is not set, or it cannot be written.
        BadInput: a field is unknown or invalid, or data, checkpoint and configuration contradict each other.
        CheckFailed: the loss is not finite.
    """
    from hydra_export.train import run
    from hydra_export.train.request import TrainingRequest, resolve

    asked = {"data": data, "seed": seed, "steps": steps, "batch_size": batch_size, "lr": lr}
    fields = {name: value for name, value in asked.items() if value is not None} | dict(override or {})
    if "data" in fields:
        fields["data"] = str(fields["data"])
    request = TrainingRequest(
        recipe=recipe,
        start=None if start is None else str(start),
        train_heads=train_heads,
        head_weights=head_weights,
        fields=fields,
    )
    resolved = resolve(request, Path(out), resume=resume)
    return run.run(
        resolved.config,
        Path(out),
        resume=resolved.resume,
        tensorboard=tensorboard,
        report=report,
        tell=tell,
        start_is_default=resolved.start_is_default,
    )
