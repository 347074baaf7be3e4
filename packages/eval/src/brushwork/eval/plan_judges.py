"""Does a draft show what has been planned so far? The truth behind the step-level metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

from brushwork.critic.entailment import planned_scene
from brushwork.critic.feedback import feedback
from brushwork.critic.scene import GRID, SceneGraph, diff, parse_scene
from brushwork.critic.verdict import Judge, JudgeFailure, Verdict
from brushwork.tokens.trajectory import Image, Plan


@runtime_checkable
class PlanJudge(Protocol):
    """Whether a draft shows the plans that led to it."""

    def __call__(self, plans: Sequence[Plan], image: Image) -> Verdict | JudgeFailure:
        """Judge a draft by the plans of all steps so far, its own the last."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DescriptionJudge:
    """Any judge of prompts as a judge of plans: the draft must show the last plan's description.

    Attributes:
        judge: judges the description as if it were a prompt.
    """

    judge: Judge

    def __call__(self, plans: Sequence[Plan], image: Image) -> Verdict | JudgeFailure:
        """Judge the last description."""
        return self.judge(plans[-1].description, image)


@dataclass(frozen=True, kw_only=True, slots=True)
class OraclePlanJudge:
    """The exact judge of plans in the embedded world.

    The scene wanted is what `planned_scene` reads: the last description with the relations said so far.

    Attributes:
        detect: image to the scene that it shows.
        grid: cells a side; centres may be off by half a cell.
        name: of the judge, with its version.
    """

    detect: Callable[[Image], SceneGraph]
    grid: int = GRID
    name: str = "oracle-plan/1"

    def __call__(self, plans: Sequence[Plan], image: Image) -> Verdict | JudgeFailure:
        """Passed where the picture shows the plans and nothing else; a failure where the description is unreadable."""
        try:
            wanted = planned_scene(plans, partial(parse_scene, grid=self.grid))
        except ValueError as error:
            return JudgeFailure(reason=str(error), judge=self.name)
        found = diff(wanted, self.detect(image), tolerance=0.5 / self.grid)
        reason = feedback(found, grid=self.grid).draft_check
        return Verdict(passed=not found, score=1 / (1 + len(found)), reason=reason, judge=self.name)
