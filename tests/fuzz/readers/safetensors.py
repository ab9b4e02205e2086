"""Checkpoints in safetensors: ours, which describe themselves, and plain state dicts."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from hydra_export import checkpoint
from tests.fuzz import checkpoints, trees
from tests.fuzz.reader import Random, Reader

_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_MOST_BYTES = 2**20  # of a mutant
_DESCRIPTION = "hydra_export"


def _seeds() -> list[bytes]:
    ours = checkpoints.checkpoint().read_bytes()
    return [ours, safetensors.torch.save(safetensors.torch.load(ours)), safetensors.torch.save(checkpoints.plain())]


def _mutate(random: Random, content: bytes) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    choice, said = random.random(), header.get("__metadata__", {}).get(_DESCRIPTION)
    if choice < 0.45 and said:
        tree = trees.mutate(random, json.loads(said))
        header["__metadata__"][_DESCRIPTION] = trees.to_json(random, tree).decode("utf-8", "replace")
    elif choice < 0.9:
        data = _tensors(random, header, data)
    else:
        header = trees.mutate(random, header)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    length = len(text) if random.random() < 0.98 else random.choice(trees.NUMBERS) % 2**64
    return trees.bruise(random, struct.pack("<Q", length) + text + data, 0.03)


def _tensors(random: Random, header: dict[str, Any], data: bytes) -> bytes:
    """Changes tensors of *header* in name, type or shape, and lays out data that fits them."""
    tensors = {name: {**each, "from": each["data_offsets"]} for name, each in header.items() if name != "__metadata__"}
    for _ in range(random.choice((1, 1, 2, 4))):
        name, choice = random.choice(list(tensors)), random.random()
        if choice < 0.35:
            shape = list(tensors[name]["shape"]) or [1]
            shape[random.randrange(len(shape))] = random.choice([0, 1, 2, 3, 4, 8, 16, 64, 1000])
            tensors[name]["shape"] = random.choice([shape, shape, shape, [*shape, 1], shape[1:], shape[::-1]])
        elif choice < 0.5:
            tensors[name]["dtype"] = random.choice(list(_WIDTHS))
        elif choice < 0.75:
            new = random.choice(
                [f"module.{name}", f"model.{name}", name.replace("0", "7"), random.choice(list(tensors)), *trees.TEXTS]
            )
            tensors[new] = dict(tensors[name])
            if random.random() < 0.6 and new != name:
                del tensors[name]
        elif len(tensors) > 1:
            del tensors[name]
    laid = bytearray()
    for each in tensors.values():
        start, end = each.pop("from")
        size = min(_WIDTHS.get(each["dtype"], 4) * math.prod(each["shape"]), _MOST_BYTES)
        each["data_offsets"] = [len(laid), len(laid) + size]
        laid += (data[start:end] * (size // max(end - start, 1) + 1))[:size].ljust(size, b"\0")
    for name in [name for name in header if name != "__metadata__"]:
        del header[name]
    header.update(tensors)
    return bytes(laid)


def _read(path: Path) -> None:
    checkpoint.load(path, head_dim=4)


READER = Reader(_seeds, _mutate, safetensors.deserialize, _read, ".safetensors")
