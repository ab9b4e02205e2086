"""What becomes of a record that a page sends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra_export.bench import browser
from hydra_export.bundle import Manifest
from hydra_export.errors import BadInput, OutputRefused

_NAME = "The record"


def take(content: bytes, manifest: Manifest, device: str = "", folder: Path | None = None) -> dict[str, Any]:
    """Checks a record of *manifest*'s model, and adds its times to the user's profiles.

    Args:
        device: whose they are where the browser does not name one. *folder*: of the profiles.

    Returns:
        what the page is told, without a path of this machine.

    Raises:
        BadInput: it is no record, or of another model.
        OutputRefused: its times cannot be kept; the cause says why.
    """
    record = browser.decode(content, _NAME)
    times = browser.records(record, manifest.model.workload, _NAME, manifest)
    try:
        known, path = browser.save(record, times, folder, "" if record.browser.model else device)
    except BadInput as error:  # which names files of this machine
        raise OutputRefused("The times could not be saved.", "See the reason in the server's terminal.") from error
    told = {"device": known.profile.id, "name": known.profile.name, "runtime": record.backend}
    return {**told, "records": len(times), "file": path.name}
