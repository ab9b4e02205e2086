"""What files, folders and modules in memory hold, before anybody asks what it means."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from hydra_export import documents, files
from hydra_export.errors import BadCheckpoint
from hydra_export.importing import tensors

DESCRIPTION = "hydra_export"  # the key of our own description in the metadata of a .safetensors file
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # as the Hub calls them; with .index.json, in several shards
CONFIGS = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True, kw_only=True)
class Source:
    """What lies at a place, before anybody asks what it means.

    Attributes:
        name: of the file or folder, the Hub's or timm's.
        content: a state dict, or what a pickle holds one in.
        num_bytes: of the files.
        description: ours, as JSON; empty where the checkpoint is not in our format.
        config, preprocessor: what ``config.json`` and ``preprocessor_config.json`` beside the weights say.
        module: timm's own model, where it is one.
        sha256: of the file; of several, of their SHA256SUMS; of timm's, of all tensors.
    """

    name: str
    path: Path
    content: Any
    num_bytes: int
    sha256: str
    description: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None


def of_file(path: Path) -> Source:
    """A file of weights, alone."""
    content, metadata = tensors.read(path)
    return Source(
        name=path.name,
        path=path,
        content=content,
        num_bytes=path.stat().st_size,
        sha256=files.sha256(path),
        description=metadata.get(DESCRIPTION, ""),
    )


def of_module(module: nn.Module) -> Source:
    """A torch module in memory, which stays as it is: the state dict shares its tensors."""
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    config: Any = getattr(module, "config", None)  # of transformers
    timm_config = getattr(module, "pretrained_cfg", None)  # of timm
    named = (timm_config or {}).get("architecture") or getattr(config, "model_type", None)
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    return Source(
        name=named or type(module).__name__,
        path=Path(type(module).__name__),
        content=state,
        num_bytes=sum(tensor.nbytes for tensor in state.values()),
        sha256=digest(state),
        config=config.to_dict() if hasattr(config, "to_dict") else {},
        module=copy.deepcopy(module).eval() if isinstance(module, (VisionTransformer, Eva)) else None,
    )


def of_folder(folder: Path, weights: str = "") -> Source:
    """A folder as the Hub has it: *weights* or the first of the known names, in one file or in shards, and configs."""
    names = (weights,) if weights else WEIGHTS
    found = [folder / each for each in names if (folder / each).exists()]
    indexes = [path for each in names if (path := folder / f"{each}.index.json").exists()]
    if not found and indexes:
        content, metadata, read = _shards(indexes[0])
    else:
        path = found[0] if found else folder / names[0]
        (content, metadata), read = tensors.read(path), [path]
    configs = {each: _json(folder / each) if (folder / each).exists() else {} for each in CONFIGS}
    digests = [(path, files.sha256(path)) for path in read]
    sums = "".join(f"{digest}  {path.name}\n" for path, digest in digests).encode()
    return Source(
        name=_folder_name(folder),
        path=found[0] if found else read[0] if len(read) == 1 else indexes[0],
        content=content,
        num_bytes=sum(path.stat().st_size for path in read),
        sha256=digests[0][1] if len(read) == 1 else hashlib.sha256(sums).hexdigest(),
        description=metadata.get(DESCRIPTION, ""),
        config=configs["config.json"],
        preprocessor=configs["preprocessor_config.json"],
    )


def _folder_name(folder: Path) -> str:
    """In the Hub's cache a folder is called by its commit, and what is above it by the model."""
    name = folder.resolve().name
    repo = folder.resolve().parent.parent.name
    return repo.split("--")[-1] if folder.resolve().parent.name == "snapshots" and repo.startswith("models--") else name


def _shards(index: Path) -> tuple[dict[str, Tensor], Mapping[str, str], list[Path]]:
    content: dict[str, Tensor] = {}
    read = [index.parent / name for name in shard_names(index)]
    for path in read:
        shard, _ = tensors.read(path)
        if not isinstance(shard, Mapping):
            raise BadCheckpoint(f"Checkpoint {path} does not contain a state dict.", "Download it again.")
        content |= shard
    return content, {}, read


def shard_names(index: Path) -> list[str]:
    """The files that *index* says the weights lie in."""
    weight_map = _json(index).get("weight_map")
    shard_names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not shard_names or not all(isinstance(name, str) and Path(name).name == name for name in shard_names):
        raise BadCheckpoint(f"{index} lists no shards in its folder.", "Download it again.")
    return sorted(set(shard_names))


def _json(path: Path) -> dict[str, Any]:
    with tensors.opened(path, documents.JSON_BYTES) as file:
        content = file.read()
    try:
        return documents.decode_json(content, dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadCheckpoint(f"{path} is not valid: {error}.", "Download it again, or remove it.") from error


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of all tensors, their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
