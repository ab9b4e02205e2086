"""How much a protobuf message says, counted on its bytes before protobuf makes objects of it."""

from __future__ import annotations

from typing import Any

MOST_BYTES = 2**31 - 1  # of protobuf
# Two bytes are an empty message, of which protobuf and the checker make up to 400. A ViT of 12 blocks has 5,600 fields.
FEW_FIELDS = 150_000
_BYTES_PER_FIELD = 64  # of larger files
_DEEPEST = 16  # messages in messages: of a branch in ours, eight
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # how a field is encoded


def check_size(content: bytes, descriptor: Any, few_fields: int = FEW_FIELDS) -> None:
    """Raises ValueError where *content* is no such message, says more than its size allows, or has text not in UTF-8.

    Of such text protobuf makes bytes in some messages, where every other check expects a str.
    """
    _Counter(content, few_fields).count(descriptor, 0, len(content), 0)


class _Counter:
    def __init__(self, content: bytes, few_fields: int) -> None:
        self._content = content
        self._left = few_fields + len(content) // _BYTES_PER_FIELD

    def count(self, descriptor: Any, at: int, end: int, depth: int) -> None:
        """Spends what the message between *at* and *end* has, and what is in it."""
        if depth > _DEEPEST:
            raise ValueError(f"it nests messages more than {_DEEPEST} deep")
        known = descriptor.fields_by_number
        while at < end:
            self._spend(1)
            key, at = self._varint(at)
            kind, field = key & 7, known.get(key >> 3)
            if kind == _VARINT:
                _, at = self._varint(at)
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            elif kind == _LENGTH:
                length, at = self._varint(at)
                if length > end - at:
                    raise ValueError("a field goes beyond its message")
                if field is None or field.type == field.TYPE_BYTES:
                    pass
                elif field.type == field.TYPE_MESSAGE:
                    self.count(field.message_type, at, at + length, depth + 1)
                elif field.type == field.TYPE_STRING:
                    self._check_text(at, length)
                else:  # numbers side by side: of one byte here, of eight in memory
                    self._spend(length // 8)
                at += length
            else:
                raise ValueError(f"a field is of the unknown kind {kind}")
        if at > end:
            raise ValueError("a field goes beyond its message")

    def _check_text(self, at: int, length: int) -> None:
        text = self._content[at : at + length]
        try:
            text.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{text[:80]!r} is not UTF-8") from None

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ValueError("it says more than a file of its size may")

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while shift < 70:
            if at >= len(self._content):
                raise ValueError("it ends within a number")
            byte = self._content[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value, at
        raise ValueError("a number has more than 10 bytes")
