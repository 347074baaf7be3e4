"""Verdicts → scores on a benchmark's scale, with intervals; and `scores.json`, which says whose scores they are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from brushwork.eval.benchmark import Scale
from brushwork.eval.statistics import Interval, mean_score, weighted_mean, wilson
from brushwork.eval.verdicts import ScoredTrajectory, read_record

SCORES_FILE = "scores.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a run scored.

    Attributes:
        kinds: score of each kind, in the scale's order; NaN where nothing of it was judged.
        overalls: the overall scores, in the scale's order; NaN where the scale allows none.
        judged: mean over all rows that were judged, whatever their kind: not a benchmark's own number unless all were.
        num_asked: prompts asked.
        num_unjudged: of these, how many have no verdict: the judge failed, or there is no answer.
    """

    kinds: Mapping[str, Interval]
    overalls: Mapping[str, Interval]
    judged: Interval
    num_asked: int
    num_unjudged: int


def aggregate(
    rows: Sequence[ScoredTrajectory], scale: Scale, num_asked: int | None = None, confidence: float = 0.95
) -> Scores:
    """The scores of one run.

    Args:
        rows: its verdicts.
        scale: the benchmark's.
        num_asked: prompts asked, of which some may have no row; None: as many as there are rows.
        confidence: of all intervals.
    """
    asked = len(rows) if num_asked is None else num_asked
    found = dict.fromkeys((*scale.kinds, *(row.kind for row in rows)))
    kinds = {kind: kind_score([row for row in rows if row.kind == kind], scale, confidence) for kind in found}
    inside = {kind: score for kind, score in kinds.items() if not kind.startswith("ood") and score.num}
    counted = [row for row in rows if row.kind in inside]
    num_judged = sum(value_of(row, scale) is not None for row in rows)
    # A row without a weight, as of free prompts, takes no part in a weighted mean.
    needed = max(asked, scale.num_required) if scale.num_required else 0
    held_back = num_judged < needed
    return Scores(
        kinds=kinds,
        overalls={
            name: weighted_mean({} if held_back else inside, weights) for name, weights in scale.overalls.items()
        },
        judged=kind_score(counted, scale, confidence),
        num_asked=asked,
        num_unjudged=asked - num_judged,
    )


def value_of(row: ScoredTrajectory, scale: Scale) -> float | None:
    """A row on the scale, 0 to 1; None where it was not judged."""
    value = row.passed if scale.measure == "passed" else row.score
    return None if value is None else float(value)


def kind_score(rows: Sequence[ScoredTrajectory], scale: Scale, confidence: float = 0.95) -> Interval:
    """The mean over these rows; its limits speak of rows or of prompts, as the scale says."""
    judged = [(row.prompt, value) for row in rows if (value := value_of(row, scale)) is not None]
    values = [value for _, value in judged]
    if scale.unit == "row":
        passes = scale.measure == "passed"
        return wilson(sum(values), len(values), confidence) if passes else mean_score(values, confidence)
    by_prompt: dict[str, list[float]] = {}
    for prompt, value in judged:
        by_prompt.setdefault(prompt, []).append(value)
    clustered = mean_score([sum(some) / len(some) for some in by_prompt.values()], confidence)
    if not values:
        return clustered
    mean = sum(values) / len(values)  # over pictures, as the official scripts; prompts may have unequally many
    return Interval(estimate=mean, low=min(clustered.low, mean), high=max(clustered.high, mean), num=len(values))


def scores_json(scores: Scores, scale: Scale) -> dict[str, Any]:
    """Scale and scores as JSON-able values; what is not a number becomes null."""

    def interval(value: Interval) -> dict[str, Any]:
        return {**asdict(value), "estimate": value.estimate if value.estimate == value.estimate else None}

    return {
        "scale": asdict(scale),
        "scores": {
            "overalls": {name: interval(value) for name, value in scores.overalls.items()},
            "kinds": {name: interval(value) for name, value in scores.kinds.items()},
            "judged": interval(scores.judged),
            "num_asked": scores.num_asked,
            "num_unjudged": scores.num_unjudged,
        },
    }


def read_scores(folder: Path) -> dict[str, Any]:
    """What `lightning test` wrote beside the verdicts; empty where there is nothing, as in older runs.

    Raises:
        ValueError: the file is damaged.
    """
    return read_record(folder / SCORES_FILE, "score the predictions again")


def read_scale(scores: Mapping[str, Any]) -> Scale:
    """The scale that `scores.json` names; the plain one where it names none.

    Raises:
        ValueError: it is none that this version knows.
    """
    try:
        scale = dict(scores.get("scale", {}))
        return Scale(**{**scale, "kinds": tuple(scale.get("kinds", ()))})
    except TypeError as error:
        raise ValueError(f"{SCORES_FILE} names an unknown scale ({error}); score the predictions again") from error
