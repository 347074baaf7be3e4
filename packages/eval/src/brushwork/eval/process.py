"""Step-level metrics that the paper does not report: does the model see its own errors, and does refining mend them?

All three are measured on the model's *own* drafts: an inspector that finds planted flaws can still be blind to the
malformed or missing objects that it draws itself. The truth of a draft is `shows_plan`, the judge's verdict on draft
and plan.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from jaxtyping import Bool
from torch import Tensor
from torchmetrics import Metric

from brushwork.eval.verdicts import ScoredDraft, ScoredTrajectory


class InspectionQuality(Metric):
    """Precision, recall and F1 of the model's inspections, the positive class being "this draft is wrong".

    `compute` returns a dictionary of float scalars: `precision`, `recall`, `f1` (NaN where their denominator is zero:
    nothing flagged, nothing wrong) and the counts `drafts`, `wrong`, `flagged`, `flagged_wrong`.
    """

    full_state_update = False
    drafts: Tensor
    wrong: Tensor
    flagged: Tensor
    flagged_wrong: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("drafts", "wrong", "flagged", "flagged_wrong"):
            self.add_state(name, default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, flagged: Bool[Tensor, " n"], wrong: Bool[Tensor, " n"]) -> None:
        """Count inspected drafts.

        Args:
            flagged: the model's inspection asked for a refinement.
            wrong: the judge says that the draft does not show its plan.
        """
        self.drafts += flagged.numel()
        self.wrong += wrong.sum()
        self.flagged += flagged.sum()
        self.flagged_wrong += (flagged & wrong).sum()

    def compute(self) -> dict[str, Tensor]:
        """The dictionary described above, over all updates."""
        return {
            "precision": self.flagged_wrong / self.flagged,
            "recall": self.flagged_wrong / self.wrong,
            "f1": 2 * self.flagged_wrong / (self.flagged + self.wrong),
            "drafts": self.drafts.float(),
            "wrong": self.wrong.float(),
            "flagged": self.flagged.float(),
            "flagged_wrong": self.flagged_wrong.float(),
        }


class RefineSuccess(Metric):
    """Of the refinements whose first draft was wrong, the share whose next draft is right.

    `compute` returns `rate` (NaN without any such refinement), `mended` and `refined_wrong` as float scalars.
    """

    full_state_update = False
    mended: Tensor
    refined_wrong: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("mended", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("refined_wrong", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, wrong_before: Bool[Tensor, " n"], wrong_after: Bool[Tensor, " n"]) -> None:
        """Count refinements, each a draft and the draft that replaced it."""
        self.refined_wrong += wrong_before.sum()
        self.mended += (wrong_before & ~wrong_after).sum()

    def compute(self) -> dict[str, Tensor]:
        """The dictionary described above, over all updates."""
        return {
            "rate": self.mended / self.refined_wrong,
            "mended": self.mended.float(),
            "refined_wrong": self.refined_wrong.float(),
        }


class OverCorrection(Metric):
    """Of the refinements whose first draft was right already, the share whose next draft is wrong.

    `compute` returns `rate` (NaN without any such refinement), `spoilt` and `refined_right` as float scalars.
    """

    full_state_update = False
    spoilt: Tensor
    refined_right: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("spoilt", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("refined_right", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, wrong_before: Bool[Tensor, " n"], wrong_after: Bool[Tensor, " n"]) -> None:
        """Count refinements, each a draft and the draft that replaced it."""
        self.refined_right += (~wrong_before).sum()
        self.spoilt += (~wrong_before & wrong_after).sum()

    def compute(self) -> dict[str, Tensor]:
        """The dictionary described above, over all updates."""
        return {
            "rate": self.spoilt / self.refined_right,
            "spoilt": self.spoilt.float(),
            "refined_right": self.refined_right.float(),
        }


def process_metrics(rows: Iterable[ScoredTrajectory]) -> dict[str, dict[str, float]]:
    """All three metrics over the rows of one arm.

    Args:
        rows: the arm's verdicts. Drafts that were not inspected, or on which the judge could not say, are left out.

    Returns:
        `inspection`, `refine_success` and `over_correction`, each the metric's dictionary as plain floats.
    """
    rows = list(rows)
    drafts = [draft for row in rows for draft in row.drafts]
    inspected = [draft for draft in drafts if draft.accepts is not None and draft.shows_plan is not None]
    refined = [pair for row in rows for pair in refinements(row)]
    flagged = as_tensor(not draft.accepts for draft in inspected)
    wrong = as_tensor(not draft.shows_plan for draft in inspected)
    before = as_tensor(not first.shows_plan for first, _ in refined)
    after = as_tensor(not second.shows_plan for _, second in refined)
    inspection, success, spoiling = InspectionQuality(), RefineSuccess(), OverCorrection()
    inspection.update(flagged, wrong)
    success.update(before, after)
    spoiling.update(before, after)
    metrics = {"inspection": inspection, "refine_success": success, "over_correction": spoiling}
    return {name: {key: value.item() for key, value in metric.compute().items()} for name, metric in metrics.items()}


def as_tensor(values: Iterable[bool]) -> Bool[Tensor, " n"]:
    """Truth values as a tensor, boolean even where there are none."""
    return torch.tensor(list(values), dtype=torch.bool)


def refinements(row: ScoredTrajectory) -> Iterator[tuple[ScoredDraft, ScoredDraft]]:
    """Drafts that the model refined, each with the next draft of the same step, where both could be judged."""
    for first, second in pairwise(row.drafts):
        known = first.shows_plan is not None and second.shows_plan is not None
        if known and first.step == second.step and first.accepts is False:
            yield first, second
