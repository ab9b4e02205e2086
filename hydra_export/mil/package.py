"""The .mlpackage folder: its manifest, its model file, and what the model says that it takes and gives."""

from __future__ import annotations

import functools
import json
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hydra_export import files
from hydra_export.errors import BadInput, CheckFailed, Unreadable
from hydra_export.mil.constants import read_constant
from hydra_export.mil.evaluate import Compute, Inputs, evaluate
from hydra_export.mil.program import Function, Limits, read_function, unique
from hydra_export.mil.proto import parse_model
from hydra_export.mil.types import DictionaryType, InvalidProgram, TensorType
from hydra_export.mil.weights import WeightFile

# Specification versions of ML Programs, by the iOS release that brought them.
SPECIFICATIONS = {6: 15, 7: 16, 8: 17, 9: 18}
_MANIFEST_BYTES = 2**20
_ELEMENTS_AT_ONCE = 2**26  # of several runs side by side: 256 MiB
ARRAY_DTYPES = {65552: "fp16", 65568: "fp32", 131104: "int32"}
COLOR_SPACES = {10: ("grey", 1), 20: ("rgb", 3), 30: ("bgr", 3)}


@dataclass(frozen=True)
class Feature:
    """An input or output as the model describes it.

    Attributes:
        shape: () for strings and dictionaries; an image is [1, channels, height, width] with numbers in 0-255.
        color: for images: "grey", "rgb" or "bgr", the order of the channels.
    """

    name: str
    kind: Literal["tensor", "image", "string", "dictionary"]
    dtype: str
    shape: tuple[int, ...]
    color: str = ""
    description: str = ""


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of one function."""

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    predicted_label: str = ""
    predicted_probabilities: str = ""


@dataclass(frozen=True)
class Package:
    """An opened and checked .mlpackage.

    Attributes:
        ios: the oldest iOS that runs it, by its specification version.
        functions, signatures: by name.
        default_function: the one that runs by default.
        metadata: ``description``, ``version``, ``author``, ``license`` if not empty, and what the user added.
        build_info: what the program states about how it was built.
        weight_files: relative to *path*.
    """

    path: Path
    ios: int
    functions: dict[str, Function]
    signatures: dict[str, Signature]
    default_function: str
    metadata: dict[str, str] = field(default_factory=dict)
    user_metadata: dict[str, str] = field(default_factory=dict)
    build_info: dict[str, str] = field(default_factory=dict)
    weight_files: tuple[str, ...] = ()

    def run(self, inputs: Inputs, function: str | None = None, compute: Compute = "fp32") -> dict[str, Any]:
        """Returns the outputs for *inputs*: arrays, and for a classifier a label and a dictionary.

        Args:
            inputs: by name, in the declared shapes; images as numbers in 0-255.
            function: the default one if not set.
            compute: "fp32" and "fp64" use the weights as saved and never round a result; "fp16" rounds every result
                that the program declares as fp16, and computes each operation in float32.

        Raises:
            BadInput: the function is unknown, or inputs have other names or shapes.
            CheckFailed: an operation's output is not what it declares.
        """
        return self.run_each([inputs], function, compute)[0]

    def run_each(
        self, batches: Sequence[Inputs], function: str | None = None, compute: Compute = "fp32"
    ) -> list[dict[str, Any]]:
        """Like ``run`` for each of *batches*, but faster: weights are read once for several of them."""
        name = self.default_function if function is None else function
        if name not in self.functions:
            raise BadInput(f"{self.path} has no function {name!r}.", f"It has {', '.join(self.functions)}.")
        chosen = self.functions[name]
        for inputs in batches:
            self._check_inputs(inputs, chosen.inputs)
        at_once = max(1, _ELEMENTS_AT_ONCE // chosen.live_elements)
        groups = [batches[at : at + at_once] for at in range(0, len(batches), at_once)]
        try:
            return [outputs for group in groups for outputs in evaluate(chosen, group, compute)]
        except InvalidProgram as error:
            raise CheckFailed(f"{self.path}: function {name!r}: {error}.") from error

    def _check_inputs(self, inputs: Inputs, declared: dict[str, TensorType]) -> None:
        if inputs.keys() != declared.keys():
            raise BadInput(f"{self.path} was given {sorted(inputs)}.", f"It takes {sorted(declared)}.")
        for name, kind in declared.items():
            if np.shape(inputs[name]) != kind.shape:
                raise BadInput(
                    f"{self.path}: {name} has shape {list(np.shape(inputs[name]))}.", f"Pass {list(kind.shape)}."
                )


def load(path: Path, limits: Limits = Limits()) -> Package:  # noqa: B008 (frozen)
    """Opens the package at *path* and checks it fully without running it.

    Raises:
        BadInput: there is no folder at *path*.
        CheckFailed: it is damaged, contradicts itself, uses what is not supported, or asks for too much.
    """
    if not path.is_dir():
        raise BadInput(f"There is no package {path}.", "Pass the path of an .mlpackage folder.")
    try:
        return _Folder(path, limits).package()
    except InvalidProgram as error:
        raise CheckFailed(f"{path} cannot be evaluated: {error}.") from error


class _Folder:
    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self.model_folder = path
        self.open_file = functools.cache(self._open_file)
        self.weight_files: list[str] = []

    def package(self) -> Package:
        model = self._model()
        if model.specificationVersion not in SPECIFICATIONS:
            raise InvalidProgram(f"specification version {model.specificationVersion} is not supported")
        if model.WhichOneof("Type") != "mlProgram" or model.mlProgram.version != 1:
            raise InvalidProgram("it is not an ML Program of version 1")
        messages = unique(model.mlProgram.functions, "function")
        functions = {
            name: read_function(name, messages[name], self.open_file, self.limits) for name in sorted(messages)
        }
        ios = SPECIFICATIONS[model.specificationVersion]
        for function in functions.values():
            if function.ios > ios:
                raise InvalidProgram(f"function {function.name!r} needs iOS {function.ios}, but the model states {ios}")
        signatures, default = _signatures(model.description, functions)
        metadata = model.description.metadata
        described = {
            "description": metadata.shortDescription,
            "version": metadata.versionString,
            "author": metadata.author,
            "license": metadata.license,
        }
        return Package(
            self.path,
            ios,
            functions,
            signatures,
            default,
            {name: text for name, text in described.items() if text},
            unique(metadata.userDefined, "metadata"),
            self._build_info(model.mlProgram),
            tuple(self.weight_files),
        )

    def _model(self) -> Any:
        return parse_model(self._read(self._model_path(), self.limits.spec_bytes))

    def _build_info(self, program: Any) -> dict[str, str]:
        attributes = unique(program.attributes, "attribute")
        info = attributes.pop("buildInfo", None)
        if attributes:
            raise InvalidProgram(f"the program has the attribute {min(attributes)!r}, which is not supported")
        if info is None:
            return {}
        constant = read_constant(info, self.open_file)
        if not isinstance(constant.type, DictionaryType):
            raise InvalidProgram("buildInfo is not a dictionary")
        return dict(constant.read())

    def _model_path(self) -> Path:
        try:
            manifest = json.loads(self._read(self.path / "Manifest.json", _MANIFEST_BYTES))
            items, root = manifest["itemInfoEntries"], manifest["rootModelIdentifier"]
            version, relative = manifest["fileFormatVersion"], items[root]["path"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InvalidProgram(f"Manifest.json cannot be read: {error!r}") from error
        if version != "1.0.0" or not isinstance(relative, str):
            raise InvalidProgram(f"Manifest.json is of format {version!r}")
        model = self._inside(self.path / "Data", relative)
        self.model_folder = model.parent
        return model

    def _open_file(self, name: str) -> WeightFile:
        prefix, _, relative = name.partition("/")
        if prefix != "@model_path":
            raise InvalidProgram(f"a weight is in {name!r}, outside the package")
        path = self._inside(self.model_folder, relative)
        self.weight_files.append(path.relative_to(self.path).as_posix())
        return WeightFile(path)

    def _inside(self, folder: Path, relative: str) -> Path:
        """The file *relative* to *folder*; no part of it may lead elsewhere."""
        parts = relative.split("/")
        if not relative or set(parts) & {"", ".", ".."} or "\\" in relative or "\0" in relative:
            raise InvalidProgram(f"{relative!r} is not the path of a file inside")
        path = folder.joinpath(*parts)
        _check_plain(self.path, path)
        return path

    def _read(self, path: Path, largest: int) -> bytes:
        _check_plain(self.path, path)
        try:
            return files.read(path, largest, links=False)
        except Unreadable as error:
            raise InvalidProgram(f"{path.name} cannot be read: {error.reason}") from error


def _check_plain(root: Path, path: Path) -> None:
    """Refuses links on the way from *root* to *path*, and anything but a file at its end."""
    place = root
    for part in path.relative_to(root).parts:
        place = place / part
        try:
            mode = place.lstat().st_mode
        except (OSError, ValueError) as error:
            raise InvalidProgram(f"{path.relative_to(root)} cannot be read: {error}") from error
        if not (stat.S_ISREG(mode) if place == path else stat.S_ISDIR(mode)):
            raise InvalidProgram(f"{place.relative_to(root)} is a link or not a file")


def _signatures(description: Any, functions: dict[str, Function]) -> tuple[dict[str, Signature], str]:
    """What the model says of each function, checked against the program."""
    described = {each.name: each for each in description.functions}
    if len(described) < len(description.functions):
        raise InvalidProgram("a function is described twice")
    default = description.defaultFunctionName or "main"
    if described:
        if description.input or description.output or description.predictedFeatureName:
            raise InvalidProgram("it describes inputs and outputs outside any function")
    else:
        described = {default: description}
    if described.keys() != functions.keys() or default not in functions:
        raise InvalidProgram(f"it describes functions {sorted(described)} but contains {sorted(functions)}")
    try:
        return {name: _signature(described[name], functions[name]) for name in functions}, default
    except InvalidProgram as error:
        raise InvalidProgram(f"the description: {error}") from error


def _signature(description: Any, function: Function) -> Signature:
    inputs = tuple(_feature(each, function.inputs.get(each.name)) for each in description.input)
    outputs = tuple(_feature(each, function.outputs.get(each.name)) for each in description.output)
    for what, features, names in (("inputs", inputs, function.inputs), ("outputs", outputs, function.outputs)):
        if sorted(each.name for each in features) != sorted(names):
            shown = [each.name for each in features]
            raise InvalidProgram(f"{what} {shown} are described, function {function.name!r} has {list(names)}")
    signature = Signature(inputs, outputs, description.predictedFeatureName, description.predictedProbabilitiesName)
    kinds = {each.name: each.kind for each in outputs}
    for name, kind in ((signature.predicted_label, "string"), (signature.predicted_probabilities, "dictionary")):
        if name and kinds.get(name) != kind:
            raise InvalidProgram(f"{name!r} is the predicted feature, but not a {kind}")
    return signature


def _feature(message: Any, actual: Any) -> Feature:
    """A described input or output, as *actual*, the type in the program, agrees."""
    kind = message.type.WhichOneof("Type")
    text = {"name": message.name, "description": message.shortDescription}
    if kind == "multiArrayType":
        array = message.type.multiArrayType
        dtype = ARRAY_DTYPES.get(array.dataType, f"data type {array.dataType}")
        found = Feature(kind="tensor", dtype=dtype, shape=tuple(array.shape), **text)
        agrees = actual == TensorType(dtype, found.shape)
    elif kind == "imageType":
        image = message.type.imageType
        color, channels = COLOR_SPACES.get(image.colorSpace, (f"color space {image.colorSpace}", 0))
        shape = (1, channels, int(image.height), int(image.width))
        dtype = actual.dtype if isinstance(actual, TensorType) else ""
        found = Feature(kind="image", dtype=dtype, shape=shape, color=color, **text)
        agrees = actual in (TensorType("fp32", shape), TensorType("fp16", shape))
    elif kind == "stringType":
        found = Feature(kind="string", dtype="string", shape=(), **text)
        agrees = actual == TensorType("string", ())
    elif kind == "dictionaryType" and message.type.dictionaryType.WhichOneof("KeyType") == "stringKeyType":
        found = Feature(kind="dictionary", dtype="fp64", shape=(), **text)
        agrees = actual == DictionaryType("fp64")
    else:
        raise InvalidProgram(f"{message.name!r} is of a kind that is not supported")
    if not agrees:
        raise InvalidProgram(f"{message.name!r} is a {found.dtype}{list(found.shape)}, but in the program {actual}")
    return found
