"""What a mini base learns before any process: drawing, with and without a thought, editing, and saying what is seen.

The paper's base, BAGEL, can do all of it; nothing here plans a picture in steps, inspects a draft or refines one.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from brushwork.critic.scene import Relation, SceneGraph, SceneObject, describe, diff
from brushwork.data.augment import Edit, add, change, remove
from brushwork.data.subsets.drawing import Drawing, share
from brushwork.data.subsets.multi_turn import trajectory
from brushwork.data.tasks import Reject, Task, Unfit, attempt
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.data.worlds.staging import pick, proposer, related, unplaced
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory

EDIT = "edit the picture"
DESCRIBE = "describe the picture"
ASK = "does the picture show"
_DRAWS = 12


def text_to_image(tasks: Sequence[Task], *, drawing: Drawing) -> list[Trajectory | Reject]:
    """One picture a task, drawn at once; half of the prompts are the source's, half say all colours and relations.

    Args:
        tasks: with scenes of the embedded world.
        drawing: with a world.

    Raises:
        ValueError: no world.
    """
    return [attempt(task, partial(_drawn, _world(drawing))) for task in tasks]


def thinking(tasks: Sequence[Task], *, drawing: Drawing) -> list[Trajectory | Reject]:
    """The prompt said again, then all that is to be seen with every colour, then the picture: a thought before drawing.

    It is written as one plan, since that is where this grammar has words before a picture, but of the whole picture.

    Args:
        tasks: with scenes of the embedded world.
        drawing: with a world.

    Raises:
        ValueError: no world.
    """
    return [attempt(task, partial(_thought, drawing)) for task in tasks]


def editing(tasks: Sequence[Task], *, drawing: Drawing) -> list[Trajectory | Reject]:
    """A picture, an instruction (add, remove, replace, make another colour) and the picture after it.

    Neither the picture nor the instruction is to be learnt: they are the user's. What the instruction does not name
    stays where it is, to the pixel.

    Args:
        tasks: with scenes of the embedded world.
        drawing: with a world.

    Raises:
        ValueError: no world.
    """
    return [attempt(task, partial(_edited, drawing)) for task in tasks]


def looking(tasks: Sequence[Task], *, drawing: Drawing) -> list[Trajectory | Reject]:
    """A picture, and what is in it: described with the cells, or a question answered by "yes" or "no".

    Args:
        tasks: with scenes of the embedded world.
        drawing: with a world.

    Raises:
        ValueError: no world.
    """
    return [attempt(task, partial(_looked, _world(drawing))) for task in tasks]


def _world(drawing: Drawing) -> ShapesWorld:
    if drawing.world is None:
        raise ValueError("the base's subsets need drawing.world: they are made of the embedded world's scenes")
    return drawing.world


def _scene(task: Task) -> SceneGraph:
    if task.scene is None:
        raise Unfit("the prompt has no scene graph")
    return task.scene


def _drawn(world: ShapesWorld, task: Task) -> Trajectory:
    scene = _scene(task)
    if share(task.rng, 0.5):
        task = replace(task, prompt=_in_full(world, scene, task.rng))
    return trajectory(task, [Step(plan=None, drafts=(Draft(image=world.render(scene)),))], "text_to_image")


def _thought(drawing: Drawing, task: Task) -> Trajectory:
    world, scene = _world(drawing), _scene(task)
    if share(task.rng, 0.5):
        task = replace(task, prompt=_in_full(world, scene, task.rng))
    plan = Plan(instruction=task.prompt, description=drawing.description(_in_the_order_of(task.prompt, scene, world)))
    return trajectory(task, [Step(plan=plan, drafts=(Draft(image=world.render(scene)),))], "thinking")


def _in_the_order_of(prompt: str, scene: SceneGraph, world: ShapesWorld) -> SceneGraph:
    """The scene's objects as the prompt names them one after the other."""
    left, objects = list(scene.objects), []
    for asked in world.parse(prompt).objects:
        match = next(one for one in left if one.name == asked.name and asked.color in (None, one.color))
        left.remove(match)
        objects.append(match)
    return SceneGraph(objects=tuple(objects))


def _edited(drawing: Drawing, task: Task) -> Trajectory:
    world, finished = _world(drawing), _scene(task)
    whole = related(world, SceneGraph(objects=_shuffled(finished, task.rng)), task.rng)
    moved = _moved(world, whole, task) if share(task.rng, 0.35) else None
    if moved is not None:
        (instruction, before), after = moved, whole
        description, operation = drawing.description(whole), "move"
    else:
        edit = _edit(world, whole, task)
        before, after, operation = edit.inverse(whole), whole, edit.operation
        if share(task.rng, 0.3) and before.objects and world.admits(before, task.split):  # the other way round
            before, after, edit = after, before, edit.inverse
        words = drawing.words(before, [edit])
        instruction, description = words.instruction, words.description
    plan = Plan(instruction=instruction, description=description, flawed=True)  # the user's words: not to be learnt
    steps = [_shown(world, before), Step(plan=plan, drafts=(Draft(image=world.render(after)),))]
    return trajectory(replace(task, prompt=EDIT), steps, "editing", operations=[operation])


def _moved(world: ShapesWorld, whole: SceneGraph, task: Task) -> tuple[str, SceneGraph] | None:
    """An instruction that moves the last object to where it is, and the scene before; None where nothing fits."""
    said = next((one for one in whole.relations if one.subject == len(whole.objects) - 1), None)
    if said is None:
        return None
    last, reference = whole.objects[said.subject], whole.objects[said.object]
    for _ in range(_DRAWS):
        elsewhere = world.place(last, pick(world.free_cells(whole), task.rng), task.rng)
        before = SceneGraph(objects=(*whole.objects[:-1], elsewhere))
        is_wrong = said.predicate not in world.predicates(elsewhere, reference)
        if is_wrong and world.admits(before, task.split, finished=False):
            return f"move the {last.noun} {said.predicate} the {reference.noun}", before
    return None


def _edit(world: ShapesWorld, whole: SceneGraph, task: Task) -> Edit:
    """An edit that ends in the scene: its last object is added, or made another, or one more is taken away."""
    *objects, last = whole.objects
    said = [one for one in whole.relations if len(objects) in (one.subject, one.object)]
    kept = tuple(one for one in whole.relations if one not in said)
    adds = ("add", "add") if objects else ("add",)  # where it goes beside others is the hardest to learn
    operation = pick((*adds, "refine", "swap", "remove"), task.rng)
    propose = proposer(world, task.split, task.rng)
    if operation == "remove" and len(whole.objects) < world.max_objects:
        extra = propose("remove", whole, last)
        if extra is not None:
            more = SceneGraph(objects=(*whole.objects, extra), relations=whole.relations)
            return remove(more, len(whole.objects))
    if operation in ("refine", "swap"):
        other = propose(operation, SceneGraph(objects=tuple(objects), relations=kept), last)
        if other is not None:
            return change(SceneGraph(objects=(*objects, other), relations=whole.relations), len(objects), last)
    if not objects:
        raise Unfit("an empty canvas is no picture to edit")
    return add(SceneGraph(objects=tuple(objects), relations=kept), last, said)


def _looked(world: ShapesWorld, task: Task) -> Trajectory:
    scene = _scene(task)
    if share(task.rng, 0.5):
        in_order = sorted(scene.objects, key=lambda one: [int(value * world.grid) for value in one.centre[::-1]])
        asked, answer = DESCRIBE, describe(SceneGraph(objects=tuple(in_order)), cells=True, grid=world.grid)
    else:
        supposed = scene if share(task.rng, 0.5) else _other(world, scene, task)
        question = _in_full(world, supposed, task.rng)
        wrong = diff(world.parse(question), scene, tolerance=0.5 / world.grid)
        asked, answer = f"{ASK} {question}", "no" if wrong else "yes"
    shown = replace(_shown(world, scene).drafts[0], inspection=Inspection(draft_check=answer))
    return trajectory(replace(task, prompt=asked), [Step(plan=None, drafts=(shown,))], "looking")


def _other(world: ShapesWorld, scene: SceneGraph, task: Task) -> SceneGraph:
    """The scene with one object made another, or two objects changed in place."""
    objects = list(scene.objects)
    for _ in range(_DRAWS):
        at = int(task.rng.integers(len(objects)))
        rest = objects[:at] + objects[at + 1 :]
        if rest and share(task.rng, 0.5):
            with_at = int(task.rng.integers(len(objects)))
            places = {at: objects[with_at], with_at: objects[at]}
            changed = [replace(one, x=places.get(i, one).x, y=places.get(i, one).y) for i, one in enumerate(objects)]
        else:
            propose = proposer(world, task.split, task.rng)
            other = propose(pick(("refine", "swap"), task.rng), SceneGraph(objects=tuple(rest)), objects[at])
            changed = [*objects[:at], other or objects[at], *objects[at + 1 :]]
        supposed = SceneGraph(objects=tuple(changed))
        if changed != objects and world.admits(supposed, task.split):
            return supposed
    raise Unfit("no other scene is near this one")


def _in_full(world: ShapesWorld, scene: SceneGraph, rng: np.random.Generator) -> str:
    """All objects with their colours, in any order, and some of the relations between neighbours."""
    objects = _shuffled(scene, rng)
    relations = tuple(
        Relation(subject=index, predicate=pick(world.predicates(*objects[index : index + 2]), rng), object=index + 1)
        for index in range(len(objects) - 1)
        if share(rng, 0.5)
    )
    return describe(unplaced(SceneGraph(objects=objects, relations=relations)))


def _shuffled(scene: SceneGraph, rng: np.random.Generator) -> tuple[SceneObject, ...]:
    return tuple(scene.objects[index] for index in rng.permutation(len(scene.objects)))


def _shown(world: ShapesWorld, scene: SceneGraph) -> Step:
    """The user's picture: context, not to be drawn."""
    return Step(plan=None, drafts=(Draft(image=world.render(scene), flawed=True),))
