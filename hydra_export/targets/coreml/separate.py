"""One package per head count."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hydra_export.errors import BadInput, CheckFailed
from hydra_export.model import array
from hydra_export.target import Artifact, ExportSpec, described
from hydra_export.targets.coreml import MACOS, TARGET, folder, graph
from hydra_export.version import VERSION

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint


def write(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, out: Path) -> list[Artifact]:
    """Writes ``<model>-k3.mlpackage``, or ``<model>-k3-fp32.mlpackage``, into *out*, one at a time."""
    _check_labels(checkpoint, spec)
    with _quiet_coremltools() as ct:
        return [_write(ct, checkpoint, k, spec, out) for k in heads]


def _check_labels(checkpoint: Checkpoint, spec: ExportSpec) -> None:
    if not spec.classifier:
        return
    labels, classes = checkpoint.info.labels, checkpoint.info.config.num_classes
    if not labels or len(labels) != classes:
        raise BadInput(
            f"A Core ML classifier needs a label for each class; {checkpoint.info.name} has {len(labels)} labels for "
            f"{classes} classes.",
            "Give --labels FILE, one label per line, or leave --coreml-classifier out.",
        )
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise BadInput(
            f"The label {twice!r} is listed twice, and a Core ML classifier finds probabilities by their labels.",
            "Give --labels FILE in which every label is another, or leave --coreml-classifier out.",
        )


def _write(ct: Any, checkpoint: Checkpoint, heads: int, spec: ExportSpec, out: Path) -> Artifact:
    info = checkpoint.info
    suffix = "" if spec.precision == TARGET.precisions[0] else f"-{spec.precision}"
    name = f"{info.name}-k{heads}{suffix}.mlpackage"
    place = out / name
    (place / folder.WEIGHTS).parent.mkdir(parents=True)
    program = graph.build(info.config, heads, spec, info.preprocessing, _weights(checkpoint, heads, spec))
    model = _converted(ct, program, checkpoint, spec)
    del program
    try:
        shutil.copyfile(Path(model.weights_dir) / Path(folder.WEIGHTS).name, place / folder.WEIGHTS)
        description = _described(model.get_spec(), checkpoint, heads, spec)
    finally:
        shutil.rmtree(model.package_path)
    del model
    content = description.SerializeToString(deterministic=True)
    (place / folder.MODEL).write_bytes(content)
    (place / folder.MANIFEST).write_bytes(folder.manifest(hashlib.sha256(content).hexdigest()))
    _read_back(description, place)
    image, output = graph.signature(info.config, heads, spec)
    return Artifact(
        path=name,
        files=tuple(f"{name}/{file}" for file in folder.FILES),
        target="coreml",
        spec=spec,
        heads=(heads,),
        inputs=(image,),
        outputs=(output,),
        needs={"ios": str(spec.ios), "macos": MACOS[spec.ios]},
    )


def _weights(checkpoint: Checkpoint, heads: int, spec: ExportSpec) -> graph.Fetch:
    tensors = checkpoint.model.weights(heads)
    largest = float(np.finfo(np.float16).max)

    def fetch(name: str) -> NDArray[np.float32]:
        weight = array(tensors[name])
        if spec.precision == "fp16" and not np.abs(weight).max() <= largest:
            raise BadInput(
                f"{checkpoint.info.name}: {name} holds {np.abs(weight).max():.3g}, and fp16 ends at {largest:g}.",
                "Give --precision fp32.",
            )
        return weight

    return fetch


def _converted(ct: Any, program: Any, checkpoint: Checkpoint, spec: ExportSpec) -> Any:
    """*program* as coremltools serialises it, unchanged: no pass runs over it."""
    options: dict[str, Any] = {}
    if spec.input == "image":
        colors = ct.colorlayout.RGB if checkpoint.info.config.channels == 3 else ct.colorlayout.GRAYSCALE
        size, channels = checkpoint.info.config.image_size, checkpoint.info.config.channels
        options["inputs"] = [ct.ImageType(name="image", shape=(1, channels, size, size), color_layout=colors)]
    if spec.classifier:
        options["classifier_config"] = ct.ClassifierConfig(
            list(checkpoint.info.labels), graph.LABEL, predicted_probabilities_output=graph.SHARES
        )
    return ct.convert(
        program,
        source="milinternal",
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, f"iOS{spec.ios}"),
        compute_precision=ct.precision.FLOAT32,  # leaves every type as the program has it
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
        **options,
    )


def _described(model: Any, checkpoint: Checkpoint, heads: int, spec: ExportSpec) -> Any:
    """The specification with our metadata in place of coremltools' own, which says when it was made."""
    info = checkpoint.info
    model.mlProgram.attributes.clear()
    said = model.description.metadata
    said.Clear()
    said.author, said.license, said.versionString = "hydra-export", info.license, VERSION
    size, width = info.config.image_size, info.config.width(heads)
    said.shortDescription = (
        f"{info.name}, subnetwork of {heads} of {info.config.heads} attention heads: a Vision Transformer of width "
        f"{width} for images of {size} x {size} pixels."
    )
    for name, text in described(checkpoint, (heads,), spec).items():
        said.userDefined[name] = text
    texts = _texts(checkpoint, spec)
    for feature in (*model.description.input, *model.description.output):
        feature.shortDescription = texts[feature.name]
    return model


def _texts(checkpoint: Checkpoint, spec: ExportSpec) -> dict[str, str]:
    data = checkpoint.info.preprocessing
    mean, std = (", ".join(f"{each:g}" for each in values) for values in (data.mean, data.std))
    image = f"The image, resized so that its shorter side is {int(data.image_size / data.crop)}, then cropped"
    normalised = f", as (pixel / 255 - mean) / std with mean {mean} and std {std}"
    return {
        "image": f"{image}{normalised if spec.input == 'tensor' else ''}.",
        graph.LOGITS: "One number per class, before softmax.",
        graph.FEATURES: "The class token after the last LayerNorm.",
        graph.LABEL: "The most probable label.",
        graph.PROBABILITIES: "The probability of each label.",
    }


def _read_back(description: Any, place: Path) -> None:
    """Lets coremltools' own reader infer every type of the file again."""
    from coremltools.converters.mil.frontend.milproto.load import load

    try:
        load(description, description.specificationVersion, str((place / folder.WEIGHTS).parent))
    except Exception as error:  # its errors share no base
        raise CheckFailed(f"coremltools cannot read back {place.name}, which it wrote: {error!r}.") from error


@contextlib.contextmanager
def _quiet_coremltools() -> Iterator[Any]:
    """Imports coremltools; what it says meanwhile of versions, Macs and progress helps nobody.

    torch and torchvision come first and TensorFlow stays out: in other orders their native parts crash.
    """
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        import torch  # noqa: F401
        import torchvision  # noqa: F401

        kept_out = "coremltools" not in sys.modules and "tensorflow" not in sys.modules
        if kept_out:
            sys.modules["tensorflow"] = None  # type: ignore[assignment]
        try:
            import coremltools
        finally:
            if kept_out:
                del sys.modules["tensorflow"]
        yield coremltools
