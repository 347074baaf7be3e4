"""What a report says of each arm in numbers; the page and `results.json` are two views of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from brushwork.eval.cost import CostTerm, cost_summary
from brushwork.eval.process import process_metrics
from brushwork.eval.runs import Run
from brushwork.eval.score import counts_by_kind, overall_score
from brushwork.eval.statistics import Interval, paired_difference, wilson
from brushwork.eval.verdicts import ScoredTrajectory

GENEVAL_KINDS = ("single_object", "two_objects", "counting", "colors", "position", "color_attribution")
"""The order in which kinds are shown; others follow as they come."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmSummary:
    """One arm in numbers.

    Attributes:
        name: of the arm.
        overall: macro average over the kinds.
        kinds: success rate of each kind, in the order of the table.
        num_prompts: prompts asked.
        num_failures: rows without a verdict.
        num_rejected: prompts that the sampler refused.
        num_missing: prompts not drawn yet.
        difference: overall minus the baseline's on the same prompts; None for the baseline itself.
        cost: measured cost of an answer, see `cost_summary`.
        process: step-level metrics, see `process_metrics`.
        num_unjudged_drafts: inspected drafts on which the judge could not say, an unreadable plan for example; they are
            in none of the process metrics.
        plan_shown: share of first drafts that show their plan, None where there are no plans to show.
        rounds: how many answers took 1, 2, 3, … images.
        stopped: why sampling ended → how often.
        training: last training step and minutes that the log tells, where there is a log.
    """

    name: str
    overall: Interval
    kinds: dict[str, Interval]
    num_prompts: int
    num_failures: int
    num_rejected: int
    num_missing: int
    difference: Interval | None
    cost: dict[str, CostTerm]
    process: dict[str, dict[str, float]]
    num_unjudged_drafts: int
    plan_shown: Interval | None
    rounds: tuple[int, ...]
    stopped: dict[str, int]
    training: dict[str, float]


def summarise(runs: Sequence[Run], baseline: str | None = None, confidence: float = 0.95) -> list[ArmSummary]:
    """The numbers of all arms.

    Args:
        runs: the arms in their order.
        baseline: arm with which the others are compared prompt by prompt; the first where it is None.
        confidence: of all intervals.

    Raises:
        ValueError: no arm has the baseline's name.
    """
    names = [run.name for run in runs]
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline is {baseline!r}; expected one of the runs: {', '.join(names)}")
    reference = runs[names.index(baseline)] if baseline else runs[0]
    return [summarise_run(run, reference, confidence) for run in runs]


def summarise_run(run: Run, reference: Run, confidence: float) -> ArmSummary:
    """The numbers of one arm beside the reference's."""
    counts = counts_by_kind(run.rows)
    kinds = [kind for kind in GENEVAL_KINDS if kind in counts] + [kind for kind in counts if kind not in GENEVAL_KINDS]
    asked = [sample["prompt"] for sample in run.samples.get("samples", [])] or [row.prompt for row in run.rows]
    planned = [row.drafts[0].shows_plan for row in run.rows if row.drafts and row.drafts[0].shows_plan is not None]
    return ArmSummary(
        name=run.name,
        overall=overall_score(run.rows, confidence),
        kinds={kind: wilson(*counts[kind], confidence) for kind in kinds},
        num_prompts=len(asked),
        num_failures=sum(row.failure is not None for row in run.rows),
        num_rejected=len(run.rejected),
        num_missing=run.num_missing,
        difference=None if run is reference else compare(reference.rows, run.rows, confidence),
        cost=cost_summary(run.rows),
        process=process_metrics(run.rows),
        num_unjudged_drafts=sum(
            draft.accepts is not None and draft.shows_plan is None for row in run.rows for draft in row.drafts
        ),
        plan_shown=wilson(sum(planned), len(planned), confidence) if planned else None,
        rounds=count_rounds(run.rows),
        stopped=count_stops(run.rows),
        training=training_so_far(run),
    )


def compare(reference: Sequence[ScoredTrajectory], rows: Sequence[ScoredTrajectory], confidence: float) -> Interval:
    """The paired difference in the overall score, over prompts with the same key and words that both arms answered."""
    known = {(row.key, row.prompt): row.passed for row in reference if row.passed is not None}
    pairs: dict[str, list[tuple[bool, bool]]] = {}
    for row in rows:
        before = known.get((row.key, row.prompt))
        if before is not None and row.passed is not None and not row.kind.startswith("ood"):
            pairs.setdefault(row.kind, []).append((before, row.passed))
    return paired_difference(pairs, confidence)


def count_rounds(rows: Sequence[ScoredTrajectory]) -> tuple[int, ...]:
    """How many answers took 1, 2, 3, … images; answers without an image are in none."""
    longest = max((row.rounds for row in rows), default=0)
    return tuple(sum(row.rounds == number for row in rows) for number in range(1, longest + 1))


def count_stops(rows: Sequence[ScoredTrajectory]) -> dict[str, int]:
    """Why sampling ended → how often, where the sampler says."""
    reasons = [row.stopped for row in rows if row.stopped is not None]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def training_so_far(run: Run) -> dict[str, float]:
    """`steps` and `minutes` at the end of the training log; what the log does not tell is left out."""
    points = [point for curve in run.curves for point in curve.points]
    minutes = [minute for _, minute, _ in points if math.isfinite(minute)]
    told = {"steps": [step for step, _, _ in points], "minutes": minutes}
    return {name: max(values) for name, values in told.items() if values}


def to_json(summary: ArmSummary) -> Mapping[str, Any]:
    """The summary as JSON-able values; what is not a number becomes null."""
    return without_nan(asdict(summary))


def without_nan(value: Any) -> Any:
    """The value with every NaN inside it replaced by None: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
