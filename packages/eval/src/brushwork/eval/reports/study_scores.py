"""Scores of a study's rows and their differences; what the intervals and tests count is the different prompts.

Where a kind has few prompts a benchmark asks them again with other seeds: sixty answers to nine prompts say how well
these nine are drawn, and no more than nine could of others. A draw is one asking of a prompt.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from brushwork.eval.reports.run_summary import RunSummary
from brushwork.eval.statistics import Interval, macro_average, paired_difference

Outcomes = Mapping[str, Mapping[tuple[str, str], bool]]
"""Of one run: kind → (key, digest of the prompt) → passed."""


def outcomes(run: RunSummary) -> Outcomes:
    """The verdicts by kind and draw; what has none is left out."""
    passed = {kind: answers.passed for kind, answers in run.answers.items()}
    return {kind: of_kind for kind, of_kind in passed.items() if of_kind}


def rate(runs: Sequence[Outcomes], kinds: Sequence[str]) -> Interval:
    """The macro average over the kinds, a draw counting as passed by the share of runs that passed it.

    The estimate of a kind is the mean over its draws; the interval, and its `num`, are those of as many trials as it
    has different prompts.
    """
    counts = {}
    for kind in kinds:
        draws = mean_by_draw(run.get(kind, {}) for run in runs)
        distinct = len({prompt for _, prompt in draws})
        counts[kind] = (sum(draws.values()) * distinct / len(draws) if draws else 0, distinct)
    return macro_average(counts)


def difference(first: Sequence[Outcomes], runs: Sequence[Outcomes], kinds: Sequence[str]) -> Interval:
    """How much better the runs are than the first row's on the draws that both were judged on.

    The estimate of a kind is the mean over the draws; the pairs, and `num`, are the different prompts.
    """
    return paired_difference({kind: paired_scores(first, runs, kind) for kind in kinds})


def paired_scores(first: Sequence[Outcomes], runs: Sequence[Outcomes], kind: str) -> list[tuple[float, float]]:
    """For each different prompt of a kind what the first row and the runs score on it.

    Draws that only one of them was judged on are left out. A score is the mean over the prompt's draws, times how often
    it was asked by the measure of the average prompt: so the mean over the prompts is the mean over the draws.
    """
    before, after = (mean_by_draw(run.get(kind, {}) for run in row) for row in (first, runs))
    both = [draw for draw in before if draw in after]
    sums: dict[str, tuple[float, float]] = {}
    for draw in both:
        low, high = sums.get(draw[1], (0.0, 0.0))
        sums[draw[1]] = low + before[draw], high + after[draw]
    return [(low * len(sums) / len(both), high * len(sums) / len(both)) for low, high in sums.values()]


def mean_by_draw(runs: Iterable[Mapping[tuple[str, str], bool]]) -> dict[tuple[str, str], float]:
    """(key, digest of the prompt) → share of the runs with a verdict on it that passed."""
    found: dict[tuple[str, str], list[bool]] = {}
    for run in runs:
        for draw, passed in run.items():
            found.setdefault(draw, []).append(passed)
    return {draw: fmean(passed) for draw, passed in found.items()}
