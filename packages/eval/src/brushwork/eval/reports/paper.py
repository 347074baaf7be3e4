"""The paper's numbers that a report puts beside ours (arXiv 2604.04746v3); those of its ablations are in `study`."""

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "arXiv 2604.04746v3"


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """One model of a table of scores.

    Attributes:
        label: the model, as the paper names it.
        kinds: category → score, in the paper's order.
        overall: as printed.
    """

    label: str
    kinds: Mapping[str, float]
    overall: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessBaseline:
    """One row of the paper's comparison of strategies.

    Attributes:
        strategy: what is compared.
        data: training samples, as printed; empty where nothing is trained.
        cost: denoising steps of one answer, the images of all candidates included.
        overall: GenEval's.
    """

    strategy: str
    data: str
    cost: int
    overall: float


def rows(kinds: tuple[str, ...], scores: Mapping[str, tuple[float, ...]]) -> tuple[PaperRow, ...]:
    """Model → the scores of the kinds, then the overall."""
    return tuple(
        PaperRow(label=label, kinds=dict(zip(kinds, own[:-1], strict=True)), overall=own[-1])
        for label, own in scores.items()
    )


GENEVAL_NAMES = {
    "single_object": "single",
    "two_object": "two",
    "counting": "counting",
    "colors": "colors",
    "position": "position",
    "color_attr": "color attr.",
}
"""GenEval's tag → the paper's column."""

SAME_AS = {"two_objects": "two_object", "color_attribution": "color_attr"}
"""The embedded world's kind → GenEval's tag, where they differ."""

GENEVAL = rows(
    tuple(GENEVAL_NAMES),
    {
        "FLUX.1-dev (12B)": (0.98, 0.93, 0.75, 0.93, 0.68, 0.65, 0.82),
        "Janus-Pro-7B": (0.99, 0.89, 0.59, 0.90, 0.79, 0.66, 0.80),
        "BAGEL-7B (re-run)": (0.99, 0.95, 0.76, 0.87, 0.51, 0.56, 0.77),
        "BAGEL-7B + process-driven": (0.99, 0.95, 0.75, 0.87, 0.72, 0.69, 0.83),
    },
)
"""GenEval, the paper's table of results."""

WISE = rows(
    ("culture", "time", "space", "biology", "physics", "chemistry"),
    {
        "FLUX.1-dev": (0.48, 0.58, 0.62, 0.42, 0.51, 0.35, 0.50),
        "BAGEL": (0.76, 0.69, 0.75, 0.64, 0.75, 0.58, 0.70),
        "BAGEL + process-driven": (0.74, 0.82, 0.73, 0.70, 0.76, 0.78, 0.76),
    },
)
"""WISE, the paper's table of results."""

PROCESS_BASELINES = (
    ProcessBaseline(strategy="BAGEL + GPT planner", data="", cost=50, overall=0.60),
    ProcessBaseline(strategy="BAGEL + GPT inspector", data="", cost=50, overall=0.80),
    ProcessBaseline(strategy="PARM, best of 20", data="400K", cost=1000, overall=0.67),
    ProcessBaseline(strategy="PARM, RL and best of 20", data="688K", cost=1000, overall=0.77),
    ProcessBaseline(strategy="process-driven SFT", data="62K", cost=131, overall=0.83),
)
"""The paper's comparison with other ways to reason on the way, on GenEval."""
