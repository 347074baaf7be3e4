"""The exact judges of the embedded world: of a picture by its prompt, and of plans by theirs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from brushwork.critic.entailment import contradictions, planned_scene
from brushwork.critic.feedback import feedback, plan_feedback
from brushwork.critic.scene import GRID, Discrepancy, SceneGraph, diff, parse_scene
from brushwork.critic.verdict import JudgeFailure, PlanVerdict, Verdict
from brushwork.tokens.trajectory import Image, Plan

MAX_THINGS = 12
"""A plan that rambles on would be compared for minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OracleJudge:
    """Judges prompts and `<des>` descriptions alike; as exact as its detector.

    The score is 1 / (1 + number of discrepancies), hence 1 exactly where the verdict is passed.

    Attributes:
        detect: image to the scene that it shows, such as `ShapesDetector` of brushwork.data.
        parse: text to the scene that it asks for; raises ValueError on words that it does not know.
        grid: cells a side; centres may be off by half a cell.
    """

    detect: Callable[[Image], SceneGraph]
    parse: Callable[[str], SceneGraph] = parse_scene
    grid: int = GRID
    name: str = "oracle/1"

    def __call__(self, prompt: str, image: Image) -> Verdict | JudgeFailure:
        """Passed where the picture shows all that the prompt asks for and nothing else.

        It is unfinished where all that is wrong with it is things that are missing. Its `details` list the
        `discrepancies`, see `told`. A prompt that cannot be read is a failure of the judge; an image of another size is
        the caller's ValueError.
        """
        try:
            wanted = self.parse(prompt)
        except ValueError as error:
            return JudgeFailure(reason=str(error), judge=self.name)
        found = diff(wanted, self.detect(image), tolerance=0.5 / self.grid)
        reason = feedback(found, grid=self.grid).draft_check if found else "the picture shows the prompt"
        return Verdict(
            passed=not found,
            score=1 / (1 + len(found)),
            reason=reason,
            judge=self.name,
            unfinished=bool(found) and all(one.seen is None for one in found),
            details={"discrepancies": [told(one, self.grid) for one in found]},
        )


def told(one: Discrepancy, grid: int = GRID) -> dict[str, Any]:
    """A discrepancy as JSON-able values: its kind, the nouns wanted and seen (None where there is none), in words."""
    return {
        "kind": one.kind,
        "wanted": None if one.wanted is None else one.wanted.noun,
        "seen": None if one.seen is None else one.seen.noun,
        "check": feedback([one], grid=grid).draft_check,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class OraclePlanCritic:
    """Says exactly which plan departs from the prompt first, and how.

    What a later plan takes back is no conflict: a ring that is added and removed again, a circle that is drawn in one
    colour and turned into another. So the last plan says what is wrong, and the first plan since which it is wrong is
    the one to be mended. Where nothing but the rest is missing, that is the last one.

    Attributes:
        parse: text to the scene that it asks for; raises ValueError on words that it does not know.
        grid: cells a side.
    """

    parse: Callable[[str], SceneGraph] = parse_scene
    grid: int = GRID
    name: str = "oracle-plan-critic/1"

    def __call__(self, prompt: str, plans: Sequence[Plan]) -> PlanVerdict | JudgeFailure:
        """The verdict; a failure where the prompt or a description cannot be read, or nothing is planned."""
        if not plans:
            return JudgeFailure(reason="there is no plan to judge", judge=self.name)
        try:
            wanted = self.parse(prompt)
            scenes = [planned_scene(plans[: end + 1], self.parse) for end in range(len(plans))]
        except ValueError as error:
            return JudgeFailure(reason=str(error), judge=self.name)
        if (most := max(len(scene.objects) for scene in scenes)) > MAX_THINGS:
            return JudgeFailure(reason=f"too many things: a plan of {most} cannot be compared", judge=self.name)
        last = len(plans) - 1
        wrong = [
            set(contradictions(wanted, scene, finished=number == last, grid=self.grid))
            for number, scene in enumerate(scenes)
        ]
        if not wrong[-1]:
            analysis, refine = plan_feedback(())
            return PlanVerdict(step=None, analysis=analysis, refine=refine, judge=self.name)
        step = last
        while step and wrong[step - 1] & wrong[-1]:
            step -= 1
        found = contradictions(wanted, scenes[step], finished=step == last, grid=self.grid)
        analysis, refine = plan_feedback(found, grid=self.grid)
        return PlanVerdict(step=step, analysis=analysis, refine=refine, judge=self.name)
