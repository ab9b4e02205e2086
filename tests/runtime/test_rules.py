"""Budgets and cascades as recorded: what every language's implementation has to reproduce."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydra_export.runtime import Budget, Cascade, RuntimeFailure, surest

TRACES: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "traces.json").read_text())
REFERENCES = {3: 5.0, 6: 15.0, 12: 52.0}


@pytest.mark.parametrize("trace", TRACES["budgets"], ids=lambda trace: trace["name"])
def test_a_budget_plans_as_recorded(trace: dict[str, Any]) -> None:
    references = {int(k): ms for k, ms in trace["references"].items()}
    rule = Budget(references, trace["ms"], trace["quantile"])
    for call in trace["calls"]:
        assert [*rule.plan(trace["cascade"])] == call["plan"]
        rule.saw([(k, ms) for k, ms in call["runs"]], call["other_ms"])


@pytest.mark.parametrize("trace", TRACES["cascades"], ids=lambda trace: trace["name"])
def test_a_cascade_answers_as_recorded(trace: dict[str, Any]) -> None:
    rule = Cascade(tuple(trace["heads"]), tuple(trace["thresholds"]))
    for image in trace["images"]:
        for k, temperature, logits in zip(trace["heads"], trace["temperatures"], image["logits"], strict=True):
            index, probability = surest(logits, temperature)
            if rule.accepts(k, probability):
                break
        assert (k, index) == (image["heads"], image["index"])
        assert probability == pytest.approx(image["probability"], abs=1e-9)


def calls(rule: Budget, count: int, slowness: float, other_ms: float = 0.0) -> list[int]:
    """The head counts of so many calls on a machine that is that much slower than when nothing else runs."""
    chosen = []
    for _ in range(count):
        (k,) = rule.plan()
        rule.saw([(k, rule.references[k] * slowness)], other_ms)
        chosen.append(k)
    return chosen


def test_it_starts_with_the_largest_head_count_that_fits_with_room() -> None:
    assert Budget(REFERENCES, 16.6).heads == 3  # 15 ms and a tenth
    assert Budget(REFERENCES, 16.7).heads == 6
    assert Budget(REFERENCES, 1000).heads == 12
    assert Budget(REFERENCES, 1).heads == 3


def test_it_sheds_after_two_slow_calls_as_far_as_it_has_to() -> None:
    rule = Budget(REFERENCES, 60)
    assert calls(rule, 40, 1.0) == [12] * 40
    assert calls(rule, 4, 4.5) == [12, 12, 3, 3]  # k = 6 would take 67 ms


def test_one_slow_call_changes_nothing() -> None:
    rule = Budget(REFERENCES, 60)
    calls(rule, 40, 1.0)
    assert calls(rule, 1, 10.0) + calls(rule, 40, 1.0) == [12] * 41


def test_it_climbs_slowly_and_one_head_count_at_a_time() -> None:
    rule = Budget(REFERENCES, 60)
    calls(rule, 40, 8.0)
    assert rule.heads == 3
    chosen = calls(rule, 120, 1.0)
    assert sorted(chosen) == chosen
    first, then = chosen.index(6), chosen.index(12)
    assert first >= Budget.CALM
    assert then - first >= Budget.CALM


def test_what_was_wrongly_tried_is_tried_again_twice_as_late() -> None:
    rule, tried = Budget({3: 5.0, 6: 20.0}, 33), list[int]()
    calls(rule, 3, 4.0)
    assert rule.heads == 3
    for call in range(2000):
        k = rule.heads
        if k == 6 and rule.plan() and (not tried or call > tried[-1] + 8):
            tried.append(call)
        rule.saw([(k, 5.0 if k == 3 else 40.0)])
    gaps = np.diff(tried)
    assert (gaps[1:4] > 1.5 * gaps[:3]).all()
    assert gaps.max() <= Budget.LONGEST_CALM + Budget.WINDOW + Budget.RECENT


def test_what_a_call_takes_beside_its_runs_counts() -> None:
    rule = Budget(REFERENCES, 60)
    assert 12 not in calls(rule, 40, 1.0, other_ms=20)[1:]


def test_a_cascade_runs_where_all_of_it_fits() -> None:
    assert Budget(REFERENCES, 73).plan((3, 6, 12)) == (3, 6, 12)
    assert Budget(REFERENCES, 71).plan((3, 6, 12)) == (12,)


@pytest.mark.parametrize(
    ("references", "ms", "quantile", "said"),
    [
        ({}, 33, 0.95, "for each head count"),
        ({3: 0.0}, 33, 0.95, "above 0"),
        ({3: float("nan")}, 33, 0.95, "above 0"),
        ({3: 1.0}, 0, 0.95, "budget of 0 ms"),
        ({3: 1.0}, float("inf"), 0.95, "budget of inf ms"),
        ({3: 1.0}, 33, 1.0, "quantile is 1.0"),
        ({3: 1.0}, 33, 0.4, "quantile is 0.4"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    references: dict[int, float], ms: float, quantile: float, said: str
) -> None:
    with pytest.raises(RuntimeFailure, match=said):
        Budget(references, ms, quantile)


@pytest.mark.parametrize(("heads", "thresholds"), [((), ()), ((3, 6), ()), ((6, 3), (0.5,)), ((3, 3), (0.5,))])
def test_a_cascade_ascends_and_has_a_threshold_for_all_but_the_last(
    heads: tuple[int, ...], thresholds: tuple[float, ...]
) -> None:
    with pytest.raises(RuntimeFailure, match="No cascade has"):
        Cascade(heads, thresholds)
