"""Checkpoints that the Hub or timm has: fetched, or found in their caches on this machine."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from hydra_export.errors import BadCheckpoint, BadInput
from hydra_export.importing import timm_config
from hydra_export.importing.sources import CONFIGS, WEIGHTS, Source, digest, of_folder, shard_names


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
        for name in WEIGHTS:
            if (weights := fetch(name)) is not None:
                break
            if (weights := fetch(f"{name}.index.json")) is not None:
                for shard in shard_names(weights):
                    hf_hub_download(repo, shard, **options)
                break
        else:
            weights = Path(hf_hub_download(repo, WEIGHTS[0], **options))  # whose error says why there are none
        for name in CONFIGS:
            fetch(name)
    return weights.parent


def of_hub(repo: str) -> Source:
    """What the Hub's *repo* holds.

    Raises:
        BadCheckpoint: nothing, or it cannot be reached.
    """
    try:
        folder = fetched(repo)
    except (HfHubHTTPError, EntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        raise BadCheckpoint(
            f"There is no checkpoint at {repo}, and the Hub's {repo} cannot be fetched: {_reason(error)}.",
            "Check the name, connect to the network once, or pass the path of a checkpoint.",
        ) from error
    return of_folder(folder)


def of_timm(name: str) -> Source:
    """timm's pretrained *name*.

    Raises:
        BadCheckpoint: it is no ViT of timm's that is supported, or its weights cannot be fetched.
    """
    if not timm.is_model(name):
        raise BadCheckpoint(
            f"timm's {name} cannot be loaded: timm has no model of that name.", "timm.list_models('vit_*') lists them."
        )
    try:
        timm_config.check_name(name)
    except BadInput as error:
        raise BadCheckpoint(f"timm's {name} cannot be loaded: {error.message}", error.remedy) from error
    with _quiet("timm"):
        try:
            with _without_waiting(getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)):
                module = timm.create_model(name, pretrained=True)
        except Exception as error:  # of torch, timm, huggingface_hub and the network: they share no base
            raise BadCheckpoint(
                f"timm's {name} cannot be loaded: {_reason(error)}.",
                "Check its tag, connect to the network once, or pass the path of a checkpoint.",
            ) from error
    state = module.state_dict()
    return Source(
        name=name,
        path=Path(f"timm:{name}"),
        content=state,
        num_bytes=sum(tensor.nbytes for tensor in state.values()),
        sha256=digest(state),
        module=module.eval(),
    )


def _reason(error: Exception) -> str:
    """The first line of what a library says, without its full stop."""
    if isinstance(error, LocalEntryNotFoundError):  # whose text is about options of huggingface_hub
        return "the Hub cannot be reached, and its cache on this machine does not have it"
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
        get_hf_file_metadata(hf_hub_url(repo, CONFIGS[0]), timeout=10)
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
