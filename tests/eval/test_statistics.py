"""Intervals: known values, their algebra, and that they cover what they promise to."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brushwork.eval.statistics import macro_average, paired_difference, wilson


def test_wilson_equals_published_values():
    # Newcombe 1998, table I, method 3 (score without continuity correction)
    for passed, num, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        interval = wilson(passed, num)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 400).flatmap(lambda num: st.tuples(st.integers(0, num), st.just(num))))
def test_wilson_is_ordered_and_symmetric(counts):
    passed, num = counts
    interval, mirrored = wilson(passed, num), wilson(num - passed, num)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.low < interval.high
    assert interval.low == pytest.approx(1 - mirrored.high)


def test_nothing_is_known_of_no_trials():
    interval = wilson(0, 0)
    assert math.isnan(interval.estimate) and (interval.low, interval.high, interval.num) == (0, 1, 0)


@pytest.mark.parametrize("counts", [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="expected 0 <= passed <= num"):
        wilson(*counts)


def test_a_single_kind_is_its_own_macro_average():
    assert macro_average({"colors": (7, 12), "position": (0, 0)}) == wilson(7, 12)


def test_kinds_weigh_the_same_however_many_prompts_they_have():
    assert macro_average({"few": (1, 1), "many": (0, 99)}).estimate == 0.5


def test_macro_average_of_nothing_is_unknown():
    assert math.isnan(macro_average({}).estimate)


@pytest.mark.parametrize("rates", [(0.99, 0.5, 0.6, 0.9, 0.3, 0.2), (0.5,) * 6])
def test_macro_average_covers_the_truth(rates):
    passed = np.random.default_rng(0).binomial(52, rates, size=(800, 6))
    intervals = [macro_average({str(kind): (int(count), 52) for kind, count in enumerate(row)}) for row in passed]
    covered = np.mean([one.low <= np.mean(rates) <= one.high for one in intervals])
    assert 0.93 <= covered <= 0.98


def test_equal_arms_differ_by_nothing():
    interval = paired_difference({"colors": [(True, True), (False, False)] * 10})
    assert interval.estimate == 0 and interval.low == -interval.high < 0


def test_difference_is_second_minus_first():
    assert paired_difference({"a": [(False, True)] * 9, "b": [(True, True)] * 3}).estimate == pytest.approx(0.5)


def test_difference_without_pairs_is_unknown():
    interval = paired_difference({"a": []})
    assert math.isnan(interval.estimate) and (interval.low, interval.high) == (-1, 1)


def test_paired_difference_covers_the_truth():
    rng = np.random.default_rng(0)
    outcomes = [(True, True), (True, False), (False, True), (False, False)]
    chances = np.array([[0.4, 0.1, 0.3, 0.2], [0.1, 0.05, 0.5, 0.35], [0.9, 0.02, 0.05, 0.03]])
    truth = np.mean(chances[:, 2] - chances[:, 1])
    covered = []
    for _ in range(400):
        drawn = {str(kind): [outcomes[i] for i in rng.choice(4, size=52, p=row)] for kind, row in enumerate(chances)}
        interval = paired_difference(drawn)
        covered.append(interval.low <= truth <= interval.high)
    assert 0.92 <= np.mean(covered) <= 0.98
