"""``python -m hydra_export.latency``: renews the tables of docs/latency-model.md, in the repository."""

import sys

from hydra_export.errors import BadInput
from hydra_export.latency.leave_one_out import write

try:
    write()
except BadInput as error:
    sys.exit(f"error: {error}")
