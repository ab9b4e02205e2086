"""The latency model: milliseconds with a low and a high from whatever was measured, and the choice of k."""

from __future__ import annotations

from hydra_export.latency.advice import Advice, Constraints, advise, alternatives
from hydra_export.latency.choice import HeadChoice, Verdict, choose, describe_fit, percent
from hydra_export.latency.estimate import Estimate, estimates
from hydra_export.latency.evidence import REFERENCE, Evidence, ExecutionPath, Workload
from hydra_export.latency.execution_paths import known_paths

__all__ = [
    "REFERENCE",
    "Advice",
    "Constraints",
    "Estimate",
    "Evidence",
    "ExecutionPath",
    "HeadChoice",
    "Verdict",
    "Workload",
    "advise",
    "alternatives",
    "choose",
    "describe_fit",
    "estimates",
    "known_paths",
    "percent",
]
