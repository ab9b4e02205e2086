"""Changes protobuf messages field by field, whatever they describe."""

from __future__ import annotations

from typing import Any

from tests.fuzz.reader import Random

NUMBERS = [0, 1, -1, 2, 3, 4, 7, 10, 11, 21, 23, 31, 64, 127, 128, 255, 2**15, 2**16, 2**31 - 1, -(2**31), 2**31, 2**32]
NUMBERS += [2**40, 2**53, 2**62, 2**63 - 1, -(2**63), 2**63, 2**64 - 1]
TEXTS = ["", "x", "main", "const", "add", "reshape", "matmul", "linear", "CoreML5", "CoreML8", "@model_path/../x", "\0"]
TEXTS += ["é" * 300, "If", "Loop", "Expand", "Constant", "MatMul", "../x", "/x", "a" * 5000, "\u202e", "\n"]
_MOST_LISTED = 50  # of the messages of a list


def mutate(random: Random, message: Any) -> None:
    """Changes one field, or a few, of *message* or of what is in it."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        _change(random, message)


def _messages(message: Any) -> list[Any]:
    """*message* and all within it, but the elements of long lists."""
    found, index = [message], 0
    while index < len(found):
        for descriptor, value in found[index].ListFields():
            if descriptor.type == descriptor.TYPE_MESSAGE:
                found += list(value)[:_MOST_LISTED] if hasattr(value, "add") else [value]
        index += 1
    return found


def _change(random: Random, root: Any) -> None:
    every = _messages(root)
    message = random.choice(every)
    descriptor = random.choice(list(message.DESCRIPTOR.fields) or [None])
    if descriptor is None:
        return
    value = getattr(message, descriptor.name)
    if descriptor.is_repeated:
        _change_list(random, value, descriptor, every)
    elif descriptor.type == descriptor.TYPE_MESSAGE:
        like = [each for each in every if each.DESCRIPTOR is descriptor.message_type]
        choice = random.random()
        if choice < 0.2 or not like:
            message.ClearField(descriptor.name)
        elif choice < 0.3:
            value.SetInParent()
        else:
            copy = type(value)()
            copy.CopyFrom(random.choice(like))
            value.CopyFrom(copy)
    else:
        setattr(message, descriptor.name, _scalar(random, descriptor, every, value))


def _change_list(random: Random, values: Any, descriptor: Any, every: list[Any]) -> None:
    choice = random.random()
    is_message = descriptor.type == descriptor.TYPE_MESSAGE
    if len(values) and choice < 0.25:
        del values[random.randrange(len(values))]
    elif len(values) > 1 and choice < 0.5:
        one, other = random.sample(range(len(values)), 2)
        if is_message:
            first, second = type(values[0])(), type(values[0])()
            first.CopyFrom(values[one])
            second.CopyFrom(values[other])
            values[one].CopyFrom(second)
            values[other].CopyFrom(first)
        else:
            values[one], values[other] = values[other], values[one]
    elif is_message:
        like = [each for each in every if each.DESCRIPTOR is descriptor.message_type]
        added = values.add()
        if like and choice < 0.9:
            copy = type(added)()
            copy.CopyFrom(random.choice(like))
            added.CopyFrom(copy)
    elif len(values) and choice < 0.9:
        at = random.randrange(len(values))
        values[at] = _scalar(random, descriptor, every, values[at])
    else:
        values.append(_scalar(random, descriptor, every, None))


def _scalar(random: Random, descriptor: Any, every: list[Any], old: Any) -> Any:
    """A value for a field: one near the old one, one at a boundary, or one that stands elsewhere."""
    if descriptor.type == descriptor.TYPE_STRING:
        texts = [value for each in every for kind, value in each.ListFields() if kind.type == kind.TYPE_STRING]
        return random.choice([text for text in texts if isinstance(text, str)] + TEXTS)
    if descriptor.type == descriptor.TYPE_BYTES:
        content = bytearray(old or b"")
        if content and random.random() < 0.5:
            content[random.randrange(len(content))] = random.randrange(256)
        else:
            content = bytearray(random.randbytes(random.choice([0, 1, 2, len(content), len(content) + 1, 100])))
        return bytes(content)
    if descriptor.type == descriptor.TYPE_BOOL:
        return not old
    if descriptor.type == descriptor.TYPE_ENUM:
        return random.choice([value.number for value in descriptor.enum_type.values])
    if descriptor.type in (descriptor.TYPE_FLOAT, descriptor.TYPE_DOUBLE):
        return random.choice([0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan")])
    low, high = {
        descriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
        descriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
        descriptor.TYPE_UINT64: (0, 2**64 - 1),
    }[descriptor.type]
    fitting = [number for number in NUMBERS if low <= number <= high]
    near = (old or 0) + random.choice([-64, -1, 1, 64])
    return random.choice([near if low <= near <= high else low, random.choice(fitting)])
