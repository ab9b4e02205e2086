"""A process that runs functions of ours: request in, progress and result out, memory cap, its stdout kept off ours.

The child is spawned, never forked, and talks over pipes of its own. It dies with its parent, in whatever way that one
ends.
"""

from hydra_export.worker.memory import available_memory_mib
from hydra_export.worker.messages import Progress
from hydra_export.worker.process import Worker

__all__ = ["Progress", "Worker", "available_memory_mib"]
