"""How the steps of a training trajectory are worded, drawn and inspected; what all subsets share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brushwork.critic.caption import caption
from brushwork.critic.feedback import PLAN_ACCEPTED, feedback
from brushwork.critic.scene import SceneGraph, describe, diff
from brushwork.critic.verdict import Judge, JudgeFailure
from brushwork.data.augment import Edit, instruction
from brushwork.data.editors.renderer import RendererEditor
from brushwork.data.subgraphs import expand
from brushwork.data.tasks import Editor, Task, Unfit
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.data.worlds.staging import related, unplaced
from brushwork.tokens.trajectory import Draft, Image, Inspection, Plan, Step

PLAN_STYLES = ("relational", "located")
EMPTY = SceneGraph(objects=())


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Words, pictures and inspections of steps.

    Attributes:
        editor: carries out each step's instruction on the picture before it.
        world: the embedded world that tasks come from: it knows relations, places and what a split may show, and its
            detector inspects. None for corpora, whose drafts only a judge can check.
        plan: "relational" says where an object goes by an earlier one ("add a blue square right of the red circle"),
            so that the place must be read from the picture; "located" names cells ("add a blue square at c1").
        critique: drafts are inspected. Needs the world.
        check_plan: inspections also say that the plan fits the prompt.
        judge: tasks with a draft that does not show its plan's description are rejected; None checks nothing.
        rewrite: says an instruction in other words, such as `LLMRewriter`; RuntimeError where it cannot. None takes the
            template's.
        parse: reads the scene of a prompt that comes without one, such as `FactualParser`; ValueError where it cannot.
        max_images: pictures that may be drawn for a prompt, refined ones not counted.
    """

    editor: Editor
    world: ShapesWorld | None = None
    plan: str = "relational"
    critique: bool = False
    check_plan: bool = False
    judge: Judge | None = None
    rewrite: Callable[[str], str] | None = None
    parse: Callable[[str], SceneGraph] | None = None
    max_images: int = 5

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown plan style, or settings that ask for a world where there is none."""
        if self.plan not in PLAN_STYLES:
            raise ValueError(f"plan={self.plan!r}: expected one of {PLAN_STYLES}")
        if self.world is None and (self.critique or self.plan == "located"):
            raise ValueError(
                "critique=true and plan=located need the embedded world, whose detector inspects and names cells; for "
                "a corpus: subset=multi_turn, alignment_genref, or conflict with subset.drawing.critique=false and a "
                "judge"
            )

    def stages(self, task: Task) -> list[SceneGraph]:
        """The scene after each step of the straight way.

        Raises:
            Unfit: the task has no scene, and none can be read from its prompt.
        """
        scene = task.scene
        if scene is None and self.parse is not None:
            try:
                scene = self.parse(task.prompt)
            except ValueError as error:
                transient = getattr(error.__cause__, "transient", False)  # a language model that is out of reach
                raise Unfit(f"the prompt cannot be read: {error}", transient=transient) from error
        if scene is None or not scene.objects:
            raise Unfit("the prompt has no scene graph")
        if self.world is not None and any(one.x is None for one in scene.objects):
            raise ValueError(
                f"the scene of {task.prompt!r} has no places, as those of the embedded world have; for a corpus leave "
                "the world out: '~world'"
            )
        if self.world is not None:
            scene = related(self.world, scene, task.rng) if self.plan == "relational" else placed_only(scene)
        return expand(scene, self.max_images)

    def said(self, scene: SceneGraph) -> SceneGraph:
        """What plans say of a scene."""
        return scene if self.world is None or self.plan == "located" else unplaced(scene)

    def words(self, before: SceneGraph, edits: Sequence[Edit], *, flawed: bool = False) -> Plan:
        """A step's plan: its edits as commands, and the scene after them."""
        grid = self.world.grid if self.world is not None and self.plan == "located" else None
        commands, scene = [], before
        for edit in edits:
            commands.append(instruction(scene, edit, grid=grid))
            scene = edit(scene)
        said = self._rewritten(" and ".join(commands))
        return Plan(instruction=said, description=self.description(scene), flawed=flawed)

    def _rewritten(self, command: str) -> str:
        try:
            return self.rewrite(command) if self.rewrite else command
        except RuntimeError as error:  # such as ChatError, whose module is an extra
            raise Unfit(f"the rewriter failed: {error}", transient=True, command=command) from error

    def description(self, scene: SceneGraph) -> str:
        """The scene in words; in the embedded world relations are said once, when they are used."""
        if self.world is None:
            return caption(scene)
        objects = SceneGraph(objects=self.said(scene).objects)
        return describe(objects, cells=self.plan == "located", grid=self.world.grid)

    def draw(self, image: Image | None, plan: Plan, scene: SceneGraph, task: Task) -> Image:
        """The picture after a step.

        Raises:
            Unfit: the judge does not find the description in it, or cannot judge.
        """
        drawn = self.edit(image, plan.instruction, scene, task)
        self.check(plan.description, drawn)
        return drawn

    def check(self, description: str, image: Image) -> None:
        """Asks the judge, if there is one.

        Raises:
            Unfit: it does not find the description in the picture, or cannot judge.
        """
        verdict = self.judge(description, image) if self.judge else None
        if isinstance(verdict, JudgeFailure):
            raise Unfit(f"the judge failed: {verdict.reason}", transient=verdict.transient, judge=verdict.judge)
        if verdict is not None and not verdict.passed:
            raise Unfit(f"a draft does not show its plan: {verdict.reason}", judge=verdict.judge, plan=description)

    def edit(self, image: Image | None, command: str, scene: SceneGraph, task: Task) -> Image:
        """What the editor makes of a picture, unjudged."""
        return self.editor(image, command, target=scene, seed=int(task.rng.integers(2**31)))

    def inspect(self, said: SceneGraph, image: Image) -> Inspection | None:
        """What is to be said of a draft, given what the plans have said; None where drafts are not inspected."""
        if self.world is None or not self.critique:
            return None
        found = diff(said, self.world.detect(image), tolerance=0.5 / self.world.grid)
        seen = feedback(found, grid=self.world.grid)
        plan_check = PLAN_ACCEPTED if self.check_plan else ""
        return Inspection(plan_check=plan_check, draft_check=seen.draft_check, refine=seen.refine)

    def right(self, image: Image | None, plan: Plan, scene: SceneGraph, task: Task) -> Draft:
        """The draft that shows the scene, inspected."""
        drawn = self.draw(image, plan, scene, task)
        inspection = self.inspect(self.said(scene), drawn)
        if inspection is not None and not inspection.accepts:
            raise Unfit("the editor did not draw the scene", seen=inspection.draft_check)
        return Draft(image=drawn, inspection=inspection)


def shapes_drawing(world: ShapesWorld | None = None, **settings: Any) -> Drawing:
    """Drawing in the embedded world, every draft inspected unless `settings` say otherwise."""
    world = world or ShapesWorld()
    return Drawing(**{"editor": RendererEditor(world=world), "world": world, "critique": True, **settings})


def placed_only(scene: SceneGraph) -> SceneGraph:
    """The scene as located plans know it: places, and no relation."""
    return SceneGraph(objects=scene.objects)


def last_image(steps: Sequence[Step]) -> Image | None:
    """The picture that the next step goes on from."""
    return steps[-1].drafts[-1].image if steps else None


def share(rng: np.random.Generator, probability: float) -> bool:
    """True with this probability."""
    return bool(rng.random() < probability)
