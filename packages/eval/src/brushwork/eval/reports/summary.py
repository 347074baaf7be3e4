"""What a report says in numbers: each arm by itself, and every pair of arms; all views and `results.json` read this."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from brushwork.eval.cost import CostTerm, cost_summary, paper_cost
from brushwork.eval.process import is_right, process_metrics
from brushwork.eval.reports.pairs import Pair, all_pairs, find
from brushwork.eval.reports.runs import Run
from brushwork.eval.reports.settings import arm_settings, asked, inequalities
from brushwork.eval.scores import aggregate, kind_score
from brushwork.eval.statistics import Interval
from brushwork.eval.verdicts import ScoredTrajectory

GENEVAL_KINDS = ("single_object", "two_objects", "counting", "colors", "position", "color_attribution")
"""The order in which kinds are shown where the benchmark names none; others follow as they come."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmSummary:
    """One arm in numbers.

    Attributes:
        name: of the arm.
        overall: the headline score; NaN where the benchmark allows none, as WISE where a verdict is missing.
        overalls: every overall score, the headline first.
        kinds: score of each kind, in the order of the table.
        judged: mean over all that was judged, whatever the kind.
        num_prompts: prompts asked.
        num_failures: rows without a verdict; they count neither for nor against.
        num_rejected: prompts that the sampler refused.
        num_missing: prompts not drawn yet.
        num_blank: answers without an image, which count against.
        difference: headline minus the baseline's on the same prompts; None for the baseline itself.
        cost: measured cost of an answer, see `cost_summary`.
        paper_cost: of an answer in the paper's unit; NaN where nothing was drawn.
        process: step-level metrics, see `process_metrics`.
        num_unjudged_drafts: inspected drafts on which the judge could not say, an unreadable plan for example; they are
            in none of the process metrics.
        rounds: how many answers took 1, 2, 3, … images.
        score_by_rounds: score of the answers that took so many images.
        stopped: why sampling ended → how often.
        training: last training step and minutes that the log tells, where there is a log.
        settings: what it was asked, drawn with and judged by, see `arm_settings`.
    """

    name: str
    overall: Interval
    overalls: Mapping[str, Interval]
    kinds: Mapping[str, Interval]
    judged: Interval
    num_prompts: int
    num_failures: int
    num_rejected: int
    num_missing: int
    num_blank: int
    difference: Interval | None
    cost: Mapping[str, CostTerm]
    paper_cost: float
    process: Mapping[str, Mapping[str, float]]
    num_unjudged_drafts: int
    rounds: tuple[int, ...]
    score_by_rounds: Mapping[int, Interval]
    stopped: Mapping[str, int]
    training: Mapping[str, float]
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A report in numbers.

    Attributes:
        benchmark: its name; empty where the runs do not tell.
        measure: "passed" or "score", as in `Scale`.
        weights: name of each overall score → weights of the kinds, none where all weigh the same.
        baseline: name of the arm with which the others are compared on the tiles.
        arms: in the order of the runs.
        pairs: every two arms on the same prompts.
        warnings: what makes the arms unequal beyond what is compared.
    """

    benchmark: str
    measure: str
    weights: Mapping[str, Mapping[str, float]]
    baseline: str
    arms: tuple[ArmSummary, ...]
    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...]


def summarise(runs: Sequence[Run], baseline: str | None = None, confidence: float = 0.95, seed: int = 0) -> Summary:
    """The numbers of all arms and pairs.

    Args:
        runs: the arms in their order, of one benchmark and scale.
        baseline: arm with which the others are compared; the first where it is None.
        confidence: of all intervals.
        seed: of the bootstrap.

    Raises:
        ValueError: no arm has the baseline's name.
    """
    names = [run.name for run in runs]
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline is {baseline!r}; expected one of the runs: {', '.join(names)}")
    baseline = baseline or names[0]
    pairs = all_pairs(runs, confidence, seed)
    scale = runs[0].scale
    return Summary(
        benchmark=next((run.benchmark for run in runs if run.benchmark), ""),
        measure=scale.measure,
        weights=scale.overalls,
        baseline=baseline,
        arms=tuple(summarise_run(run, find(pairs, baseline, run.name), confidence) for run in runs),
        pairs=tuple(pairs),
        warnings=tuple(inequalities(runs)),
    )


def summarise_run(run: Run, difference: Interval | None, confidence: float) -> ArmSummary:
    """The numbers of one arm, given its difference to the baseline."""
    num_prompts = len(asked(run))
    scores = aggregate(run.rows, run.scale, num_prompts, confidence)
    order = [*run.scale.kinds, *GENEVAL_KINDS, *scores.kinds]
    return ArmSummary(
        name=run.name,
        overall=next(iter(scores.overalls.values())),
        overalls=scores.overalls,
        kinds={kind: scores.kinds[kind] for kind in sorted(scores.kinds, key=order.index)},
        judged=scores.judged,
        num_prompts=num_prompts,
        num_failures=sum(row.failure is not None for row in run.rows),
        num_rejected=len(run.rejected),
        num_missing=run.num_missing,
        num_blank=sum(not row.rounds and row.failure is None for row in run.rows),
        difference=difference,
        cost=cost_summary(run.rows),
        paper_cost=paper_cost(run.rows),
        process=process_metrics(run.rows),
        num_unjudged_drafts=sum(
            draft.accepts is not None and is_right(row, draft) is None for row in run.rows for draft in row.drafts
        ),
        rounds=count_rounds(run.rows),
        score_by_rounds={
            number: kind_score([row for row in run.rows if row.rounds == number], run.scale, confidence)
            for number, count in enumerate(count_rounds(run.rows), 1)
            if count
        },
        stopped=count_stops(run.rows),
        training=training_so_far(run),
        settings=arm_settings(run),
    )


def count_rounds(rows: Sequence[ScoredTrajectory]) -> tuple[int, ...]:
    """How many answers took 1, 2, 3, … images; answers without an image are in none."""
    longest = max((row.rounds for row in rows), default=0)
    return tuple(sum(row.rounds == number for row in rows) for number in range(1, longest + 1))


def count_stops(rows: Sequence[ScoredTrajectory]) -> dict[str, int]:
    """Why sampling ended → how often, where the sampler says."""
    reasons = [row.stopped for row in rows if row.stopped is not None]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def training_so_far(run: Run) -> dict[str, float]:
    """`steps` (logged from 0) and `minutes` that the training log tells of; what the log does not tell is left out."""
    points = [point for curve in run.curves for point in curve.points]
    minutes = [minute for _, minute, _ in points if math.isfinite(minute)]
    told = {"steps": [step + 1 for step, _, _ in points], "minutes": minutes}
    return {name: max(values) for name, values in told.items() if values}


def to_json(summary: Summary) -> dict[str, Any]:
    """The summary as JSON-able values, arms by their name; what is not a number becomes null."""
    content = without_nan(asdict(summary))
    return {**{name: value for name, value in content.items() if name != "arms"}} | {
        "runs": {arm["name"]: arm for arm in content["arms"]}
    }


def without_nan(value: Any) -> Any:
    """The value with every NaN inside it replaced by None: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
