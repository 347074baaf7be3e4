"""Two arms on the same prompts: how far they lie apart, on how many prompts each is better, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from scipy.stats import binomtest

from brushwork.eval.benchmark import Scale
from brushwork.eval.reports.runs import Run
from brushwork.eval.scores import value_of
from brushwork.eval.statistics import Interval, bootstrap_difference, paired_difference

Values = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """What a comparison of two arms found, on prompts that both were judged on.

    Attributes:
        first: name of the arm that is subtracted.
        second: name of the other arm.
        difference: headline score of the second minus the first's; paired bootstrap, prompts drawn again kind by kind.
        closed_form: the same with limits that need no resampling and never collapse; None where kinds have weights.
        better: share of the resamples in which the second arm is better.
        wins: answers on which the second arm scores higher.
        losses: answers on which it scores lower.
        both: answers that both arms passed.
        neither: answers that neither passed.
        p_value: of the exact test that wins and losses are equally likely, which on passed and failed is McNemar's.
        num: answers compared.
        left_out: answers of either arm with no judged counterpart, or of a kind that is out of the headline.
    """

    first: str
    second: str
    difference: Interval
    closed_form: Interval | None
    better: float
    wins: int
    losses: int
    both: int
    neither: int
    p_value: float
    num: int
    left_out: int

    @property
    def ties(self) -> int:
        """Answers on which both arms score the same."""
        return self.num - self.wins - self.losses


def all_pairs(runs: Sequence[Run], confidence: float = 0.95, seed: int = 0) -> list[Pair]:
    """Every pair of arms, the earlier one first."""
    return [compare(first, second, confidence, seed) for first, second in combinations(runs, 2)]


def compare(first: Run, second: Run, confidence: float = 0.95, seed: int = 0) -> Pair:
    """The second arm against the first, on prompts with the same key and words.

    Args:
        first: the arm that is subtracted.
        second: the other arm, of the same benchmark and scale.
        confidence: of the intervals.
        seed: of the resampling.
    """
    scale = first.scale
    headline = next(iter(scale.overalls.values()), {})
    known = {(row.key, row.prompt): row for row in first.rows}
    values: dict[str, list[tuple[str, Values]]] = {}
    passes: list[tuple[bool | None, bool | None]] = []
    for row in second.rows:
        before = known.get((row.key, row.prompt))
        low = None if before is None else value_of(before, scale)
        high = value_of(row, scale)
        counts = row.kind in headline if headline else not row.kind.startswith("ood")
        if before is not None and low is not None and high is not None and counts:
            values.setdefault(row.kind, []).append((row.prompt, (low, high)))
            passes.append((before.passed, row.passed))
    pairs = by_unit(values, scale)
    difference, better = bootstrap_difference(pairs, headline, confidence, seed=seed)
    gains = [after - before for rows in values.values() for _, (before, after) in rows]
    wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return Pair(
        first=first.name,
        second=second.name,
        difference=difference,
        closed_form=None if headline else paired_difference(pairs, confidence),
        better=better,
        wins=wins,
        losses=losses,
        both=passes.count((True, True)),
        neither=passes.count((False, False)),
        p_value=sign_test(wins, losses),
        num=len(gains),
        left_out=len(first.rows) + len(second.rows) - 2 * len(gains),
    )


def by_unit(values: Mapping[str, Sequence[tuple[str, Values]]], scale: Scale) -> dict[str, list[Values]]:
    """Kind → what is to be drawn again: single pictures, or prompts with the mean of their pictures."""
    if scale.unit == "row":
        return {kind: [value for _, value in rows] for kind, rows in values.items()}
    means = {}
    for kind, rows in values.items():
        prompts: dict[str, list[Values]] = {}
        for prompt, value in rows:
            prompts.setdefault(prompt, []).append(value)
        means[kind] = [
            (sum(low for low, _ in some) / len(some), sum(high for _, high in some) / len(some))
            for some in prompts.values()
        ]
    return means


def sign_test(wins: int, losses: int) -> float:
    """The two-sided p-value of so unequal a split, were both sides equally likely; 1 without any."""
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def find(pairs: Sequence[Pair], first: str, second: str) -> Interval | None:
    """The difference of two arms whichever was subtracted, second minus first; None for an arm and itself."""
    for pair in pairs:
        if (pair.first, pair.second) == (first, second):
            return pair.difference
        if (pair.first, pair.second) == (second, first):
            return negated(pair.difference)
    return None


def negated(interval: Interval) -> Interval:
    """The interval of the opposite difference."""
    return Interval(estimate=-interval.estimate, low=-interval.high, high=-interval.low, num=interval.num)
