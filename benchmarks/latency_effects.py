"""Fits the standard deviations of the latency model's effects: each chip left out, predicted from the others.

python benchmarks/latency_effects.py       prints them; hydra_export/latency/kriging.py holds them (minutes)

The likelihood is of every time given those of all other chips, and given all others but of its own size and path, one
vote per chip and question. What the records do not determine stays near where it was.
"""

from __future__ import annotations

import math
from dataclasses import replace

import measuring
import numpy as np
from scipy.optimize import minimize

from hydra_export import profiles
from hydra_export.latency import REFERENCE, Evidence, kriging
from hydra_export.latency.evidence import path_of

_FILE = 0.2  # standard deviation of a file of ours from what was timed
_TRUST = 0.5  # of the logarithms of what EFFECTS holds now


def main() -> None:
    print(measuring.environment(("numpy", "scipy")))
    evidence = Evidence(profiles.packaged())
    points = [evidence.point_of(usable, REFERENCE) for usable in evidence.all]
    residuals = np.array(
        [math.log(u.record.ms) - kriging.expected(p) for u, p in zip(evidence.all, points, strict=True)]
    )
    blocks = _blocks([p.soc for p in points]) + _blocks(
        [f"{u.device} {path_of(u.record)} {u.record.gmacs:.1f}" for u in evidence.all]
    )
    asked = {index for index, u in enumerate(evidence.all) if not evidence.profiles[u.device].stand_in}
    now = kriging.EFFECTS
    start = np.log([sd for effect in now for sd in (effect.cpu, effect.accelerator) if sd])
    votes = [
        1 / sum(points[i].soc == points[block[0]].soc for i in block) / _num(points, blocks, block) for block in blocks
    ]

    def loss(logs: np.ndarray) -> float:
        kriging.EFFECTS = _changed(now, np.exp(logs))
        features = kriging._Features(points)
        covariance = features.covariance(features) + np.diag([p.noise**2 for p in points])
        inverse = np.linalg.inv(covariance)
        solved = inverse @ residuals
        total = 0.0
        for block, vote in zip(blocks, votes, strict=True):
            rest = np.linalg.inv(inverse[np.ix_(block, block)])
            errors = rest @ solved[block]
            for place, index in enumerate(block):
                if index in asked:
                    variance = max(rest[place, place] - points[index].noise ** 2, 0.0) + _FILE**2
                    # Student's t of 5 degrees of freedom: one odd record shall not widen all intervals
                    total += vote * (0.5 * math.log(variance) + 3 * math.log1p(errors[place] ** 2 / variance / 5))
        return total + 0.5 * float(np.sum(((logs - start) / _TRUST) ** 2))

    before = loss(start)
    found = minimize(loss, start, method="L-BFGS-B", options={"maxiter": 25})
    print(f"{before:.2f} -> {found.fun:.2f}")
    for effect in _changed(now, np.exp(found.x)):
        print(f"{effect.cpu:.2f}, {effect.accelerator:.2f}")


def _blocks(names: list[str]) -> list[list[int]]:
    return [[index for index, each in enumerate(names) if each == name] for name in dict.fromkeys(names)]


def _num(points: list[kriging.Coordinates], blocks: list[list[int]], block: list[int]) -> int:
    """Blocks of the same question and chip: sizes and paths of one chip share its vote."""
    whole = len({points[i].soc for i in block}) == 1 and len(block) == sum(
        p.soc == points[block[0]].soc for p in points
    )
    return 1 if whole else sum(points[each[0]].soc == points[block[0]].soc for each in blocks)


def _changed(effects: tuple[kriging.Effect, ...], deviations: np.ndarray) -> tuple[kriging.Effect, ...]:
    left = iter(deviations.tolist())
    return tuple(
        replace(e, cpu=next(left) if e.cpu else 0.0, accelerator=next(left) if e.accelerator else 0.0) for e in effects
    )


if __name__ == "__main__":
    main()
