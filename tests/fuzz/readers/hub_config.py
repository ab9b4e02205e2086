"""What lies beside the weights in a folder of the Hub: config.json and preprocessor_config.json, as one document."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch

from hydra_export import checkpoint
from tests.fuzz import trees
from tests.fuzz.reader import Random, Reader
from tests.importing import cases

_SMALL: dict[str, Any] = {"embed_dim": 16, "num_heads": 2, "depth": 1}
_LABELS = ["ant", "bee", "cat", "dog", "eel"]


@functools.cache
def _weights(by_transformers: bool) -> bytes:
    state = dict(cases.vit(0, **_SMALL).state_dict())
    return safetensors.torch.save(cases.transformers_state(state) if by_transformers else state)


def _seeds() -> list[bytes]:
    theirs: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }
    by_timm = cases.timm_config(_SMALL, label_names=_LABELS)
    flat = {**by_timm["config.json"].pop("pretrained_cfg"), **by_timm["config.json"]}
    documents = (
        cases.timm_config(_SMALL, label_names=_LABELS),
        {"config.json": flat},
        cases.transformers_configs(**theirs),
    )
    return [msgspec.json.encode(document) for document in documents]


def _mutate(random: Random, content: bytes) -> bytes:
    document = msgspec.json.decode(content)
    name = random.choice(list(document))
    document[name] = trees.mutate(random, document[name])
    return trees.to_json(random, document)


def _read(path: Path) -> None:
    """A document that is no table of tables is given as config.json itself."""
    content = path.read_bytes()
    try:
        documents = {
            name: bytes(text) for name, text in msgspec.json.decode(content, type=dict[str, msgspec.Raw]).items()
        }
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        documents = {"config.json": content}
    folder = path.parent / "hub"
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes(documents.get(name, b"{}"))
    (folder / "model.safetensors").write_bytes(
        _weights(b"image_mean" in documents.get("preprocessor_config.json", b""))
    )
    checkpoint.load(folder)


READER = Reader(_seeds, _mutate, msgspec.json.decode, _read, ".json")
