"""Writes tests/runtime/traces.json: what every language's Budget and Cascade have to reproduce.

    python scripts/make_runtime_traces.py

Budgets are recorded in a loop: what the rule chooses takes as long as a made-up machine lets it.
Cascades are recorded on logits of the packaged model and on such as are easily got wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydra_export.runtime import Budget, Cascade, surest

TRACES = Path(__file__).parents[1] / "tests" / "runtime" / "traces.json"
_THREE = {3: 5.0, 6: 15.0, 12: 52.0}
_MANY = {1: 1.0, 2: 2.7, 3: 5.0, 4: 8.0, 6: 15.0, 8: 25.0, 10: 37.0, 12: 52.0}
_CALLS = 240


def machine(kind: str, seed: int, calls: int) -> NDArray[np.float64]:
    """How many times slower than alone each call finds the machine."""
    rng = np.random.default_rng(seed)
    slow = np.ones(calls)
    if kind == "hog":
        slow[calls // 3 : 2 * calls // 3] = 2.0
    elif kind == "thermal":
        slow = np.interp(np.arange(calls), [0, calls * 0.2, calls * 0.6, calls], [1, 1, 2.6, 2.2])
    elif kind == "bursts":
        slow[np.arange(calls) // 37 % 3 == 1] = 2.2
    elif kind == "waves":
        slow[np.arange(calls) % 41 < 2] = 2.2
    spikes = 1 + (rng.random(calls) < 0.02) * rng.exponential(1.5, calls)
    return slow * spikes * np.exp(0.05 * rng.standard_normal(calls))


def budgets() -> Iterator[dict[str, Any]]:
    for kind in ("quiet", "hog", "thermal", "bursts"):
        yield budget(kind, _THREE, 33.0)
        yield budget(kind, _MANY, 33.0, other=2.5)
        yield budget(kind, _MANY, 60.0, quantile=0.99)
        yield budget(kind, _THREE, 60.0, cascade=(3, 6, 12), other=1.5)
        yield budget(kind, _THREE, 25.0, cascade=(3, 6))
    yield budget("waves", _MANY, 33.0, calls=480)  # trying is wrong at times and right at others
    yield budget("quiet", {3: 5.0, 6: 20.0}, 30.0, truth={3: 5.0, 6: 36.0}, calls=640)  # until it waits no longer
    yield budget("thermal", _MANY, 20.0, quantile=0.5)
    yield budget("hog", {6: 15.0}, 10.0)  # nothing fits, and there is no choice
    yield budget("quiet", _THREE, 3.0, other=4.0)  # nothing is left
    yield budget("quiet", {3: 5.0, 6: 20.0}, 33.0, truth={3: 5.0, 6: 36.0})  # fits by its reference, never when tried


def budget(
    kind: str,
    references: dict[int, float],
    ms: float,
    *,
    quantile: float = 0.95,
    cascade: tuple[int, ...] = (),
    other: float = 0.0,
    truth: dict[int, float] | None = None,
    calls: int = _CALLS,
) -> dict[str, Any]:
    rule, rng, recorded = Budget(references, ms, quantile), np.random.default_rng(7), []
    for slow in machine(kind, len(references), calls):
        plan = rule.plan(cascade)
        runs = [(k, round((truth or references)[k] * slow, 3)) for k in plan[: 1 + int(rng.integers(len(plan)))]]
        others = round(other * slow, 3)
        recorded.append({"plan": plan, "runs": runs, "other_ms": others})
        rule.saw(runs, others)
    return {
        "name": f"{kind}, {ms:g} ms at {quantile:g}, heads {[*references]}, cascade {[*cascade]}",
        "references": {str(k): value for k, value in references.items()},
        "ms": ms,
        "quantile": quantile,
        "cascade": cascade,
        "calls": recorded,
    }


def cascades() -> Iterator[dict[str, Any]]:
    heads = (3, 6, 12)
    yield cascade("the packaged model", heads, (0.8, 0.7), (0.75, 0.74, 0.72), packaged(heads))
    yield cascade("two of them, not calibrated", (3, 12), (0.9,), (1.0, 1.0), packaged((3, 12)))
    yield cascade("one alone", (6,), (), (1.0,), [[[0.0, 1.0]]])
    one, other = [1.0, 1.0, 0.0], [0.0, 2.0, 2.0]
    yield cascade("equal logits", (1, 2), (0.4,), (1.0, 1.0), [[one, other], [other, one], [[5.0], [5.0]]])
    large = [[1e4, -1e4], [-1e30, 1e30]]
    yield cascade("large logits", (1, 2), (0.99,), (0.1, 10.0), [large, large[::-1], [[0.0, -1e307], [-1e307, 0.0]]])
    yield cascade(
        "always sure, never sure", (1, 2, 3), (1.5, 0.0), (1.0, 1.0, 1.0), [[one, other, one], [other, one, one]]
    )


def packaged(heads: tuple[int, ...]) -> list[list[list[float]]]:
    """Logits of the packaged model for 60 test images."""
    import torch

    import hydra_export
    from hydra_export.data import packaged_images

    checkpoint = hydra_export.load_checkpoint()
    images = packaged_images(checkpoint.info.preprocessing, 60).pixels
    given = torch.from_numpy(checkpoint.info.preprocessing.normalise(images))
    with torch.inference_mode():
        logits = [checkpoint.model.eval()(given, k).numpy() for k in heads]
    return [[[round(float(x), 3) for x in of_k[image]] for of_k in logits] for image in range(len(images))]


def cascade(
    name: str,
    heads: tuple[int, ...],
    thresholds: tuple[float, ...],
    temperatures: tuple[float, ...],
    images: list[list[list[float]]],
) -> dict[str, Any]:
    rule, recorded = Cascade(heads, thresholds), []
    for logits in images:
        for k, temperature, own in zip(heads, temperatures, logits, strict=True):
            index, probability = surest(own, temperature)
            if rule.accepts(k, probability):
                break
        recorded.append({"logits": logits, "heads": k, "index": index, "probability": float(f"{probability:.12g}")})
    return {"name": name, "heads": heads, "thresholds": thresholds, "temperatures": temperatures, "images": recorded}


def main() -> None:
    traces = {"budgets": [*budgets()], "cascades": [*cascades()]}
    TRACES.parent.mkdir(exist_ok=True)
    TRACES.write_text(json.dumps(traces, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
