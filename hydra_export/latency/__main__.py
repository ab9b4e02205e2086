"""``python -m hydra_export.latency``: writes docs/latency-model.md, in the repository that it is run from."""

from pathlib import Path

from hydra_export.latency.leave_one_out import DOCUMENT, document

Path(DOCUMENT).write_text(document(), encoding="utf-8")
