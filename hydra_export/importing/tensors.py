"""What .safetensors and pickle files hold, read for no more memory than they are worth."""

from __future__ import annotations

import argparse
import mmap
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from torch import Tensor

from hydra_export import files, zips
from hydra_export.errors import BadCheckpoint, BadInput, Unreadable

LARGEST_BYTES = 16 * 2**30
_LARGEST_HEADER_BYTES = 32 * 2**20
_MOST_TENSORS = 50_000
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_BYTEARRAY = re.compile(rb"c(__builtin__|builtins)\nbytearray\n")
_PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@contextmanager
def opened(path: Path, limit_bytes: int = LARGEST_BYTES) -> Iterator[BinaryIO]:
    """A regular file of at most *limit_bytes*, or BadCheckpoint."""
    try:
        with files.opened(path, limit_bytes) as file:
            yield file
    except Unreadable as error:
        if error.missing:
            raise BadCheckpoint(
                f"There is no checkpoint at {path}.", "Pass the path of a .safetensors or .pth file."
            ) from error
        raise BadCheckpoint(f"Checkpoint {error.message}", error.remedy) from error


def read(path: Path) -> tuple[Any, Mapping[str, str]]:
    """What a file holds, a state dict or more, and the metadata that it has if it is a .safetensors file.

    Nothing of a tensor is read yet: it is mapped from the file.

    Raises:
        BadCheckpoint: missing, damaged, unsafe, or it claims more than it is.
    """
    with opened(path) as file:
        start = file.read(2)
        if not start:
            raise BadCheckpoint(f"Checkpoint {path} is empty.", "Copy or train it again.")
        if start not in _PICKLES:
            return _safetensors(path, file)
        try:
            _check_pickle(file, zipped=start == b"PK")
        except BadInput as error:
            raise BadCheckpoint(f"Checkpoint {path} cannot be read: {error.message}", error.remedy) from error
    return _unpickle(path, zipped=start == b"PK"), {}


def as_float32(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """*state* in float32: the same tensors where they are that already.

    Raises:
        BadInput: one of them is no array of finite floats.
    """
    float_state = {}
    for name, tensor in state.items():
        float_state[name] = tensor.float()
        if not float_state[name].isfinite().all():
            raise BadInput(f"tensor {name} has NaN or infinite values.", "Use an earlier checkpoint of that training.")
    return float_state


def check_plain(state: Mapping[str, Tensor], num_bytes: int) -> None:
    """Refuses tensors that are no plain floats, and those that would become more than a file of *num_bytes* is worth.

    A tensor may claim any shape over few bytes, as views with a stride of zero do: what is tied is stored once, so
    that a file of float16 tensors, some of them tied, becomes less than four times as large in float32.
    """
    total = 0
    for name, tensor in state.items():
        if tensor.dtype not in _FLOATS or tensor.layout != torch.strided or tensor.device.type != "cpu":
            kind = f"type {tensor.dtype}, {tensor.layout} on {tensor.device.type}"
            raise BadInput(f"tensor {name} has {kind}.", "Pass plain tensors of float16, bfloat16, float32 or float64.")
        total += 4 * tensor.numel()
        if tensor.nbytes > tensor.untyped_storage().nbytes() or total > 4 * num_bytes:
            raise BadInput(
                f"tensor {name} of shape {list(tensor.shape)} has more numbers than the file contains.",
                "Save it again, with tensors that are contiguous.",
            )


def _safetensors(path: Path, file: BinaryIO) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    file.seek(0)
    length = file.read(8)
    problem = f"Checkpoint {path} is not a readable safetensors file"
    if len(length) == 8 and struct.unpack("<Q", length)[0] > _LARGEST_HEADER_BYTES:
        raise BadCheckpoint(f"{problem}: its header is too long.", "Copy or download it again.")
    try:
        with safetensors.safe_open(path, framework="pt") as content:
            names = content.keys()
            if len(names) > _MOST_TENSORS:
                raise BadCheckpoint(
                    f"{problem}: it has {len(names)} tensors.", f"At most {_MOST_TENSORS} tensors are read."
                )
            return {name: content.get_tensor(name) for name in names}, content.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise BadCheckpoint(f"{problem}: {error}.", "Copy or download it again.") from error


def _check_pickle(file: BinaryIO, zipped: bool) -> None:
    """Refuses what torch would allocate without need: entries that unpack to more, and a bytearray of any length."""
    if zipped:
        try:
            with zips.opened(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise BadInput("its archive is compressed.", "Save it again with torch.save.")
                programs = [name for name in archive.namelist() if name.endswith("data.pkl")]
                has_bytearray = any(_BYTEARRAY.search(archive.read(name)) for name in programs)
        except (*zips.DAMAGED, OSError) as error:
            raise BadInput(f"its archive is damaged: {error}.", "Copy or download it again.") from error
    else:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            has_bytearray = bool(_BYTEARRAY.search(content))
    if has_bytearray:
        raise BadInput("it contains builtins.bytearray, not only tensors.", "Save only its state dict.")


def _unpickle(path: Path, zipped: bool) -> Any:
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # about pickle protocols: no concern of the user's
            torch.serialization.safe_globals([argparse.Namespace]),  # timm's trainer stores its arguments so
        ):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        what = f"contains {match[1]}, not only tensors" if match else "contains more than tensors, or is damaged"
        raise BadCheckpoint(
            f"Checkpoint {path} {what}; it was not read, because that could run its code.",
            "Save only its state dict, best as safetensors.",
        ) from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadCheckpoint(f"Checkpoint {path} cannot be read: {reason}.", "Copy or download it again.") from error


def check_shapes(wanted: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> None:
    for name, shape in wanted.items():
        if name not in state:
            raise BadInput(
                f"tensor {name} is missing; the configuration requires it.", "Use the matching configuration."
            )
        if tuple(state[name].shape) != shape:
            raise BadInput(
                f"tensor {name} has shape {list(state[name].shape)}, the configuration requires {list(shape)}.",
                "Use the matching configuration.",
            )
    if unknown := sorted(state.keys() - wanted.keys()):
        raise BadInput(f"tensor {unknown[0]} is not part of any supported ViT.", "Export the plain ViT without it.")
