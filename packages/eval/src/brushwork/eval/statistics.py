"""Intervals for scores: Wilson and means for one kind, MOVER for averages over kinds, paired differences, several runs.

All but the bootstrap is closed-form, and none of that collapses to zero width where a kind is all right or all wrong,
as the bootstrap and the plain normal interval do. The bootstrap, seeded, is there for what others report.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, variance

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate between its confidence limits.

    Attributes:
        estimate: the point estimate.
        low: lower limit, never above the estimate.
        high: upper limit, never below the estimate.
        num: how many observations stand behind it.
    """

    estimate: float
    low: float
    high: float
    num: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How far single runs lie apart.

    Attributes:
        deviation: standard deviation of a run's figure.
        freedom: degrees of freedom behind it; 0 where nothing is known.
    """

    deviation: float
    freedom: int


def normal_quantile(confidence: float) -> float:
    """The two-sided standard-normal quantile, 1.96 for 0.95.

    Raises:
        ValueError: `confidence` is not strictly between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(passed: int | float, num: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a success rate.

    Args:
        passed: successes, 0 to `num`; a sum of shares where a trial was repeated.
        num: trials. With none, nothing is known: the estimate is NaN and the limits are 0 and 1.
        confidence: coverage aimed at.

    Raises:
        ValueError: the counts are impossible.
    """
    if not 0 <= passed <= num:
        raise ValueError(f"{passed} of {num} passed; expected 0 <= passed <= num")
    if num == 0:
        return Interval(estimate=math.nan, low=0.0, high=1.0, num=0)
    z = normal_quantile(confidence)
    rate = passed / num
    scale = 1 + z * z / num
    centre = (rate + z * z / (2 * num)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / num + z * z / (4 * num * num))
    # At 0 and at 1 the limit equals the rate in exact arithmetic; rounding must not put it on the wrong side.
    low, high = max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))
    return Interval(estimate=rate, low=low, high=high, num=num)


def macro_average(counts: Mapping[str, tuple[int | float, int]], confidence: float = 0.95) -> Interval:
    """The unweighted mean of the kinds' success rates, as GenEval's overall, with its interval.

    The limits combine the kinds' Wilson limits as MOVER does (Zou and Donner 2008, method of variance estimates
    recovery): each kind contributes its squared distance to its own limit.

    Args:
        counts: kind → (passed, judged). Kinds of which nothing was judged are left out of the mean.
        confidence: coverage aimed at.

    Returns:
        The interval; NaN between 0 and 1 where no kind has a judged sample.
    """
    return weighted_mean({kind: wilson(passed, num, confidence) for kind, (passed, num) in counts.items() if num})


def weighted_mean(kinds: Mapping[str, Interval], weights: Mapping[str, float] | None = None) -> Interval:
    """A mean of the kinds' scores, its limits combined from theirs as `macro_average` tells.

    Args:
        kinds: score of each kind.
        weights: of the kinds, not rescaled, so that they must sum to 1; None or none at all: the plain mean.

    Returns:
        The interval; NaN between 0 and 1 where there is no kind, or one with a weight is missing.
    """
    shares, whole = (weights, 1) if weights else (dict.fromkeys(kinds, 1), len(kinds))
    total = sum(kinds[kind].num for kind in shares if kind in kinds)
    if not kinds or any(kind not in kinds for kind in shares):
        return Interval(estimate=math.nan, low=0.0, high=1.0, num=total)
    estimate = sum(share * kinds[kind].estimate for kind, share in shares.items()) / whole
    below = math.hypot(*(share * (kinds[kind].estimate - kinds[kind].low) for kind, share in shares.items())) / whole
    above = math.hypot(*(share * (kinds[kind].high - kinds[kind].estimate) for kind, share in shares.items())) / whole
    low, high = min(estimate, max(0.0, estimate - below)), max(estimate, min(1.0, estimate + above))
    return Interval(estimate=estimate, low=low, high=high, num=total)


def mean_score(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of scores between 0 and 1, with an adjusted Wald interval: one score of 0 and one of 1 are added.

    Args:
        values: the scores. With none, nothing is known: the estimate is NaN and the limits are 0 and 1.
        confidence: coverage aimed at.
    """
    if not values:
        return Interval(estimate=math.nan, low=0.0, high=1.0, num=0)
    adjusted = len(values) + 2
    mean = sum(values) / len(values)
    moment = (sum(value * value for value in values) + 1) / adjusted
    half = normal_quantile(confidence) * math.sqrt((moment - ((sum(values) + 1) / adjusted) ** 2) / adjusted)
    # A judge's marks may lie out of their range: a limit is never on the wrong side of the mean.
    low, high = min(mean, max(0.0, mean - half)), max(mean, min(1.0, mean + half))
    return Interval(estimate=mean, low=low, high=high, num=len(values))


def paired_difference(
    pairs: Mapping[str, Sequence[tuple[int | float, int | float]]], confidence: float = 0.95
) -> Interval:
    """How much better the second arm is than the first on the same prompts: the macro average of the differences.

    Pairing removes what prompts that are easy or hard for both arms add to the variance. The estimate is the plain
    mean; the standard error of each kind is that of Agresti and Min's adjusted Wald interval for matched pairs (half
    a pair is added to each of the four outcomes), hence never zero.

    Args:
        pairs: kind → (first arm passed, second arm passed) for each prompt that was judged for both; shares of the runs
            where an arm has several.
        confidence: coverage aimed at.

    Returns:
        Second minus first, -1 to 1; NaN between -1 and 1 where no kind has a pair.
    """
    kinds = [outcomes for outcomes in pairs.values() if outcomes]
    if not kinds:
        return Interval(estimate=math.nan, low=-1.0, high=1.0, num=0)
    estimate = squared_error = 0.0
    for outcomes in kinds:
        gains = [second - first for first, second in outcomes]
        estimate += sum(gains) / len(outcomes) / len(kinds)
        adjusted = len(outcomes) + 2
        moved = (sum(gain * gain for gain in gains) + 1) / adjusted - (sum(gains) / adjusted) ** 2
        squared_error += moved / adjusted / len(kinds) ** 2
    half = normal_quantile(confidence) * math.sqrt(squared_error)
    total = sum(len(outcomes) for outcomes in kinds)
    return Interval(estimate=estimate, low=max(-1.0, estimate - half), high=min(1.0, estimate + half), num=total)


def bootstrap_difference(
    pairs: Mapping[str, Sequence[tuple[int | float, int | float]]],
    weights: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[Interval, float]:
    """The paired bootstrap of the difference: prompts are drawn again with replacement, kind by kind.

    Args:
        pairs: kind → (first arm's score, second arm's score) for each prompt that was judged for both.
        weights: of the kinds; None or none at all: the plain mean over the kinds that have pairs.
        confidence: coverage aimed at; the limits are percentiles.
        num_resamples: at least 1.
        seed: of the resampling; equal arguments give equal answers.

    Returns:
        Second minus first, and the share of the resamples in which the second is better, ties counted half. NaN between
        -1 and 1, and NaN, where no kind has a pair.
    """
    gains = {kind: np.array([second - first for first, second in rows]) for kind, rows in pairs.items() if rows}
    shares = {kind: weights[kind] for kind in gains if kind in weights} if weights else dict.fromkeys(gains, 1.0)
    whole = sum(shares.values())
    if not whole:
        return Interval(estimate=math.nan, low=-1.0, high=1.0, num=0), math.nan
    rng = np.random.default_rng(seed)
    estimate, resampled = 0.0, np.zeros(num_resamples)
    for kind, share in shares.items():
        values, counts = np.unique(gains[kind], return_counts=True)  # equal gains are drawn together: few values, fast
        drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=num_resamples)
        resampled += share / whole * (drawn @ values) / counts.sum()
        estimate += share / whole * gains[kind].mean()
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    better = float((resampled > 0).mean() + (resampled == 0).mean() / 2)
    num = sum(len(gains[kind]) for kind in shares)
    limits = {"low": float(min(low, estimate)), "high": float(max(high, estimate))}
    return Interval(estimate=float(estimate), num=num, **limits), better


def pooled_spread(groups: Iterable[Sequence[float]]) -> Spread:
    """How far runs that differ in their seed alone lie apart, pooled over groups whose spread is taken to be one.

    Args:
        groups: the figures of each group's runs; a group with fewer than two tells nothing.
    """
    squares, freedom = 0.0, 0
    for runs in groups:
        if len(runs) > 1:
            squares += variance(runs) * (len(runs) - 1)
            freedom += len(runs) - 1
    return Spread(deviation=math.sqrt(squares / freedom) if freedom else 0.0, freedom=freedom)


def over_runs(
    interval: Interval, num_runs: Sequence[int], spread: Spread, floor: float = 0.0, confidence: float = 0.95
) -> Interval:
    """The wider, on each side, of an interval over prompts and Student's over runs.

    Prompts alone do not tell the luck of training, and few runs hardly tell what prompts do: either interval is too
    narrow somewhere, the wider one is not.

    Args:
        interval: over prompts; of the mean over some runs, or of the difference of two such means.
        num_runs: the runs in each of the means.
        spread: of single runs. Where nothing is known of it the interval stays as it is.
        floor: the least possible figure, 0 for rates and -1 for differences; the largest is 1.
        confidence: coverage aimed at.
    """
    if not spread.freedom or not interval.num:
        return interval
    error = spread.deviation * math.sqrt(sum(1 / num for num in num_runs))
    half = student_quantile(confidence, spread.freedom) * error
    low = min(interval.low, max(floor, interval.estimate - half))
    high = max(interval.high, min(1.0, interval.estimate + half))
    return replace(interval, low=low, high=high)


def student_quantile(confidence: float, freedom: int) -> float:
    """The two-sided quantile of Student's t, 4.30 for 0.95 and two degrees of freedom."""
    return float(student.ppf(0.5 + confidence / 2, freedom))
