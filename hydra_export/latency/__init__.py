"""The latency model: milliseconds with a low and a high from whatever was measured, and the choice of k."""

from __future__ import annotations

from hydra_export.latency.advice import Advice, Wish, advise, fastest, nearest
from hydra_export.latency.choice import Choice, Verdict, choose, percent, said
from hydra_export.latency.estimate import Estimate, estimates
from hydra_export.latency.evidence import REFERENCE, Evidence, Model, Way
from hydra_export.latency.ways import default_way, known_ways

__all__ = [
    "REFERENCE",
    "Advice",
    "Choice",
    "Estimate",
    "Evidence",
    "Model",
    "Verdict",
    "Way",
    "Wish",
    "advise",
    "choose",
    "default_way",
    "estimates",
    "fastest",
    "known_ways",
    "nearest",
    "percent",
    "said",
]
