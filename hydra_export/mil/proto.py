"""Core ML's messages, as far as they are understood here: what is not in the table is refused.

The descriptors are built at run time in a pool of their own, so that neither protoc nor coremltools is needed, and
nothing collides where coremltools has registered its own.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from hydra_export import protobuf
from hydra_export.mil.types import InvalidProgram

# One message a line: "number name type", "*" repeated, "?" one of several. Field numbers are those of Apple's public
# Model.proto, FeatureTypes.proto and MIL.proto. Enums are read as numbers, maps as lists of entries, which is the same
# on the wire and lets a key that comes twice be seen. Left out on purpose, and so refused: everything that makes
# shapes flexible, inputs optional, models updatable or stateful, and blocks inside operations.
_TABLE = """
Model: 1 specificationVersion int32, 2 description ModelDescription, 502 mlProgram Program?
ModelDescription: 1 input FeatureDescription*, 10 output FeatureDescription*, 11 predictedFeatureName string,
  12 predictedProbabilitiesName string, 20 functions FunctionDescription*, 21 defaultFunctionName string,
  100 metadata Metadata
FunctionDescription: 1 name string, 2 input FeatureDescription*, 3 output FeatureDescription*,
  4 predictedFeatureName string, 5 predictedProbabilitiesName string
FeatureDescription: 1 name string, 2 shortDescription string, 3 type FeatureType
FeatureType: 3 stringType Nothing?, 4 imageType ImageFeatureType?, 5 multiArrayType ArrayFeatureType?,
  6 dictionaryType DictionaryFeatureType?
ImageFeatureType: 1 width int64, 2 height int64, 3 colorSpace int32
ArrayFeatureType: 1 shape int64*, 2 dataType int32
DictionaryFeatureType: 2 stringKeyType Nothing?
Nothing:
Metadata: 1 shortDescription string, 2 versionString string, 3 author string, 4 license string,
  100 userDefined StringEntry*
StringEntry: 1 key string, 2 value string
Program: 1 version int64, 2 functions FunctionEntry*, 3 docString string, 4 attributes ValueEntry*
FunctionEntry: 1 key string, 2 value Function
ValueEntry: 1 key string, 2 value Value
Function: 1 inputs NamedValueType*, 2 opset string, 3 block_specializations BlockEntry*
BlockEntry: 1 key string, 2 value Block
Block: 2 outputs string*, 3 operations Operation*
Operation: 1 type string, 2 inputs ArgumentEntry*, 3 outputs NamedValueType*, 5 attributes ValueEntry*
ArgumentEntry: 1 key string, 2 value Argument
Argument: 1 arguments Binding*
Binding: 1 name string?, 2 value Value?
NamedValueType: 1 name string, 2 type ValueType
ValueType: 1 tensorType TensorType?, 2 listType ListType?, 4 dictionaryType DictionaryType?
TensorType: 1 dataType int32, 2 rank int64, 3 dimensions Dimension*
ListType: 1 type ValueType, 2 length Dimension
DictionaryType: 1 keyType ValueType, 2 valueType ValueType
Dimension: 1 constant ConstantDimension?
ConstantDimension: 1 size uint64
Value: 1 docString string, 2 type ValueType, 3 immediateValue ImmediateValue?, 5 blobFileValue BlobFileValue?
ImmediateValue: 1 tensor TensorValue?, 3 list ListValue?, 4 dictionary DictionaryValue?
BlobFileValue: 1 fileName string, 2 offset uint64
TensorValue: 1 floats Floats?, 2 ints Ints?, 3 bools Bools?, 4 strings Strings?, 7 bytes Bytes?
Floats: 1 values float*
Ints: 1 values int32*
Bools: 1 values bool*
Strings: 1 values string*
Bytes: 1 values bytes
ListValue: 1 values Value*
DictionaryValue: 1 values ValuePair*
ValuePair: 1 key Value, 2 value Value
"""
_PACKAGE = "hydra_export.mil"
FEW_FIELDS = 1_200_000  # 24 blocks at 16 head counts, a function each; protobuf makes 60 bytes of an empty message


def parse_model(content: bytes) -> Any:
    """The Model message in *content*.

    Raises:
        InvalidProgram: it is none, or holds a field that is not understood here.
    """
    message = model_class()()
    try:
        protobuf.check_size(content, message.DESCRIPTOR, FEW_FIELDS, known_only=True)
        message.ParseFromString(content)
    except (ValueError, DecodeError, RecursionError) as error:
        raise InvalidProgram(f"it is not a Core ML model: {error}") from error
    return message


def model_class() -> Any:
    """The class of Model messages."""
    return message_class("Model")


@functools.cache
def message_class(name: str) -> Any:
    """The class of the messages that the table calls *name*."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@functools.cache
def _pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="hydra_export/mil.proto", package=_PACKAGE, syntax="proto3")
    for line in _TABLE.strip().replace("\n  ", " ").split("\n"):
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for field in filter(None, (text.strip() for text in fields.split(","))):
            _add_field(message, *field.split())
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_field(message: Any, number: str, name: str, kind: str) -> None:
    proto = descriptor_pb2.FieldDescriptorProto
    field = message.field.add(name=name, number=int(number))
    field.label = proto.LABEL_REPEATED if kind.endswith("*") else proto.LABEL_OPTIONAL
    if kind.endswith("?"):
        if not message.oneof_decl:
            # The name that WhichOneof takes; as in Apple's files.
            message.oneof_decl.add(name=_ONEOF_NAMES[message.name])
        field.oneof_index = 0
    kind = kind.rstrip("*?")
    if kind[0].isupper():
        field.type, field.type_name = proto.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = getattr(proto, f"TYPE_{kind.upper()}")


_ONEOF_NAMES = {
    "Model": "Type",
    "FeatureType": "Type",
    "DictionaryFeatureType": "KeyType",
    "Binding": "binding",
    "ValueType": "type",
    "Dimension": "dimension",
    "Value": "value",
    "ImmediateValue": "value",
    "TensorValue": "value",
}
