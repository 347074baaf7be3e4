"""Does a draft show what has been planned so far? The truth behind the step-level metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from brushwork.critic.feedback import feedback
from brushwork.critic.scene import GRID, Relation, SceneGraph, SceneObject, diff, parse_scene
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

    The scene wanted is the last description, with the relations that the instructions so far have said ("add a ring
    above the red circle"): relational descriptions name things, not places. A relation between things that the last
    description does not name exactly once cannot be checked and is left out, as is an instruction that cannot be read.

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
            objects = parse_scene(plans[-1].description, grid=self.grid).objects
        except ValueError as error:
            return JudgeFailure(reason=str(error), judge=self.name)
        relations = tuple(relation for plan in plans for relation in self.said(plan.instruction, objects))
        wanted = SceneGraph(objects=objects, relations=relations)
        found = diff(wanted, self.detect(image), tolerance=0.5 / self.grid)
        reason = feedback(found, grid=self.grid).draft_check
        return Verdict(passed=not found, score=1 / (1 + len(found)), reason=reason, judge=self.name)

    def said(self, instruction: str, objects: Sequence[SceneObject]) -> list[Relation]:
        """The relations of an instruction, between these objects."""
        words = ["a" if word == "the" else word for word in instruction.split()]
        try:
            scene = parse_scene(" ".join(words[1:] if words[:1] == ["add"] else words), grid=self.grid)
        except ValueError:
            return []
        places = [[index for index, one in enumerate(objects) if one.noun == named.noun] for named in scene.objects]
        return [
            Relation(subject=places[one.subject][0], predicate=one.predicate, object=places[one.object][0])
            for one in scene.relations
            if len(places[one.subject]) == len(places[one.object]) == 1
        ]
