"""Step-level metrics that the paper does not report: does the model see its own errors, and does refining mend them?

All are measured on the model's *own* plans and drafts: an inspector that finds planted flaws can still be blind to the
malformed or missing objects that it draws itself. Right and wrong are what the judges of the run said: `is_right` of a
draft, `satisfies_prompt` of a draft as the final answer, `consistent` of a plan by the prompt. What a judge could not
say is in no count.

Each metric reads rows of `verdicts.jsonl` and counts, see `brushwork.eval.counting`: a rate without cases is NaN.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise

from torch import Tensor
from torchmetrics import Metric

from brushwork.eval.answers import FinalOutcome, Retention, ScoreByRounds
from brushwork.eval.counting import MAX_STEPS, add_sums, as_floats, counts
from brushwork.eval.verdicts import ScoredDraft, ScoredTrajectory


class InspectionQuality(Metric):
    """Precision, recall and F1 of the inspections of drafts, the positive class being "this draft is wrong".

    A draft is flagged where its inspection asked for a refinement, and wrong by `is_right`.

    `compute` returns float scalars: `precision` = flagged and wrong / flagged, `recall` = flagged and wrong / wrong,
    `f1`, and the counts `drafts`, `wrong`, `flagged`, `flagged_wrong`.
    """

    full_state_update = False
    drafts: Tensor
    wrong: Tensor
    flagged: Tensor
    flagged_wrong: Tensor

    def __init__(self) -> None:
        super().__init__()
        add_sums(self, "drafts", "wrong", "flagged", "flagged_wrong")

    def update(self, rows: Sequence[ScoredTrajectory]) -> None:
        """Count the drafts that were inspected and judged."""
        for accepts, right in ((draft.accepts, is_right(row, draft)) for row in rows for draft in row.drafts):
            if accepts is not None and right is not None:
                self.drafts += 1
                self.wrong += not right
                self.flagged += not accepts
                self.flagged_wrong += not accepts and not right

    def compute(self) -> dict[str, Tensor]:
        """The dictionary described above, over all updates."""
        return {
            "precision": self.flagged_wrong / self.flagged,
            "recall": self.flagged_wrong / self.wrong,
            "f1": 2 * self.flagged_wrong / (self.flagged + self.wrong),
            **counts(self),
        }


class RefineSuccess(Metric):
    """Of the refinements whose first draft was wrong, the share whose next draft is right.

    A refinement is a flagged draft with the next draft of the same step, see `refinements`.

    `compute` returns `rate` = mended / refined_wrong, and both counts, as float scalars.
    """

    full_state_update = False
    mended: Tensor
    refined_wrong: Tensor

    def __init__(self) -> None:
        super().__init__()
        add_sums(self, "mended", "refined_wrong")

    def update(self, rows: Sequence[ScoredTrajectory]) -> None:
        """Count the refinements of wrong drafts."""
        for before, after in (pair for row in rows for pair in refinements(row)):
            if not before:
                self.refined_wrong += 1
                self.mended += after

    def compute(self) -> dict[str, Tensor]:
        """The dictionary described above, over all updates."""
        return {"rate": self.mended / self.refined_wrong, **counts(self)}


class OverCorrection(Metric):
    """Of the refinements whose first draft was right already, the share whose next draft is wrong.

    `compute` returns `rate` = spoilt / refined_right, and both counts, as float scalars.
    """

    full_state_update = False
    spoilt: Tensor
    refined_right: Tensor

    def __init__(self) -> None:
        super().__init__()
        add_sums(self, "spoilt", "refined_right")

    def update(self, rows: Sequence[ScoredTrajectory]) -> None:
        """Count the refinements of right drafts."""
        for before, after in (pair for row in rows for pair in refinements(row)):
            if before:
                self.refined_right += 1
                self.spoilt += not after

    def compute(self) -> dict[str, Tensor]:
        """The dictionary described above, over all updates."""
        return {"rate": self.spoilt / self.refined_right, **counts(self)}


class PlanConsistency(Metric):
    """How often plans keep to the prompt: over plans, and over trajectories.

    A critic reads up to the first contradiction; later plans are not judged, so each trajectory adds at most one
    contradicting plan. A trajectory is judged where at least one of its plans is, and clean where none contradicts.

    `compute` returns `rate` = consistent / plans, `clean_rate` = clean / trajectories, and the four counts.
    """

    full_state_update = False
    plans: Tensor
    consistent: Tensor
    trajectories: Tensor
    clean: Tensor

    def __init__(self) -> None:
        super().__init__()
        add_sums(self, "plans", "consistent", "trajectories", "clean")

    def update(self, rows: Sequence[ScoredTrajectory]) -> None:
        """Count the plans that were judged, and their trajectories."""
        for row in rows:
            judged = [plan.consistent for plan in row.plans if plan.consistent is not None]
            self.plans += len(judged)
            self.consistent += sum(judged)
            self.trajectories += bool(judged)
            self.clean += bool(judged) and all(judged)

    def compute(self) -> dict[str, Tensor]:
        """The dictionary described above, over all updates."""
        return {
            "rate": self.consistent / self.plans,
            "clean_rate": self.clean / self.trajectories,
            **counts(self),
        }


class PlanAgreement(Metric):
    """Step by step, how often the first and the last draft show the plans so far.

    The first draft of a step tells how well the model draws what it plans, the last one how well after all refining.

    `compute` returns `first_rate` and `last_rate` over all steps, and the vectors `first_rate_step`,
    `first_drafts_step`, `last_rate_step`, `last_drafts_step`: by the number of the step, rates and judged drafts.
    """

    full_state_update = False
    first_shown: Tensor
    first_drafts: Tensor
    last_shown: Tensor
    last_drafts: Tensor

    def __init__(self) -> None:
        super().__init__()
        add_sums(self, "first_shown", "first_drafts", "last_shown", "last_drafts", size=MAX_STEPS)

    def update(self, rows: Sequence[ScoredTrajectory]) -> None:
        """Count the first and last drafts of all steps, where they were judged."""
        for _, step in (one for row in rows for one in groupby(row.drafts, key=lambda draft: draft.step)):
            first, *others = step
            last = others[-1] if others else first
            place = min(first.step, MAX_STEPS - 1)
            if first.shows_plan is not None:
                self.first_drafts[place] += 1
                self.first_shown[place] += first.shows_plan
            if last.shows_plan is not None:
                self.last_drafts[place] += 1
                self.last_shown[place] += last.shows_plan

    def compute(self) -> dict[str, Tensor]:
        """The dictionary described above, over all updates."""
        return {
            "first_rate": self.first_shown.sum() / self.first_drafts.sum(),
            "last_rate": self.last_shown.sum() / self.last_drafts.sum(),
            "first_rate_step": self.first_shown / self.first_drafts,
            "first_drafts_step": self.first_drafts.clone(),
            "last_rate_step": self.last_shown / self.last_drafts,
            "last_drafts_step": self.last_drafts.clone(),
        }


class Survival(Metric):
    """Step by step, how many of the objects that were to stay from a draft to the next have stayed.

    What was to stay, and what has, is what `ProcessJudges.survival` counted; the step is that of the later draft.
    Losses add up over a trajectory: at a rate of 0.95 an object outlives ten drafts six times in ten.

    `compute` returns `rate` = survived / stood, both counts, and the vectors `rate_step`, `stood_step`.
    """

    full_state_update = False
    stood: Tensor
    survived: Tensor

    def __init__(self) -> None:
        super().__init__()
        add_sums(self, "stood", "survived", size=MAX_STEPS)

    def update(self, rows: Sequence[ScoredTrajectory]) -> None:
        """Add up the objects of all drafts but the first, where they could be read."""
        for draft in (draft for row in rows for draft in row.drafts):
            if draft.stood is not None and draft.survived is not None:
                self.stood[min(draft.step, MAX_STEPS - 1)] += draft.stood
                self.survived[min(draft.step, MAX_STEPS - 1)] += draft.survived

    def compute(self) -> dict[str, Tensor]:
        """The dictionary described above, over all updates."""
        return {
            "rate": self.survived.sum() / self.stood.sum(),
            "stood": self.stood.sum(),
            "survived": self.survived.sum(),
            "rate_step": self.survived / self.stood,
            "stood_step": self.stood.clone(),
        }


METRICS = {
    "inspection": InspectionQuality,
    "refine_success": RefineSuccess,
    "over_correction": OverCorrection,
    "plan_consistency": PlanConsistency,
    "plan_agreement": PlanAgreement,
    "survival": Survival,
    "retention": Retention,
    "outcome": FinalOutcome,
    "rounds": ScoreByRounds,
}
"""All of them, by the names under which `process_metrics` returns them."""


def process_metrics(rows: Iterable[ScoredTrajectory]) -> dict[str, dict[str, float]]:
    """All metrics over the rows of one arm.

    Returns:
        Name (see `METRICS`) → the metric's dictionary as plain floats. A vector's entries are named by their numbers
        from 1 ("rate_step_1", "rate_step_2"), up to the last one with cases. What is not known is NaN.
    """
    rows = list(rows)
    found = {}
    for name, make in METRICS.items():
        metric = make()
        metric.update(rows)
        found[name] = as_floats(metric.compute())
    return found


def refinements(row: ScoredTrajectory) -> Iterator[tuple[bool, bool]]:
    """Whether drafts that the model refined were right, and the next draft of the same step, where both were judged."""
    for first, second in pairwise(row.drafts):
        before, after = is_right(row, first), is_right(row, second)
        if before is not None and after is not None and first.step == second.step and first.accepts is False:
            yield before, after


def is_right(row: ScoredTrajectory, draft: ScoredDraft) -> bool | None:
    """Whether a draft shows what was planned so far; without any plan, what the prompt asks for.

    A trajectory has plans where the judges speak of one, or where it has several steps: only a plan begins another.

    Returns:
        None where the judge could not say.
    """
    planned = bool(row.plans) or row.steps > 1 or any(one.reason for one in row.drafts)
    return draft.satisfies_prompt if draft.shows_plan is None and not planned else draft.shows_plan
