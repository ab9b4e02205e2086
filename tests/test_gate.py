"""What labelled images, and how many of them, can tell of an int8 artifact."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, binomtest

from hydra_export.gate import LEAST_AGREEMENT, LEAST_IMAGES, Gate, above_chance, chance, judgement, largest_drop

Right = NDArray[np.bool_]


def right(num: int, of: int) -> Right:
    return np.arange(of) < num


def labels(*counts: int) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts)), counts)


def test_chance_is_the_share_of_the_most_frequent_label() -> None:
    assert chance(labels(30, 30, 30)) == pytest.approx(1 / 3)
    assert chance(labels(80, 10, 10)) == 0.8


@pytest.mark.parametrize("given", [labels(30, 30, 30), labels(80, 10, 10), labels(*[1] * 100), labels(500, 500)])
def test_a_model_is_above_chance_where_the_exact_binomial_test_says_so(given: NDArray[np.int64]) -> None:
    for num in range(0, len(given) + 1, 7):
        expected = binomtest(num, len(given), chance(given), alternative="greater").pvalue < 0.01
        assert above_chance(num, len(given), chance(given)) is bool(expected)


def test_labels_of_one_class_are_met_by_who_always_says_the_same() -> None:
    assert not above_chance(90, 90, chance(labels(90)))


def test_labels_that_the_model_does_not_meet_leave_the_judgement_to_agreement() -> None:
    found = judgement(Gate(labels(30, 30, 30)), right(0, 90), right(0, 90))
    assert (found.judged_by, found.accuracy, found.accuracy_fp32) == ("agreement", None, 0)
    found = judgement(Gate(labels(30, 30, 30)), right(33, 90), right(33, 90))  # a constant answer has as many
    assert (found.judged_by, found.accuracy) == ("agreement", None)


def test_a_small_drop_on_few_images_is_not_known_to_be_small() -> None:
    few = judgement(Gate(labels(30, 30, 30)), right(85, 90), right(85, 90))
    assert (few.judged_by, few.accuracy) == ("top-1 and agreement", 94.4444)
    many = judgement(Gate(labels(*[100] * 10)), right(900, 1000), right(897, 1000))
    assert (many.judged_by, many.accuracy, many.accuracy_fp32) == ("top-1", 89.7, 90.0)
    assert judgement(Gate(labels(30, 30, 30), max_drop=10), right(85, 90), right(85, 90)).judged_by == "top-1"


def test_without_labels_agreement_decides_and_where_all_is_accepted_nothing() -> None:
    assert judgement(Gate(), None, None).judged_by == "agreement"
    assert judgement(Gate(open=True), None, None).judged_by == "nothing"


@pytest.mark.parametrize(("num", "lost", "won"), [(200, 0.05, 0.02), (1000, 0.02, 0.01), (1000, 0.01, 0.0)])
def test_the_largest_drop_is_exceeded_in_one_of_twenty_cases(num: int, lost: float, won: float) -> None:
    random = np.random.default_rng(0).random((4000, num))
    limits = [largest_drop(one, other) for one, other in zip(random > won, random < 1 - lost, strict=True)]
    # 5 % is the nominal share; counts of a few images come in steps.
    assert np.mean(np.asarray(limits) < 100 * (lost - won)) <= 0.07


def test_who_agrees_on_nine_of_ten_images_passes_in_fewer_than_one_of_twenty_cases() -> None:
    for num in range(LEAST_IMAGES, 1001):
        most_misses = max(m for m in range(num + 1) if (num - m) / num >= LEAST_AGREEMENT)
        assert binom.cdf(most_misses, num, 0.1) < 0.05
    assert binom.cdf(0, 4, 0.1) > 0.6, "from four images nothing would be known"
