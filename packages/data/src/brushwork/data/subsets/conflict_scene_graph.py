"""Instruction-intermediate conflict by symbolic correction of scene graphs: the paper's ablation of self-sampling.

No model is asked: a plan is led astray by an edit, and mended by its inverse.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from brushwork.critic.entailment import contradictions
from brushwork.critic.feedback import plan_feedback
from brushwork.critic.scene import Relation, SceneGraph, SceneObject
from brushwork.data.augment import Edit, change
from brushwork.data.subgraphs import expand
from brushwork.data.subsets.drawing import EMPTY, Drawing, last_image, share
from brushwork.data.subsets.multi_turn import applied, trajectory, way
from brushwork.data.tasks import Reject, Task, Unfit, attempt
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.data.worlds.staging import pick
from brushwork.tokens.trajectory import Draft, Inspection, Step, Trajectory

_DRAWS = 12


def symbolic_conflicts(tasks: Sequence[Task], *, drawing: Drawing, positives: float = 0.5) -> list[Trajectory | Reject]:
    """Plans led astray by an edit of their scene graph, and corrected by its inverse.

    At one step of a negative, the object that is planned differs from the prompt in colour, shape,
    or place. The picture shows the wrong plan; the inspection says what the prompt asks for.

    Args:
        tasks: with scenes of the embedded world.
        drawing: with a world and `critique`.
        positives: share of tasks that keep to their prompt, before the build balances the classes.

    Raises:
        ValueError: no world or no critique.
    """
    if drawing.world is None or not drawing.critique:
        raise ValueError("symbolic conflicts need drawing.world and drawing.critique=true")
    drawing = replace(drawing, check_plan=True)
    return [attempt(task, partial(_symbolic, drawing, positives)) for task in tasks]


def _symbolic(drawing: Drawing, positives: float, task: Task) -> Trajectory:
    steps: list[Step] = []
    edits_of_steps, scene = way(drawing, task, None), EMPTY
    wrong = None if share(task.rng, positives) else int(task.rng.integers(len(edits_of_steps)))
    for number, edits in enumerate(edits_of_steps):
        before, scene = scene, applied(scene, edits)
        if number == wrong:
            steps.append(_astray(drawing, task, steps, before, edits, last=number + 1 == len(edits_of_steps)))
            break
        plan = drawing.words(before, edits)
        steps.append(Step(plan=plan, drafts=(drawing.right(last_image(steps), plan, scene, task),)))
    finished = wrong in (None, len(edits_of_steps) - 1)
    label = "positive" if wrong is None else "negative"
    meta = {"label": label, "construction": "scene_graph"}
    return trajectory(task, steps, "conflict", finished=finished, goes_on=not finished, **meta)


def _astray(
    drawing: Drawing, task: Task, steps: Sequence[Step], before: SceneGraph, edits: Sequence[Edit], *, last: bool
) -> Step:
    """A step whose plan contradicts the prompt, and its correction by the inverse edit."""
    world = drawing.world
    assert world is not None, "checked by the caller"
    right = applied(before, edits)
    wanted = world.parse(task.prompt)
    (asked,) = expand(wanted, max_steps=1)  # with relations said from the later object, as plans say them
    for _ in range(_DRAWS):
        other = _another(world, right, task)
        stray = change(right, len(right.objects) - 1, other)
        scene = stray(right)
        if not world.admits(scene, task.split, finished=False):
            continue
        *others, last_edit = edits
        first = [*others, replace(last_edit, after=other, relations=_true_relations(world, scene, last_edit))]
        found = contradictions(asked, drawing.said(applied(before, first)), finished=last, grid=world.grid)
        if not found:
            continue
        analysis, refine = plan_feedback(found, grid=world.grid)
        plan = drawing.words(before, first, flawed=True)
        image = drawing.draw(last_image(steps), plan, scene, task)
        draft = Draft(image=image, inspection=Inspection(plan_check=analysis, refine=refine), flawed=True)
        mended = drawing.right(image, drawing.words(scene, [stray.inverse]), right, task)
        return Step(plan=plan, drafts=(draft, mended))
    raise Unfit("no error fits the prompt")


def _another(world: ShapesWorld, scene: SceneGraph, task: Task) -> SceneObject:
    """The last object with another colour, shape or place."""
    one, what = scene.objects[-1], pick(("color", "name", "place"), task.rng)
    if what == "place":
        return world.place(one, pick(world.free_cells(scene), task.rng), task.rng)
    items = world.colors if what == "color" else world.shapes
    return replace(one, **{what: pick(items, task.rng)})


def _true_relations(world: ShapesWorld, scene: SceneGraph, edit: Edit) -> tuple[Relation, ...]:
    """The edit's relations as they are after the change: a thing put elsewhere stands otherwise to the rest."""
    said = []
    for one in edit.relations:
        true = world.predicates(scene.objects[one.subject], scene.objects[one.object])
        said.append(one if one.predicate in true else replace(one, predicate=true[0]))
    return tuple(said)
