"""Refinement without a plan: the whole prompt drawn at once, inspected against the prompt, and mended.

The control for what planning step by step adds to drawing, looking and drawing again.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from brushwork.critic.scene import INVERSE, Discrepancy, Relation, SceneGraph, SceneObject, diff
from brushwork.data.subsets.drawing import Drawing, share
from brushwork.data.subsets.flaws import Flaw, plant
from brushwork.data.subsets.multi_turn import trajectory
from brushwork.data.tasks import Reject, Task, Unfit, attempt
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.tokens.trajectory import Draft, Step, Trajectory

_DRAWS_PER_FLAW = 6


def planted_refinement(
    tasks: Sequence[Task], *, drawing: Drawing, positives: float = 1 / 3, max_flaws: int = 2
) -> list[Trajectory | Reject]:
    """One step without a plan a task: a "positive" is right at once, a "negative" first has planted errors.

    The errors are what the prompt speaks of: a colour that it leaves open is none. What was right in a flawed draft
    stands where it stood in the corrected one, which does what the inspection says.

    Args:
        tasks: with scenes of the embedded world.
        drawing: with a world and `critique`; its plans are not asked for.
        positives: share of tasks that stay without error, before the build balances the classes.
        max_flaws: errors in a flawed draft at most; from one up to that many are equally likely, where they fit.

    Returns:
        In `meta`: subset, kind, split, what the source said, the label, and the kinds of the errors.

    Raises:
        ValueError: no world, no critique, or `max_flaws` below 1.
    """
    if drawing.world is None or not drawing.critique:
        raise ValueError("refinement needs the embedded world: drawing.world and drawing.critique=true")
    if max_flaws < 1:
        raise ValueError(f"max_flaws={max_flaws}: expected at least 1; positives=1.0 makes no flawed draft")
    return [attempt(task, partial(_drawn, drawing, drawing.world, positives, max_flaws)) for task in tasks]


def _drawn(drawing: Drawing, world: ShapesWorld, positives: float, max_flaws: int, task: Task) -> Trajectory:
    if task.scene is None:
        raise Unfit("the prompt has no scene graph")
    wanted = _asked(world, task.prompt)
    wrong: list[Flaw] = []
    if not share(task.rng, positives):
        wrong = _planted(world, wanted, task.scene, task, int(task.rng.integers(1, max_flaws + 1)))
        if not wrong:
            raise Unfit("no error fits the scene")
    drafts: list[Draft] = []
    command = task.prompt
    for scene in (*(flaw.scene for flaw in wrong[-1:]), task.scene):
        image = drawing.edit(drafts[-1].image if drafts else None, command, scene, task)
        inspection = drawing.inspect(wanted, image)
        assert inspection is not None, "checked by the caller"
        if inspection.accepts != (scene is task.scene):
            raise Unfit("the editor did not draw the scene", seen=inspection.draft_check)
        command = inspection.refine
        drafts.append(Draft(image=image, inspection=inspection, flawed=scene is not task.scene))
    label, flaws = "negative" if wrong else "positive", [flaw.kind for flaw in wrong]
    return trajectory(task, [Step(plan=None, drafts=tuple(drafts))], "refinement", label=label, flaws=flaws)


def _asked(world: ShapesWorld, prompt: str) -> SceneGraph:
    """What the prompt asks for, each relation said of its later object, which is the one that `plant` moves."""
    scene = world.parse(prompt)
    turned = (
        one
        if one.subject > one.object
        else Relation(subject=one.object, predicate=INVERSE[one.predicate], object=one.subject)
        for one in scene.relations
    )
    return SceneGraph(objects=scene.objects, relations=tuple(turned))


def _planted(world: ShapesWorld, wanted: SceneGraph, right: SceneGraph, task: Task, num: int) -> list[Flaw]:
    """One error more each time, the last one's scene having all of them; fewer where no more fit."""
    found: list[Flaw] = []
    scene = right
    for _ in range(num * _DRAWS_PER_FLAW):
        if len(found) == num or not scene.objects:  # in an empty picture nothing can be made more wrong
            break
        flaw = plant(world, wanted, scene, task.rng, split=task.split)
        if flaw is not None and _leads_back(world, wanted, flaw.scene, right):
            found.append(flaw)
            scene = flaw.scene
    return found


def _leads_back(world: ShapesWorld, wanted: SceneGraph, flawed: SceneGraph, right: SceneGraph) -> bool:
    """Whether what an inspection says of the flawed picture makes the right one of it, and not another right one.

    Of two triangles where the prompt asks for a triangle and a ring, either may become the ring.
    """
    seen, shown = (list(world.detect(world.render(scene)).objects) for scene in (flawed, right))
    added: list[SceneObject] = []
    for one in diff(wanted, SceneGraph(objects=tuple(seen)), tolerance=0.5 / world.grid):
        if one.seen is not None:
            if one.seen not in seen:
                return False  # it is spoken of twice
            seen.remove(one.seen)
        match one:
            case Discrepancy(kind="color", wanted=SceneObject(color=color), seen=SceneObject() as before):
                seen.append(replace(before, color=color))
            case Discrepancy(kind="shape", wanted=SceneObject(name=name), seen=SceneObject() as before):
                seen.append(replace(before, name=name))
            case Discrepancy(kind="place", seen=SceneObject() as before):
                added.append(replace(before, x=None, y=None))
            case Discrepancy(wanted=SceneObject() as lacking):
                added.append(lacking)
    if any(one not in shown for one in seen):
        return False
    left = [one for one in shown if one not in seen]
    return not diff(SceneGraph(objects=tuple(added)), SceneGraph(objects=tuple(left)))
