"""What sampling cost, as the sampler measured it: denoising steps, model forwards, text tokens, seconds."""

from collections.abc import Iterable
from dataclasses import dataclass

from brushwork.eval.verdicts import ScoredTrajectory

COST_TERMS = ("denoise_steps", "model_forwards", "text_tokens", "seconds")
"""The terms that samplers report under `meta["cost"]` of a trajectory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CostTerm:
    """One kind of cost over an arm.

    Attributes:
        total: sum over the trajectories that report it.
        mean: per answered prompt.
        num: trajectories that report it; the others are left out, not counted as free.
    """

    total: float
    mean: float
    num: int


def cost_summary(rows: Iterable[ScoredTrajectory]) -> dict[str, CostTerm]:
    """Totals and means per term, plus `rounds`: images drawn for one answer.

    Args:
        rows: the arm's verdicts.

    Returns:
        A term for each of `COST_TERMS` that at least one trajectory reports, and `rounds`.
    """
    rows = [row for row in rows if row.drafts]
    measured = {term: [float(row.cost[term]) for row in rows if term in row.cost] for term in COST_TERMS}
    measured["rounds"] = [float(row.rounds) for row in rows]
    return {
        term: CostTerm(total=sum(values), mean=sum(values) / len(values), num=len(values))
        for term, values in measured.items()
        if values
    }
