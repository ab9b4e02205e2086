"""How much a protobuf message says, counted on its bytes before protobuf makes objects of it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2  # type: ignore[import-untyped]

MOST_BYTES = 2**31 - 1  # of protobuf
# Two bytes are an empty message, of which protobuf and the checker make up to 400. A ViT of 12 blocks has 5,600 fields.
FEW_FIELDS = 150_000
_BYTES_PER_FIELD = 64  # of larger files
_DEEPEST = 16  # messages in messages: of a branch in ours, eight
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # how a field is encoded
_OF = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    **dict.fromkeys((_OF.TYPE_STRING, _OF.TYPE_BYTES, _OF.TYPE_MESSAGE), _LENGTH),
    **dict.fromkeys((_OF.TYPE_DOUBLE, _OF.TYPE_FIXED64, _OF.TYPE_SFIXED64), _FIXED64),
    **dict.fromkeys((_OF.TYPE_FLOAT, _OF.TYPE_FIXED32, _OF.TYPE_SFIXED32), _FIXED32),
}
_TOO_MUCH = "it contains more fields than its size allows"


class _Field(NamedTuple):
    """What the counter has to know of a field.

    Attributes:
        kind: how a single value of it is encoded.
        packed: several of its values may stand side by side.
        message: the descriptor of what it holds, if that is a message.
    """

    kind: int
    packed: bool
    text: bool
    message: Any


def check_size(content: bytes, descriptor: Any, few_fields: int = FEW_FIELDS, known_only: bool = False) -> None:
    """Raises ValueError where *content* is no such message, says more than its size allows, or has text not in UTF-8.

    Of such text protobuf makes bytes in some messages, where every other check expects a str. With *known_only* it also
    raises where a field is none of the message's, which protobuf would pass over.
    """
    counter = _Counter(content, few_fields, known_only)
    try:
        counter.count(descriptor, 0, len(content), 0)
    except IndexError:
        raise ValueError("it ends within a number") from None


class _Counter:
    def __init__(self, content: bytes, few_fields: int, known_only: bool) -> None:
        self._content, self._known_only = content, known_only
        self._left = few_fields + len(content) // _BYTES_PER_FIELD

    def count(self, descriptor: Any, at: int, end: int, depth: int) -> None:
        """Spends what the message between *at* and *end* has, and what is in it."""
        if depth > _DEEPEST:
            raise ValueError(f"it nests messages more than {_DEEPEST} deep")
        content, fields = self._content, _fields(descriptor)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(_TOO_MUCH)
            key = content[at]
            if key < 128:  # most numbers have one byte
                at += 1
            else:
                key, at = self._varint(at)
            kind, field = key & 7, fields.get(key >> 3)
            if self._known_only and (
                field is None or kind not in (field.kind, _LENGTH if field.packed else field.kind)
            ):
                raise ValueError(f"it uses field {key >> 3} of {descriptor.name}, which is not supported")
            if kind == _LENGTH:
                length = content[at]
                if length < 128:
                    at += 1
                else:
                    length, at = self._varint(at)
                if length > end - at:
                    raise ValueError("a field extends beyond its message")
                if field is None:
                    pass
                elif field.message is not None:
                    self.count(field.message, at, at + length, depth + 1)
                elif field.text:
                    self._check_text(at, length)
                elif field.kind != _LENGTH:  # numbers side by side: of one byte here, of eight in memory
                    self._left -= length // 8
                at += length
            elif kind == _VARINT:
                _, at = self._varint(at)
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            else:
                raise ValueError(f"a field is of the unknown kind {kind}")
        if at > end:
            raise ValueError("a field extends beyond its message")
        if self._left < 0:
            raise ValueError(_TOO_MUCH)

    def _check_text(self, at: int, length: int) -> None:
        text = self._content[at : at + length]
        try:
            text.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{text[:80]!r} is not UTF-8") from None

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while shift < 70:
            byte = self._content[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value, at
        raise ValueError("a number has more than 10 bytes")


@functools.cache
def _fields(descriptor: Any) -> dict[int, _Field]:
    """Those of a message, by their numbers."""
    return {
        field.number: _Field(
            kind=(kind := _KINDS.get(field.type, _VARINT)),
            packed=kind != _LENGTH and field.is_repeated,
            text=field.type == field.TYPE_STRING,
            message=field.message_type,
        )
        for field in descriptor.fields
    }
