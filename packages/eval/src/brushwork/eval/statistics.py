"""Intervals for success rates: Wilson for one kind, MOVER for the macro average, paired differences between arms.

Everything is closed-form and deterministic, and none of it collapses to zero width where a kind is all right or all
wrong, as the bootstrap and the plain normal interval do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist


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


def normal_quantile(confidence: float) -> float:
    """The two-sided standard-normal quantile, 1.96 for 0.95.

    Raises:
        ValueError: `confidence` is not strictly between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(passed: int, num: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a success rate.

    Args:
        passed: successes, 0 to `num`.
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


def macro_average(counts: Mapping[str, tuple[int, int]], confidence: float = 0.95) -> Interval:
    """The unweighted mean of the kinds' success rates, as GenEval's overall, with its interval.

    The limits combine the kinds' Wilson limits as MOVER does (Zou and Donner 2008, method of variance estimates
    recovery): each kind contributes its squared distance to its own limit.

    Args:
        counts: kind → (passed, judged). Kinds of which nothing was judged are left out of the mean.
        confidence: coverage aimed at.

    Returns:
        The interval; NaN between 0 and 1 where no kind has a judged sample.
    """
    kinds = [wilson(passed, num, confidence) for passed, num in counts.values() if num]
    if not kinds:
        return Interval(estimate=math.nan, low=0.0, high=1.0, num=0)
    estimate = sum(kind.estimate for kind in kinds) / len(kinds)
    below = math.sqrt(sum((kind.estimate - kind.low) ** 2 for kind in kinds)) / len(kinds)
    above = math.sqrt(sum((kind.high - kind.estimate) ** 2 for kind in kinds)) / len(kinds)
    total = sum(kind.num for kind in kinds)
    return Interval(estimate=estimate, low=max(0.0, estimate - below), high=min(1.0, estimate + above), num=total)


def paired_difference(pairs: Mapping[str, Sequence[tuple[bool, bool]]], confidence: float = 0.95) -> Interval:
    """How much better the second arm is than the first on the same prompts: the macro average of the differences.

    Pairing removes what prompts that are easy or hard for both arms add to the variance. The estimate is the plain
    mean; the standard error of each kind is that of Agresti and Min's adjusted Wald interval for matched pairs (half
    a pair is added to each of the four outcomes), hence never zero.

    Args:
        pairs: kind → (first arm passed, second arm passed) for each prompt that was judged for both.
        confidence: coverage aimed at.

    Returns:
        Second minus first, -1 to 1; NaN between -1 and 1 where no kind has a pair.
    """
    kinds = [outcomes for outcomes in pairs.values() if outcomes]
    if not kinds:
        return Interval(estimate=math.nan, low=-1.0, high=1.0, num=0)
    estimate = variance = 0.0
    for outcomes in kinds:
        gained = sum(second and not first for first, second in outcomes)
        lost = sum(first and not second for first, second in outcomes)
        estimate += (gained - lost) / len(outcomes) / len(kinds)
        adjusted = len(outcomes) + 2
        moved = (gained + lost + 1) / adjusted - ((gained - lost) / adjusted) ** 2
        variance += moved / adjusted / len(kinds) ** 2
    half = normal_quantile(confidence) * math.sqrt(variance)
    total = sum(len(outcomes) for outcomes in kinds)
    return Interval(estimate=estimate, low=max(-1.0, estimate - half), high=min(1.0, estimate + half), num=total)
