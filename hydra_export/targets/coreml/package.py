"""A package around the programs of one subnetwork or of several."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_export.errors import BadInput
from hydra_export.mil.package import ARRAY_DTYPES, COLOR_SPACES, SPECIFICATIONS
from hydra_export.mil.proto import model_class
from hydra_export.network import Span
from hydra_export.target import Artifact, ExportSpec, described, image_info, output_info
from hydra_export.targets.coreml import MACOS, TARGET, CoreMLOptions, folder, graph
from hydra_export.targets.coreml.weight_file import WeightFileWriter
from hydra_export.targets.coreml.weights import Weights
from hydra_export.text import kept
from hydra_export.version import VERSION

if TYPE_CHECKING:
    from hydra_export.checkpoint import Checkpoint

ALONE = "main"  # the function of a package that has one
_SPECIFICATIONS = {ios: number for number, ios in SPECIFICATIONS.items()}
_COLOR_SPACES = {name: number for number, (name, _) in COLOR_SPACES.items()}
_FLOAT32 = next(number for number, dtype in ARRAY_DTYPES.items() if dtype == "fp32")


def check_labels(checkpoint: Checkpoint, spec: ExportSpec) -> None:
    """Raises BadInput for a classifier whose labels do not name its classes."""
    if not CoreMLOptions.of(spec).classifier:
        return
    labels, classes = list(map(kept, checkpoint.info.labels)), checkpoint.info.config.num_classes
    if not labels or len(labels) != classes:
        raise BadInput(
            f"A Core ML classifier needs a label for each class; {checkpoint.info.name} has {len(labels)} labels for "
            f"{classes} classes.",
            "Pass `labels`, one label per line, or leave `classifier` out.",
        )
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise BadInput(
            f"The label {twice!r} is listed twice; a Core ML classifier needs unique labels.",
            "Pass unique `labels`, or leave `classifier` out.",
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
    checkpoint: Checkpoint,
    artifact: Artifact,
    out: Path,
    programs: Sequence[tuple[str, Sequence[Span]]],
    description: str,
) -> Artifact:
    """Writes *artifact*, as it is ``planned``, into *out*.

    Args:
        programs: the names of their functions, the default one last, and the shells that each is made of.
        description: of the whole, for people who open it.
    """
    info, spec, place = checkpoint.info, artifact.spec, out / artifact.path
    (place / folder.WEIGHTS).parent.mkdir(parents=True)
    weights, functions = Weights(checkpoint, spec), {}
    with WeightFileWriter(place / folder.WEIGHTS) as file:
        for name, spans in programs:
            functions[name] = graph.build(spans, spec, info, weights, file.store)
    model = model_class()(specificationVersion=_SPECIFICATIONS[CoreMLOptions.of(spec).ios])
    model.mlProgram.version = 1
    for name in sorted(functions):
        model.mlProgram.functions.add(key=name).value.CopyFrom(functions[name])
    _describe(model, functions, checkpoint, artifact, description)
    content = model.SerializeToString(deterministic=True)
    (place / folder.MODEL).write_bytes(content)
    (place / folder.MANIFEST).write_bytes(folder.manifest(hashlib.sha256(content).hexdigest()))
    return artifact


def _describe(
    model: Any, functions: Mapping[str, Any], checkpoint: Checkpoint, artifact: Artifact, description: str
) -> None:
    """What *model* says of itself, and of what its *functions* take and give."""
    info, metadata = checkpoint.info, model.description.metadata
    metadata.author, metadata.license, metadata.versionString = "hydra-export", kept(info.license), VERSION
    metadata.shortDescription = description
    texts = described(info, checkpoint.sha256, artifact.heads, artifact.spec)
    for name in sorted(texts):
        metadata.userDefined.add(key=name, value=texts[name])
    if set(functions) == {ALONE}:
        _describe_interface(model.description, functions[ALONE], checkpoint, artifact.spec)
        return
    model.description.defaultFunctionName = list(functions)[-1]
    for name, function in functions.items():
        _describe_interface(model.description.functions.add(name=name), function, checkpoint, artifact.spec)


def _describe_interface(message: Any, function: Any, checkpoint: Checkpoint, spec: ExportSpec) -> None:
    """The inputs and outputs of *function* in *message*, which describes it."""
    texts = _texts(checkpoint, spec)
    config, block = checkpoint.info.config, function.block_specializations[0].value
    made = {each.name: each.type for operation in block.operations for each in operation.outputs}
    image = message.input.add(name=graph.IMAGE)
    if spec.input == "image":
        kind = image.type.imageType
        kind.height, kind.width = config.image_shape
        kind.colorSpace = _COLOR_SPACES[{1: "grey", 3: "rgb"}[config.channels]]
    else:
        _describe_array(image, function.inputs[0].type)
    for name in block.outputs:
        output = message.output.add(name=name)
        if name == graph.LABEL:
            output.type.stringType.SetInParent()
        elif name == graph.PROBABILITIES:
            output.type.dictionaryType.stringKeyType.SetInParent()
        else:
            _describe_array(output, made[name])
    if CoreMLOptions.of(spec).classifier:
        message.predictedFeatureName, message.predictedProbabilitiesName = graph.LABEL, graph.PROBABILITIES
    for feature in (*message.input, *message.output):
        feature.shortDescription = texts[feature.name]


def _describe_array(feature: Any, kind: Any) -> None:
    feature.type.multiArrayType.dataType = _FLOAT32
    feature.type.multiArrayType.shape.extend(size.constant.size for size in kind.tensorType.dimensions)


def _texts(checkpoint: Checkpoint, spec: ExportSpec) -> dict[str, str]:
    config, data = checkpoint.info.config, checkpoint.info.preprocessing
    kind = (config.pooling, config.num_read_tokens, config.final_norm, config.norm, config.projection)
    of_class_token = kind == ("token", 1, "before_pooling", "layer_norm", 0)
    mean, std = (", ".join(f"{each:g}" for each in values) for values in (data.mean, data.std))
    height, width = data.covered_shape
    least = f"its shorter side is {height}" if data.is_square else f"it covers {height} by {width}"
    image = f"The image, resized so that {least}, then cropped"
    normalised = f", as (pixel / 255 - mean) / std with mean {mean} and std {std}"
    return {
        graph.IMAGE: f"{image}{normalised if spec.input == 'tensor' else ''}.",
        graph.LOGITS: "One number per class, before softmax.",
        graph.FEATURES: "The class token after the last LayerNorm." if of_class_token else "A number per channel.",
        graph.PATCH_TOKENS: "A number per channel for each patch, row by row from the top left.",
        graph.LABEL: "The most probable label.",
        graph.PROBABILITIES: "The probability of each label.",
    }
