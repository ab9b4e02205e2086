"""Changes pickles opcode by opcode.

Source of the opcodes: Python's pickletools.
"""

from __future__ import annotations

import pickletools
import struct

from tests.fuzz import trees
from tests.fuzz.reader import Random

_GLOBALS = ["os system", "builtins eval", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"]
_GLOBALS += [
    "torch FloatStorage",
    "torch ByteStorage",
    "torch DoubleStorage",
    "torch BFloat16Storage",
    "torch.nn Module",
]
_GLOBALS += [
    "collections OrderedDict",
    "argparse Namespace",
    "torch._utils _rebuild_sparse_tensor",
    "torch Size",
    "x y",
]
_GLOBALS += [
    "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._utils _rebuild_qtensor",
    "torch float32",
    "torch device",
]
_OPCODES = [
    b"0",
    b"1",
    b"2",
    b"(",
    b")",
    b"]",
    b"}",
    b"t",
    b"R",
    b"Q",
    b"b",
    b"s",
    b"u",
    b"a",
    b"e",
    b"N",
    b"\x88",
    b"\x85",
    b"\x86",
]
_INTEGERS = ("int4", "uint1", "uint2", "long1", "decimalnl_short")
_TEXTS = ("unicodestring4", "string1")


def mutate(random: Random, content: bytes) -> bytes:
    """A pickle with other numbers, texts, classes or opcodes; what follows its end stays."""
    steps = [(opcode, argument, at or 0) for opcode, argument, at in pickletools.genops(content)]
    ends = [*(at for _opcode, _argument, at in steps[1:]), steps[-1][2] + 1]
    pieces = [content[at:end] for (_opcode, _argument, at), end in zip(steps, ends, strict=True)]
    rest = content[ends[-1] :]
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(1, len(pieces) - 1)  # between PROTO and STOP
        argument = steps[at][0].arg
        kind = argument.name if argument else ""
        choice = random.random()
        if choice < 0.75 and (kind in _INTEGERS or kind in _TEXTS or kind == "stringnl_noescape_pair"):
            pieces[at] = _other(random, kind, steps[at][1])
        elif choice < 0.85:
            pieces[at] = b""
        elif choice < 0.9:
            pieces[at] += pieces[at] * random.choice((1, 1, 50, 2000))
        elif choice < 0.95:
            pieces[at] = random.choice(pieces[1:-1])
        else:
            pieces[at] += random.choice(_OPCODES) * random.choice((1, 1, 1, 3000))
    return b"".join(pieces) + rest


def _other(random: Random, kind: str, old: object) -> bytes:
    if kind in _INTEGERS:
        near = int(old) if isinstance(old, int) else 0
        number = random.choice([near + 1, near - 1, -near, near * 2, *trees.NUMBERS, 10**9])
        if -(2**31) <= number < 2**31:
            return b"J" + struct.pack("<i", number)
        encoded = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(encoded)]) + encoded
    if kind in _TEXTS:
        text = str(old)
        new = random.choice([text + "x", text[1:], "cuda", "meta", "cpu", "module." + text, *trees.TEXTS]).encode(
            "utf-8", "replace"
        )
        return b"X" + struct.pack("<I", len(new)) + new
    return b"c" + random.choice(_GLOBALS).replace(" ", "\n").encode() + b"\n"


def check(content: bytes) -> None:
    """Raises where *content* does not begin with a pickle."""
    for _ in pickletools.genops(content):
        pass
