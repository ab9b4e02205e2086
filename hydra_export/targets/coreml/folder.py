"""The files of a package as we write them."""

from __future__ import annotations

import hashlib
import json
import uuid

MANIFEST = "Manifest.json"
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
FILES = (MANIFEST, MODEL, WEIGHTS)
WEIGHTS_NAME = "@model_path/weights/weight.bin"  # what programs call it


def manifest(model_sha256: str) -> bytes:
    """Manifest.json, with identifiers that follow from the content of the model file: Core ML's own are random.

    Byte for byte as coremltools would write it, which it does again whenever it opens a package.
    """
    items = {
        _identifier("model", model_sha256): _item("Model Specification", "model.mlmodel"),
        _identifier("weights", model_sha256): _item("Model Weights", "weights"),
    }
    content = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": items,
        "rootModelIdentifier": _identifier("model", model_sha256),
    }
    return json.dumps(content, indent=4, sort_keys=True).encode() + b"\n"


def _identifier(what: str, model_sha256: str) -> str:
    digest = hashlib.sha256(f"{what} {model_sha256}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4)).upper()


def _item(description: str, name: str) -> dict[str, str]:
    return {
        "author": "com.apple.CoreML",
        "description": f"CoreML {description}",
        "name": name,
        "path": f"com.apple.CoreML/{name}",
    }
