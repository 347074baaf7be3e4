"""What sampling cost, as the sampler measured it: by term, by prompt and by image, and in the paper's own unit."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev

from brushwork.eval.verdicts import ScoredTrajectory

PEAK = "peak_memory_mib"
COST_TERMS = (
    "denoise_steps",
    "model_forwards",
    "images",
    "text_tokens",
    "external_calls",
    "seconds",
    PEAK,
)
"""The terms that samplers report under `meta["cost"]` of a trajectory.

    denoise_steps: steps of the solver over all images, rejected ones included. BAGEL's `num_timesteps` 50 are 49.
    model_forwards: passes of the network for them, guidance branches counted: up to three a step.
    images: all images sampled for the answer, rejected candidates included.
    text_tokens: written by the model.
    external_calls: of planners, inspectors, verifiers and endpoints outside the model.
    seconds: wall time; shared out evenly where prompts were drawn together.
    peak_memory_mib: most memory held on the device while the prompt's batch was drawn.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CostTerm:
    """One kind of cost over an arm.

    Attributes:
        total: sum over the trajectories that report it; of peak memory, which does not add up, the largest.
        mean: per answered prompt.
        deviation: sample standard deviation over prompts; None where fewer than two report it.
        num: trajectories that report it; the others are left out, not counted as free.
        per_image: total by the images that these trajectories sampled, see `images_of`; None for peak memory.
    """

    total: float
    mean: float
    deviation: float | None
    num: int
    per_image: float | None


def cost_summary(rows: Iterable[ScoredTrajectory]) -> dict[str, CostTerm]:
    """Every term per prompt and per image, plus `rounds`: images in an answer, without rejected candidates.

    Args:
        rows: the arm's verdicts; those without an image are left out.

    Returns:
        A term for each of `COST_TERMS` that at least one trajectory reports, and `rounds`.
    """
    rows = [row for row in rows if row.drafts]
    reported = {term: [row for row in rows if term in row.cost] for term in COST_TERMS}
    summary = {
        term: cost_term([float(row.cost[term]) for row in some], images_of(some), peak=term == PEAK)
        for term, some in reported.items()
        if some
    }
    if rows:
        summary["rounds"] = cost_term([float(row.rounds) for row in rows], images_of(rows))
    return summary


def cost_term(values: list[float], images: float, *, peak: bool = False) -> CostTerm:
    """One term from its values, one a trajectory and at least one.

    Args:
        values: what the trajectories report.
        images: that they sampled together.
        peak: the values do not add up.
    """
    return CostTerm(
        total=max(values) if peak else sum(values),
        mean=mean(values),
        deviation=stdev(values) if len(values) > 1 else None,
        num=len(values),
        per_image=None if peak or not images else sum(values) / images,
    )


def images_of(rows: Iterable[ScoredTrajectory]) -> float:
    """Images sampled for these answers, rejected candidates included where the sampler reports them."""
    return sum(float(row.cost.get("images", row.rounds)) for row in rows)


def paper_cost(rows: Iterable[ScoredTrajectory], num_timesteps: int = 50) -> float:
    """The paper's "inference cost": mean images sampled for an answer × timesteps of the sampler.

    The paper does not define its unit; its three figures agree with this reading: 50 = one image at 50 timesteps (a
    planner or inspector outside costs nothing), 131 = 2.62 images × 50, 1000 = best of 20 × 50. What it does not count:
    text tokens, calls of other models, the passes that guidance multiplies. Nor does it say whether drafts take fewer
    steps; here every image counts in full, whatever it took. `denoise_steps` counts what was run: 49 an image where
    BAGEL's `num_timesteps` is 50, since the last timestep is the end and no step, and less for quick drafts.

    Args:
        rows: the arm's verdicts; those without an image are left out.
        num_timesteps: of an image, in BAGEL's count: one more than steps of the network.

    Returns:
        Sampling steps an answer; NaN where there is no answer.
    """
    rows = [row for row in rows if row.drafts]
    return num_timesteps * images_of(rows) / len(rows) if rows else math.nan
