"""A converter in its own process: request in, progress and result out, memory cap, its stdout kept off ours.

The child is spawned, never forked, and talks over pipes of its own. It dies with its parent, in whatever way that one
ends.
"""

from hydra_export.worker.memory import available_memory_mib
from hydra_export.worker.messages import Progress
from hydra_export.worker.process import Worker
from hydra_export.worker.side_by_side import Call, run_side_by_side

__all__ = ["Call", "Progress", "Worker", "available_memory_mib", "run_side_by_side"]
