"""Intervals: known values, their algebra, and that they cover what they promise to."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brushwork.eval.statistics import (
    Interval,
    Spread,
    bootstrap_difference,
    macro_average,
    mean_score,
    over_runs,
    paired_difference,
    pooled_spread,
    student_quantile,
    weighted_mean,
    wilson,
)


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


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (10, 2.2281), (30, 2.0423)])
def test_student_equals_the_tables(freedom, quantile):
    assert student_quantile(0.95, freedom) == pytest.approx(quantile, abs=1e-4)


def test_the_spread_is_pooled_over_groups_of_several_runs():
    spread = pooled_spread([[0.1, 0.3], [0.5, 0.5, 0.8], [0.9]])
    assert spread.freedom == 3 and spread.deviation == pytest.approx(((0.02 + 0.06) / 3) ** 0.5)
    assert pooled_spread([[0.5], []]) == Spread(deviation=0.0, freedom=0)


def test_runs_widen_an_interval_and_never_narrow_it():
    prompts = Interval(estimate=0.9, low=0.8, high=0.95, num=50)
    assert over_runs(prompts, [3], Spread(deviation=0.0, freedom=0)) == prompts
    assert over_runs(prompts, [3], Spread(deviation=0.001, freedom=2)) == prompts
    wide = over_runs(prompts, [4], Spread(deviation=0.1, freedom=2))
    assert wide.low == pytest.approx(0.9 - 4.3027 * 0.05, abs=1e-4) and wide.high == 1
    difference = over_runs(prompts, [4, 2], Spread(deviation=0.5, freedom=2), floor=-1.0)
    assert difference.low == pytest.approx(0.9 - 4.3027 * 0.5 * 0.75**0.5, abs=1e-4)


@pytest.mark.parametrize("luck", [0.0, 0.3, 1.0])
def test_the_difference_of_several_seeds_covers_the_truth(luck):
    """Four rows of three seeds: prompts that are easy or hard, and training runs that are lucky or not, in logits."""
    rng, covered = np.random.default_rng(0), []

    def passed(num_seeds: int, num_prompts: int) -> np.ndarray:
        prompts, rows = rng.normal(0, 1.5, num_prompts), rng.normal(0, 0.7, (4, 1, num_prompts))
        logits = prompts + rows + rng.normal(0, luck, (4, num_seeds, 1)) + np.array([0, 0, 0, 1])[:, None, None]
        return rng.random(logits.shape) < 1 / (1 + np.exp(-logits))

    means = np.mean([passed(300, 1000).mean((1, 2)) for _ in range(10)], axis=0)
    for _ in range(300):
        rows = passed(3, 52)
        spread = pooled_spread(row.mean(1).tolist() for row in rows)
        pairs = list(zip(rows[0].mean(0).tolist(), rows[3].mean(0).tolist(), strict=True))
        interval = over_runs(paired_difference({"kind": pairs}), [3, 3], spread, floor=-1.0)
        covered.append(interval.low <= means[3] - means[0] <= interval.high)
    assert 0.92 <= np.mean(covered) <= 0.99


def test_weights_make_the_mean_and_a_missing_kind_leaves_none():
    kinds = {"a": wilson(3, 4), "b": wilson(1, 4)}
    mean = weighted_mean(kinds, {"a": 0.8, "b": 0.2})
    assert mean.estimate == pytest.approx(0.65) and mean.num == 8
    assert mean.estimate - mean.low == pytest.approx(
        math.hypot(0.8 * (0.75 - kinds["a"].low), 0.2 * (0.25 - kinds["b"].low))
    )
    assert math.isnan(weighted_mean(kinds, {"a": 0.5, "c": 0.5}).estimate)
    assert weighted_mean(kinds).estimate == 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_a_mean_score_lies_within_its_limits(values):
    interval = mean_score(values)
    assert 0 <= interval.low <= interval.estimate + 1e-12 and interval.estimate <= interval.high + 1e-12 <= 1 + 2e-12
    assert interval.high - interval.low > 0


def test_a_mean_score_covers_the_truth():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        interval = mean_score(rng.choice([0.0, 0.35, 0.7, 1.0], size=40, p=[0.1, 0.2, 0.3, 0.4]).tolist())
        hits += interval.low <= 0.2 * 0.35 + 0.3 * 0.7 + 0.4 <= interval.high
    assert 0.93 < hits / 1000 < 0.98


def test_the_bootstrap_agrees_with_the_closed_form_and_is_repeatable():
    rng = np.random.default_rng(1)
    pairs = {
        kind: [(float(rng.random() < 0.5), float(rng.random() < 0.6)) for _ in range(200)] for kind in ("a", "b", "c")
    }
    closed, (drawn, better) = paired_difference(pairs), bootstrap_difference(pairs)
    assert drawn.estimate == pytest.approx(closed.estimate) and drawn.num == 600
    assert drawn.low == pytest.approx(closed.low, abs=0.01) and drawn.high == pytest.approx(closed.high, abs=0.01)
    assert bootstrap_difference(pairs) == (drawn, better) and 0.95 < better <= 1


def test_the_bootstrap_weighs_kinds_and_knows_when_it_knows_nothing():
    pairs = {"a": [(0.0, 1.0)] * 5, "b": [(1.0, 1.0)] * 5, "empty": []}
    drawn, better = bootstrap_difference(pairs, {"a": 0.25, "b": 0.75})
    assert drawn.estimate == drawn.low == drawn.high == 0.25 and better == 1.0
    nothing, unknown = bootstrap_difference({"a": []})
    assert math.isnan(nothing.estimate) and math.isnan(unknown)
    assert bootstrap_difference({"a": [(1.0, 1.0)] * 3})[1] == 0.5, "a tie counts half"


def test_marks_out_of_their_range_keep_the_limits_on_their_sides():
    """WISE's scripts take a 9 for a mark."""
    mean = mean_score([4.5, 4.5])
    assert mean.low <= mean.estimate == 4.5 <= mean.high
    overall = weighted_mean({"a": mean, "b": mean_score([0.5])})
    assert overall.low <= overall.estimate == 2.5 <= overall.high
