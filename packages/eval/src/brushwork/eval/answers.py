"""Metrics of where trajectories end: how, after how many rounds, and whether an answer that was reached is kept.

Each metric reads rows of `verdicts.jsonl` and counts, see `brushwork.eval.counting`: a rate without cases is NaN.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor
from torchmetrics import Metric

from brushwork.eval.counting import MAX_STEPS, add_sums, counts
from brushwork.eval.verdicts import ScoredTrajectory


class Retention(Metric):
    """Whether an answer that was reached is kept: peak, final state and what was lost in between.

    Counted over trajectories all of whose drafts were judged as answers. `peak`: some draft passes; `first` and
    `final`: the first, the last draft passes. Over pairs of neighbouring drafts, `passing` have a first that passes,
    and of these `regressions` a second that does not.

    `compute` returns `first_rate`, `peak_rate`, `final_rate` over `trajectories`; `rate` = final / peak, the retention;
    `lost` = peak - final; `regression_rate` = regressions / passing; and the counts.
    """

    full_state_update = False
    trajectories: Tensor
    first: Tensor
    peak: Tensor
    final: Tensor
    passing: Tensor
    regressions: Tensor

    def __init__(self) -> None:
        super().__init__()
        add_sums(self, "trajectories", "first", "peak", "final", "passing", "regressions")

    def update(self, rows: Sequence[ScoredTrajectory]) -> None:
        """Count the trajectories that were judged throughout."""
        for row in rows:
            passes = [bool(draft.satisfies_prompt) for draft in row.drafts if draft.satisfies_prompt is not None]
            if not passes or len(passes) < len(row.drafts):
                continue
            self.trajectories += 1
            self.first += passes[0]
            self.peak += any(passes)
            self.final += passes[-1]
            self.passing += sum(passes[:-1])
            self.regressions += sum(before and not after for before, after in pairwise(passes))

    def compute(self) -> dict[str, Tensor]:
        """The dictionary described above, over all updates."""
        return {
            "rate": self.final / self.peak,
            "first_rate": self.first / self.trajectories,
            "peak_rate": self.peak / self.trajectories,
            "final_rate": self.final / self.trajectories,
            "regression_rate": self.regressions / self.passing,
            "lost": self.peak - self.final,
            **counts(self),
        }


OUTCOMES = ("passed", "unfinished", "wrong", "no_image", "unjudged")
"""How a trajectory can end, see `outcome`."""


class FinalOutcome(Metric):
    """How trajectories end, by the verdict on their last image: each has one of `OUTCOMES`.

    `compute` returns the count of each outcome under its name, `trajectories`, and of each `<outcome>_rate`, its share
    of all trajectories.
    """

    full_state_update = False
    ends: Tensor

    def __init__(self) -> None:
        super().__init__()
        add_sums(self, "ends", size=len(OUTCOMES))

    def update(self, rows: Sequence[ScoredTrajectory]) -> None:
        """Count the ends."""
        for row in rows:
            self.ends[OUTCOMES.index(outcome(row))] += 1

    def compute(self) -> dict[str, Tensor]:
        """The dictionary described above, over all updates."""
        total = self.ends.sum()
        shares = {f"{name}_rate": count / total for name, count in zip(OUTCOMES, self.ends, strict=True)}
        return {"trajectories": total, **dict(zip(OUTCOMES, self.ends.clone(), strict=True)), **shares}


class ScoreByRounds(Metric):
    """The judge's mean score by the number of images that an answer took.

    No effect of rounds by itself: hard prompts take more of them.

    `compute` returns the vectors `score_rounds` and `answers_rounds`: mean score and number of judged answers.
    """

    full_state_update = False
    scores: Tensor
    answers: Tensor

    def __init__(self) -> None:
        super().__init__()
        add_sums(self, "scores", "answers", size=MAX_STEPS)

    def update(self, rows: Sequence[ScoredTrajectory]) -> None:
        """Add up the scores of answers that have an image and a verdict."""
        for row in rows:
            if row.drafts and row.score is not None:
                place = min(len(row.drafts), MAX_STEPS) - 1
                self.scores[place] += row.score
                self.answers[place] += 1

    def compute(self) -> dict[str, Tensor]:
        """The dictionary described above, over all updates."""
        return {"score_rounds": self.scores / self.answers, "answers_rounds": self.answers.clone()}


def outcome(row: ScoredTrajectory) -> str:
    """How a trajectory ended.

    "unjudged": there is no verdict; "no_image": nothing was drawn; "unfinished": nothing is wrong, something is
    missing; "wrong": every other failure, and every failure where the judge does not tell the two apart.
    """
    if row.passed is None:
        return "unjudged"
    if not row.drafts:
        return "no_image"
    if row.passed:
        return "passed"
    return "unfinished" if row.unfinished else "wrong"
