"""The latency model: milliseconds with a low and a high from whatever was measured, and the choice of k."""

from hydra_export.latency.choice import Choice as Choice
from hydra_export.latency.choice import Verdict as Verdict
from hydra_export.latency.choice import choose as choose
from hydra_export.latency.estimate import Estimate as Estimate
from hydra_export.latency.estimate import estimates as estimates
from hydra_export.latency.evidence import REFERENCE as REFERENCE
from hydra_export.latency.evidence import Evidence as Evidence
from hydra_export.latency.evidence import Model as Model
from hydra_export.latency.evidence import Way as Way
from hydra_export.latency.ways import default_way as default_way
from hydra_export.latency.ways import known_ways as known_ways
