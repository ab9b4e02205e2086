"""A package around the programs of one subnetwork or of several."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_export.errors import BadInput, CheckFailed
from hydra_export.target import Artifact, ExportSpec, described, image_info, output_info
from hydra_export.targets.coreml import MACOS, TARGET, CoreMLOptions, folder, graph
from hydra_export.targets.coreml.weight_file import WeightFileWriter
from hydra_export.text import kept
from hydra_export.version import VERSION

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

_ALONE = "main"  # the function of a package that has one


def check_labels(checkpoint: Checkpoint, spec: ExportSpec) -> None:
    """Raises BadInput for a classifier whose labels do not name its classes."""
    if not CoreMLOptions.of(spec).classifier:
        return
    labels, classes = list(map(kept, checkpoint.info.labels)), checkpoint.info.config.num_classes
    if not labels or len(labels) != classes:
        raise BadInput(
            f"A Core ML classifier needs a label for each class; {checkpoint.info.name} has {len(labels)} labels for "
            f"{classes} classes.",
            "Give `labels`, one label per line, or leave `classifier` out.",
        )
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise BadInput(
            f"The label {twice!r} is listed twice, and a Core ML classifier finds probabilities by their labels.",
            "Give `labels` of which every one is another, or leave `classifier` out.",
        )


def planned(checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, part: str) -> Artifact:
    """``<model>-<part>.mlpackage``; the precision follows *part* unless it is the default."""
    name = "-".join([checkpoint.info.name, part, *([] if spec.precision == TARGET.precisions[0] else [spec.precision])])
    config = checkpoint.info.config
    return Artifact(
        path=f"{name}.mlpackage",
        files=tuple(f"{name}.mlpackage/{file}" for file in folder.FILES),
        target="coreml",
        spec=spec,
        heads=tuple(heads),
        inputs=(image_info(config, spec),),
        outputs=(output_info(config, heads, spec),),
        needs=needs(CoreMLOptions.of(spec).ios),
    )


def needs(ios: int) -> dict[str, str]:
    """The oldest systems that can run a package."""
    return {"ios": str(ios), "macos": MACOS[ios]}


def write(
    ct: Any,
    checkpoint: Checkpoint,
    artifact: Artifact,
    out: Path,
    programs: Iterable[tuple[str, Any]],
    description: str,
) -> Artifact:
    """Writes *artifact*, as it is ``planned``, into *out*.

    Args:
        ct: coremltools.
        programs: by the names of their functions, the default one last; each is converted before the next is taken.
        description: of the whole, for people who open it.
    """
    heads, spec, place = artifact.heads, artifact.spec, out / artifact.path
    (place / folder.WEIGHTS).parent.mkdir(parents=True)
    models = {}
    with WeightFileWriter(place / folder.WEIGHTS) as weights:
        for function, program in programs:
            models[function] = _converted(ct, program, checkpoint, spec, weights)
            del program
    model = _described(_joined(models), checkpoint, heads, spec, description)
    content = model.SerializeToString(deterministic=True)
    (place / folder.MODEL).write_bytes(content)
    (place / folder.MANIFEST).write_bytes(folder.manifest(hashlib.sha256(content).hexdigest()))
    _read_back(model, place)
    return artifact


def _converted(ct: Any, program: Any, checkpoint: Checkpoint, spec: ExportSpec, weights: WeightFileWriter) -> Any:
    """*program* as coremltools serialises it, unchanged: no pass runs over it. Its weights go to *weights*."""
    options: dict[str, Any] = {}
    if spec.input == "image":
        colors = ct.colorlayout.RGB if checkpoint.info.config.channels == 3 else ct.colorlayout.GRAYSCALE
        size, channels = checkpoint.info.config.image_size, checkpoint.info.config.channels
        options["inputs"] = [ct.ImageType(name="image", shape=(1, channels, size, size), color_layout=colors)]
    if CoreMLOptions.of(spec).classifier:
        options["classifier_config"] = ct.ClassifierConfig(
            list(map(kept, checkpoint.info.labels)), graph.LABEL, predicted_probabilities_output=graph.SHARES
        )
    converted = ct.convert(
        program,
        source="milinternal",
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, f"iOS{CoreMLOptions.of(spec).ios}"),
        compute_precision=ct.precision.FLOAT32,  # leaves every type as the program has it
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
        **options,
    )
    try:
        model = converted.get_spec()
        weights.take(model.mlProgram.functions[_ALONE], Path(converted.weights_dir) / Path(folder.WEIGHTS).name)
    finally:
        shutil.rmtree(converted.package_path)
    return model


def _joined(models: Mapping[str, Any]) -> Any:
    """One model of the functions of *models*, the last of which is the default."""
    (*_, default), joined = models, next(iter(models.values()))
    if default == _ALONE:
        return joined
    joined = type(joined)(specificationVersion=joined.specificationVersion)
    joined.mlProgram.version = 1
    joined.description.defaultFunctionName = default
    for name, model in models.items():
        joined.mlProgram.functions[name].CopyFrom(model.mlProgram.functions[_ALONE])
        said = model.description
        joined.description.functions.add(
            name=name,
            input=said.input,
            output=said.output,
            predictedFeatureName=said.predictedFeatureName,
            predictedProbabilitiesName=said.predictedProbabilitiesName,
        )
    return joined


def _described(model: Any, checkpoint: Checkpoint, heads: Sequence[int], spec: ExportSpec, description: str) -> Any:
    """*model* with our metadata in place of coremltools' own, which says when it was made."""
    info = checkpoint.info
    model.mlProgram.attributes.clear()
    said = model.description.metadata
    said.Clear()
    said.author, said.license, said.versionString = "hydra-export", kept(info.license), VERSION
    said.shortDescription = description
    for name, text in described(info, checkpoint.sha256, heads, spec).items():
        said.userDefined[name] = text
    texts = _texts(checkpoint, spec)
    for signature in (model.description, *model.description.functions):
        for feature in (*signature.input, *signature.output):
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


def _read_back(model: Any, place: Path) -> None:
    """Lets coremltools' own reader infer every type of the file again, a function at a time."""
    from coremltools.converters.mil.frontend.milproto.load import load

    for name in model.mlProgram.functions:
        alone = type(model)(specificationVersion=model.specificationVersion)
        alone.mlProgram.version = 1
        alone.mlProgram.functions[name].CopyFrom(model.mlProgram.functions[name])
        try:
            load(alone, alone.specificationVersion, str((place / folder.WEIGHTS).parent))
        except Exception as error:  # its errors share no base
            raise CheckFailed(f"coremltools cannot read back {place.name}, which it wrote: {error!r}.") from error


@contextlib.contextmanager
def quiet_coremltools() -> Iterator[Any]:
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
        with _imports_left_to_themselves():
            yield coremltools


@contextlib.contextmanager
def _imports_left_to_themselves() -> Iterator[None]:
    """Spares the garbage collector what has been imported.

    coremltools runs it at every conversion: a quarter of a second over a million objects that stay anyway, half of what
    writing a small package takes.
    """
    frozen = gc.get_freeze_count()
    if not frozen:  # by somebody else, who counts on it
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()
