"""Reads checkpoints and their metadata from a file, a folder, the Hub or timm."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import timm
import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from timm.models import is_model_in_modules
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from hydra_export import documents, files
from hydra_export.errors import BadCheckpoint
from hydra_export.importing import tensors

TIMM = "timm:"
DESCRIPTION = "hydra_export"  # the key of our own description in the metadata of a .safetensors file
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # as the Hub calls them; with .index.json, in several shards
_CONFIGS = ("config.json", "preprocessor_config.json")
_FILE = re.compile(r"\.(pth|tar|safetensors|pt|bin|ckpt)$")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


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


def read(place: Path | str | nn.Module) -> Source:
    """What lies at a path, under a Hub id (``org/name``) where there is no such path, in timm (``timm:NAME``), or here.

    Raises:
        BadCheckpoint: nothing does, or it cannot be read.
    """
    if isinstance(place, nn.Module):
        return of_module(place)
    text = str(place)
    if text.startswith(TIMM):
        return _of_timm(text.removeprefix(TIMM))
    path = Path(place)
    try:
        if path.is_dir():
            return of_folder(path)
        if not path.exists() and _HUB_ID.fullmatch(text) and not _FILE.search(text):
            return _of_hub(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadCheckpoint(f"Checkpoint {path} cannot be read: {reason}.", "Give another path.") from error
    if path.name in _WEIGHTS:
        return of_folder(path.parent, path.name)
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
        module=copy.deepcopy(module).eval() if isinstance(module, VisionTransformer) else None,
    )


def of_folder(folder: Path, weights: str = "") -> Source:
    """A folder as the Hub has it: *weights* or the first of the known names, in one file or in shards, and configs."""
    names = (weights,) if weights else _WEIGHTS
    found = [folder / each for each in names if (folder / each).exists()]
    indexes = [path for each in names if (path := folder / f"{each}.index.json").exists()]
    if not found and indexes:
        content, metadata, read = _shards(indexes[0])
    else:
        path = found[0] if found else folder / names[0]
        (content, metadata), read = tensors.read(path), [path]
    configs = {each: _json(folder / each) if (folder / each).exists() else {} for each in _CONFIGS}
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


def fetched(repo: str, **options: Any) -> Path:
    """The folder, in the Hub's cache on this machine, of the weights and configs of *repo* (``org/name[@revision]``).

    *options* are ``hf_hub_download``'s, and so are the errors.
    """
    repo, _, revision = repo.partition("@")
    if revision:
        options["revision"] = revision

    def fetch(name: str) -> Path | None:
        with contextlib.suppress(EntryNotFoundError):  # not there, or neither cached nor to be had
            return Path(hf_hub_download(repo, name, **options))
        return None

    with _without_waiting(repo):
        for name in _WEIGHTS:
            if (weights := fetch(name)) is not None:
                break
            if (weights := fetch(f"{name}.index.json")) is not None:
                for shard in _shard_names(weights):
                    hf_hub_download(repo, shard, **options)
                break
        else:
            weights = Path(hf_hub_download(repo, _WEIGHTS[0], **options))  # whose error says why there are none
        for name in _CONFIGS:
            fetch(name)
    return weights.parent


def _of_hub(repo: str) -> Source:
    try:
        folder = fetched(repo)
    except (HfHubHTTPError, EntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        raise BadCheckpoint(
            f"There is no checkpoint at {repo}, and the Hub's {repo} cannot be fetched: {_reason(error)}.",
            "Check the name, connect to the network once, or give the path of a checkpoint.",
        ) from error
    return of_folder(folder)


def _of_timm(name: str) -> Source:
    if not is_model_in_modules(name, ("vision_transformer", "deit")):
        is_timm_name = timm.is_model(name)
        reason = "is no plain ViT" if is_timm_name else "is no name of timm's"
        raise BadCheckpoint(
            f"timm's {name} cannot be loaded: {name} {reason}.", "timm.list_models('vit_*') lists them."
        )
    with _quiet("timm"):
        try:
            with _without_waiting(getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)):
                module = timm.create_model(name, pretrained=True)
        except Exception as error:  # of torch, timm, huggingface_hub and the network: they share no base
            raise BadCheckpoint(
                f"timm's {name} cannot be loaded: {_reason(error)}.",
                "Check its tag, connect to the network once, or give the path of a checkpoint.",
            ) from error
    state = module.state_dict()
    return Source(
        name=name,
        path=Path(f"{TIMM}{name}"),
        content=state,
        num_bytes=sum(tensor.nbytes for tensor in state.values()),
        sha256=digest(state),
        module=module.eval(),
    )


def _folder_name(folder: Path) -> str:
    """In the Hub's cache a folder is called by its commit, and what is above it by the model."""
    name = folder.resolve().name
    repo = folder.resolve().parent.parent.name
    return repo.split("--")[-1] if folder.resolve().parent.name == "snapshots" and repo.startswith("models--") else name


def _shards(index: Path) -> tuple[dict[str, Tensor], Mapping[str, str], list[Path]]:
    content: dict[str, Tensor] = {}
    read = [index.parent / name for name in _shard_names(index)]
    for path in read:
        shard, _ = tensors.read(path)
        if not isinstance(shard, Mapping):
            raise BadCheckpoint(f"Checkpoint {path} holds no state dict.", "Download it again.")
        content |= shard
    return content, {}, read


def _shard_names(index: Path) -> list[str]:
    weight_map = _json(index).get("weight_map")
    shard_names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not shard_names or not all(isinstance(name, str) and Path(name).name == name for name in shard_names):
        raise BadCheckpoint(f"{index} lists no shards beside it.", "Download it again.")
    return sorted(set(shard_names))


def _json(path: Path) -> dict[str, Any]:
    with tensors.opened(path, documents.JSON_BYTES) as file:
        content = file.read()
    try:
        return documents.decode_json(content, dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadCheckpoint(f"{path} is not valid: {error}.", "Download it again, or take it away.") from error


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of all tensors, their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    """The first line of what a library says, without its full stop."""
    if isinstance(error, LocalEntryNotFoundError):  # whose text is about options of huggingface_hub
        return "the Hub cannot be reached, and its cache on this machine does not hold it"
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removesuffix(".")


@contextlib.contextmanager
def _without_waiting(repo: str | None) -> Iterator[None]:
    """Has huggingface_hub look in its cache alone where the Hub cannot be reached: it would wait 23 s for each file."""
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or repo is None or not _is_reachable(repo)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _is_reachable(repo: str) -> bool:
    try:
        get_hf_file_metadata(hf_hub_url(repo, _CONFIGS[0]), timeout=10)
    except HfHubHTTPError:
        return True  # it has answered
    except Exception:  # noqa: BLE001 (of an HTTP library, which differs between releases of huggingface_hub)
        return False
    return True


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keeps off the terminal what a library logs while it fails: the error says it."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
