"""The YAML head of a model card, as the Hugging Face Hub reads it (huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import json
import re

from hydra_export.bundle import Manifest
from hydra_export.text import UNSEEN

# Identifiers that the Hub knows (huggingface.co/docs/hub/repositories-licenses); other licences are named as "other".
_LICENSES = {"apache-2.0", "mit", "openrail", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"}
_LICENSES |= {
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "gpl-2.0",
    "gpl-3.0",
    "lgpl-3.0",
    "agpl-3.0",
    "mpl-2.0",
    "isc",
    "unlicense",
}
# JSON's strings are YAML's, but for what YAML may hold as an escape alone (YAML 1.2, section 5.1) or folds (1.1).
_ESCAPED = re.compile(f"{UNSEEN.pattern}|[\ufffe\uffff]")


def render(manifest: Manifest) -> str:
    """From its first ``---`` to its second."""
    model, targets = manifest.model, dict.fromkeys(entry.target for entry in manifest.artifacts)
    task = "image-classification" if model.config.num_classes else "image-feature-extraction"
    lines = ["---", *_license(model.license), "library_name: hydra-export", f"pipeline_tag: {task}", "tags:"]
    kinds = ("vision-transformer",) if model.is_plain else ("hydravit", "vision-transformer")
    lines += [f"- {_quoted(tag)}" for tag in (*kinds, "on-device", *targets)]
    known = {k: round(accuracy, 4) for k, accuracy in model.accuracy.items()}
    if known and model.config.num_classes and model.accuracy_data:  # the Hub takes no result without its data
        lines += ["model-index:", f"- name: {_quoted(model.name)}", "  results:"]
        lines += [f"  - task:\n      type: {task}", f"    dataset:\n      name: {_quoted(model.accuracy_data)}"]
        lines += [f"      type: {_quoted(_slug(model.accuracy_data))}", "    metrics:"]
        for k, accuracy in known.items():
            lines += ["    - type: accuracy", f"      value: {accuracy}"]
            lines += [f"      name: {_quoted(f'Top-1 accuracy in percent, k = {k}')}"]
    return "\n".join([*lines, "---", ""])


def _license(said: str) -> list[str]:
    name = _slug(said)
    if name in _LICENSES or not said.strip():
        return [f"license: {name or 'unknown'}"]
    return ["license: other", f"license_name: {_quoted(name or 'see-licence-below')}"]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.casefold()).strip("-.")[:60]


def _quoted(text: str) -> str:
    """One double-quoted scalar, whatever *text* holds."""
    return _ESCAPED.sub(lambda found: f"\\U{ord(found[0]):08x}", json.dumps(text, ensure_ascii=False))
