"""Who reads the process: plans against the prompt, drafts against the plans, and what stands from draft to draft."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.optimize import linear_sum_assignment

from brushwork.critic.entailment import planned_scene
from brushwork.critic.feedback import feedback
from brushwork.critic.judges.oracle import MAX_THINGS
from brushwork.critic.scene import GRID, SceneGraph, SceneObject, diff, parse_scene
from brushwork.critic.verdict import Judge, JudgeFailure, PlanCritic, Verdict
from brushwork.eval.verdicts import ScoredPlan
from brushwork.tokens.trajectory import Image, Plan, Trajectory


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
        """Passed where the picture shows the plans and nothing else; a failure where they cannot be read."""
        try:
            wanted = wanted_scene(plans, self.grid)
        except ValueError as error:
            return JudgeFailure(reason=str(error), judge=self.name)
        found = diff(wanted, self.detect(image), tolerance=0.5 / self.grid)
        reason = feedback(found, grid=self.grid).draft_check
        return Verdict(passed=not found, score=1 / (1 + len(found)), reason=reason, judge=self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessJudges:
    """All that the step-level metrics ask of a trajectory; what is None is not measured.

    Attributes:
        plan_judge: says whether a draft shows the plans so far.
        plan_critic: says which plan contradicts the prompt first.
        detect: image to the objects that stand in it, each with its place.
        grid: cells a side; an object has stayed where its centre has moved by no more than half a cell along each axis.
    """

    plan_judge: PlanJudge | None = None
    plan_critic: PlanCritic | None = None
    detect: Callable[[Image], SceneGraph] | None = None
    grid: int = GRID

    def plans(self, trajectory: Trajectory) -> tuple[ScoredPlan, ...]:
        """Whether each plan keeps to the prompt: plan-prompt consistency.

        A critic reads up to the first contradiction: the plans before it are consistent, those after it are not
        known. Of a trajectory that was cut off (`meta["stopped"]` is not "end") a last plan that the critic names is
        not known either: it may only leave out what was to follow.

        Returns:
            One record a plan, in order; none without a critic. Where the critic fails nothing is known of any.
        """
        numbers = [number for number, step in enumerate(trajectory.steps) if step.plan is not None]
        plans = [step.plan for step in trajectory.steps if step.plan is not None]
        if self.plan_critic is None or not plans:
            return ()
        verdict = self.plan_critic(trajectory.prompt, plans)
        if isinstance(verdict, JudgeFailure):
            return tuple(ScoredPlan(step=number, consistent=None, reason=verdict.reason) for number in numbers)
        first = len(plans) if verdict.step is None else verdict.step
        cut_off = trajectory.meta.get("stopped", "end") != "end" and first == len(plans) - 1
        known = [True] * first + [None if cut_off else False] + [None] * len(plans)
        reason = f"cut off: {verdict.analysis}" if cut_off else verdict.analysis
        return tuple(
            ScoredPlan(step=number, consistent=known[place], reason=reason if place == first else "")
            for place, number in enumerate(numbers)
        )

    def shows(self, plans: Sequence[Plan], image: Image) -> tuple[bool | None, str]:
        """Whether a draft shows the plans so far, and the judge's words: plan-image agreement.

        Returns:
            None and no words without a plan or a judge; None and the reason where the judge cannot say.
        """
        if self.plan_judge is None or not plans:
            return None, ""
        verdict = self.plan_judge(plans, image)
        return (None if isinstance(verdict, JudgeFailure) else verdict.passed), verdict.reason

    def survival(self, plans: Sequence[Plan], before: Image, after: Image) -> tuple[int, int] | None:
        """How many objects that were to stay have stayed: object survival. See `count_survivors`.

        Args:
            plans: of all steps so far, that of `after` the last: what it removes, swaps or moves need not stay.
            before: the draft before.
            after: the next draft.

        Returns:
            Objects that stood in `before` and were to stay, and how many of them did; None without a plan or a
            detector, and where the plans cannot be read.
        """
        if self.detect is None or not plans:
            return None
        try:
            wanted = wanted_scene(plans, self.grid)
        except ValueError:
            return None
        return count_survivors(wanted, self.detect(before), self.detect(after), tolerance=0.5 / self.grid)


def wanted_scene(plans: Sequence[Plan], grid: int) -> SceneGraph:
    """The scene that plans of the embedded world ask for so far.

    Raises:
        ValueError: the last description cannot be read, or names so much that it cannot be compared.
    """
    wanted = planned_scene(plans, partial(parse_scene, grid=grid))
    if (number := len(wanted.objects)) > MAX_THINGS:
        raise ValueError(f"too many things: a plan of {number} cannot be compared, expected at most {MAX_THINGS}")
    return wanted


def count_survivors(wanted: SceneGraph, before: SceneGraph, after: SceneGraph, tolerance: float) -> tuple[int, int]:
    """Counts the objects that were to stay, and those that did.

    An object of `before` was to stay where `diff` has nothing against it: it is wanted, and neither its shape, colour
    or place nor a relation asks for a change. It has stayed where `after` has an object of the same noun (attributes,
    colour, name) within `tolerance` of its place, each object there standing for one only. Where it is left open
    which of several are to stay (two of three equal circles), those that stayed are taken.

    Args:
        wanted: what the plans so far ask for.
        before: what stands in the draft before; its objects have places.
        after: what stands in the next draft; its objects have places.
        tolerance: fraction of the canvas by which a centre may be off along each axis.

    Returns:
        Objects that were to stay, and how many of them stayed.
    """
    stayed = staying(before.objects, after.objects, tolerance)
    # `diff` prefers, of what can be paired alike, what comes first.
    ordered = tuple(sorted(before.objects, key=lambda one: one not in stayed))
    at_fault = {one.seen for one in diff(wanted, SceneGraph(objects=ordered), tolerance=tolerance)}
    stood = [one for one in ordered if one not in at_fault]
    return len(stood), sum(one in stayed for one in stood)


def staying(before: Sequence[SceneObject], after: Sequence[SceneObject], tolerance: float) -> set[SceneObject]:
    """The objects of `before` that `after` has, too, paired one to one so that they are as many as possible."""
    same = np.zeros((len(before), len(after)), dtype=bool)
    for row, one in enumerate(before):
        for column, other in enumerate(after):
            (x, y), (new_x, new_y) = one.centre, other.centre
            same[row, column] = one.noun == other.noun and max(abs(x - new_x), abs(y - new_y)) <= tolerance
    pairs = zip(*linear_sum_assignment(same, maximize=True), strict=True)
    return {before[row] for row, column in pairs if same[row, column]}
