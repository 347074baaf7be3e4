"""The exact planner and inspector of the embedded world, in the model's place.

Both say what the training data of the embedded world say, in the same words: they are the upper bounds of what a
better planner or inspector would bring a trained model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from brushwork.critic.entailment import contradictions, planned_scene
from brushwork.critic.feedback import PLAN_ACCEPTED, plan_feedback
from brushwork.critic.judges.oracle import MAX_THINGS
from brushwork.critic.scene import INVERSE, Discrepancy, Relation, SceneGraph, diff
from brushwork.data.augment import Edit, change, remove, straight
from brushwork.data.subgraphs import subgraph
from brushwork.data.subsets.drawing import EMPTY, Drawing, shapes_drawing
from brushwork.data.subsets.multi_turn import applied, plans_of, way
from brushwork.data.tasks import Task
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.data.worlds.staging import arranged, corrected
from brushwork.tokens.roles import NoAnswer
from brushwork.tokens.trajectory import Image, Inspection, Plan, Step

_TRIES = 5
_SPLIT = "test"
"""An answer to a prompt may show what training data may not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OraclePlanner:
    """Plans as `subsets.multi_turn` does without detours: an object a step, in the prompt's order.

    What the prompt leaves open is drawn by chance from prompt and seed, so that equal prompts have equal plans. Where
    others have planned before, it goes on from there: first it mends what contradicts the prompt, a thing a step, then
    it adds what is missing; where there is no room for that, it begins anew.

    Attributes:
        world: reads prompts and plans, and knows where things can be.
        plan: "relational" or "located", see `subsets.drawing.Drawing`; as in the training data.
        max_steps: where the prompt asks for more objects, they share so many steps.
        seed: of what the prompt leaves open.
    """

    world: ShapesWorld = field(default_factory=ShapesWorld)
    plan: str = "relational"
    max_steps: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown plan style, or a number of steps in which nothing can be planned."""
        if self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}; expected at least 1")
        self._drawing()

    @property
    def name(self) -> str:
        """Name, version, and what the plans depend on."""
        return f"oracle-planner/1:{self.plan}:{self.max_steps}:{self.seed}"

    def __call__(self, prompt: str, steps: Sequence[Step]) -> Plan | NoAnswer | None:
        """The next plan, see `brushwork.tokens.roles.Planner`."""
        said = plans_of(steps)
        try:
            own = self.plans(prompt)
            if said == own[: len(said)]:
                return own[len(said)] if len(said) < len(own) else None
            return self._going_on(prompt, planned_scene(said, self.world.parse))
        except ValueError as error:
            return NoAnswer(reason=str(error))

    def plans(self, prompt: str) -> list[Plan]:
        """All plans from an empty canvas on.

        Raises:
            ValueError: a prompt that cannot be read, or that the world has no picture of.
        """
        drawing, plans, scene = self._drawing(), list[Plan](), EMPTY
        for edits in way(drawing, self.task(prompt), None):
            plans.append(drawing.words(scene, edits))
            scene = applied(scene, edits)
        return plans

    def task(self, prompt: str, planned: SceneGraph = EMPTY) -> Task:
        """The prompt with a scene that answers it, as a source of training data gives it.

        Args:
            prompt: the user's words.
            planned: what the scene begins with, as far as it has been planned; it contradicts nothing in the prompt.

        Raises:
            ValueError: as `plans`.
        """
        world, wanted, tolerance = self.world, self.world.parse(prompt), 0.5 / self.world.grid
        rng = np.random.default_rng([self.seed, *prompt.encode()])
        missing = diff(wanted, planned, tolerance=tolerance)
        for _ in range(_TRIES):
            whole = corrected(world, wanted, planned, missing, rng, finished=True)
            if len({one.noun for one in whole.objects}) < len(whole.objects):
                break
            scene = arranged(world, whole, EMPTY, rng, split=_SPLIT, finished=True)
            if scene is None or len(world.free_cells(scene)) + len(scene.objects) > world.grid**2:
                continue  # two things in one cell, which prompts and plans can ask for
            if not diff(wanted, scene, tolerance=tolerance):
                said = tuple(_from_the_earlier(one) for one in scene.relations)
                answer = SceneGraph(objects=scene.objects, relations=said)
                return Task(prompt=prompt, split=_SPLIT, rng=rng, scene=answer)
        raise ValueError(f"the world has no picture of {prompt!r} with things that differ, each in a cell of its own")

    def _going_on(self, prompt: str, planned: SceneGraph) -> Plan | None:
        """The next plan after plans of others.

        Raises:
            ValueError: they cannot be gone on from.
        """
        if len(planned.objects) > MAX_THINGS:
            raise ValueError(f"{len(planned.objects)} things are planned, more than can be compared")
        if self.plan == "located" and any(one.x is None for one in planned.objects):
            raise ValueError("the plans so far name no cells, as plan=located does; expected plan=relational")
        drawing = self._drawing()
        wrong = diff(self.world.parse(prompt), planned, tolerance=0.5 / self.world.grid)
        if not wrong:
            return None
        mended = next((_mended(planned, one) for one in wrong if one.seen is not None), None)
        if mended is not None and mended(planned).objects:
            return drawing.words(planned, [mended])
        number = len(planned.objects) if mended is None else 0
        try:
            stages = drawing.stages(self.task(prompt, subgraph(planned, number)))
        except ValueError:  # there is no place left for what is missing
            number, stages = 0, drawing.stages(self.task(prompt))
        stage = next(one for one in stages if len(one.objects) > number)
        if number < len(planned.objects):
            return drawing.words(planned, [*_cleared(planned), *straight(EMPTY, stage)])
        before = subgraph(stage, number)
        return drawing.words(before, straight(before, stage))

    def _drawing(self) -> Drawing:
        return shapes_drawing(self.world, plan=self.plan, max_images=self.max_steps)


def _from_the_earlier(one: Relation) -> Relation:
    """The relation as a prompt says it: of the object that comes first."""
    if one.subject < one.object:
        return one
    return Relation(subject=one.object, predicate=INVERSE[one.predicate], object=one.subject)


def _mended(planned: SceneGraph, wrong: Discrepancy) -> Edit:
    """Makes an object what it should be, or takes it away: what stands in a wrong place is added anew."""
    at = next(index for index, one in enumerate(planned.objects) if one is wrong.seen)
    before, wanted = planned.objects[at], wrong.wanted
    if wrong.kind in ("color", "shape") and wanted is not None:
        looks = {"color": wanted.color} if wrong.kind == "color" else {"name": wanted.name}
        after = replace(before, **looks)
        if all(after.noun != one.noun for one in planned.objects):
            return change(planned, at, after)
    return remove(planned, at)


def _cleared(planned: SceneGraph) -> list[Edit]:
    """Takes everything away."""
    edits: list[Edit] = []
    while planned.objects:
        edits.append(remove(planned, 0))
        planned = edits[-1](planned)
    return edits


@dataclass(frozen=True, kw_only=True, slots=True)
class OracleInspector:
    """Inspects drafts as the training data do: what its detector sees against what has been planned so far.

    Attributes:
        world: reads prompts, plans and pictures.
        check_plan: also says whether the plan fits the prompt, as the subset "conflict" does. Where it does not, the
            draft is compared with the plan set right.
    """

    world: ShapesWorld = field(default_factory=ShapesWorld)
    check_plan: bool = False

    @property
    def name(self) -> str:
        """Name and version."""
        return "oracle-inspector/1" + (":plans" if self.check_plan else "")

    def __call__(self, prompt: str, plans: Sequence[Plan], image: Image) -> Inspection | NoAnswer:
        """The inspection of a draft, see `brushwork.tokens.roles.Inspector`.

        Raises:
            ValueError: the image is not of the world's size.
        """
        world = self.world
        try:
            planned = planned_scene(plans, world.parse) if plans else world.parse(prompt)
            wanted = world.parse(prompt) if self.check_plan else planned
        except ValueError as error:
            return NoAnswer(reason=str(error))
        if (most := max(len(planned.objects), len(wanted.objects))) > MAX_THINGS:
            return NoAnswer(reason=f"too many things: {most} cannot be compared")
        wrong = contradictions(wanted, planned, finished=False, grid=world.grid) if self.check_plan else ()
        # Nothing is drawn by chance: what is missing has no colour to be chosen, since plans may be unfinished.
        right = corrected(world, wanted, planned, wrong, np.random.default_rng(0), finished=False) if wrong else planned
        seen = shapes_drawing(world).inspect(right, image)
        assert seen is not None, "such a drawing inspects"
        if wrong:
            return Inspection(plan_check=plan_feedback(wrong, grid=world.grid)[0], refine=seen.refine)
        return replace(seen, plan_check=PLAN_ACCEPTED if self.check_plan and plans else "")
