"""How scenes of the embedded world are put on their way: relations to speak of, things to be led astray by, places."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from brushwork.critic.scene import INVERSE, Discrepancy, Relation, SceneGraph, SceneObject, diff
from brushwork.data.augment import Operation
from brushwork.data.worlds.shapes import ShapesWorld

_DRAWS = 12
T = TypeVar("T")


def related(world: ShapesWorld, scene: SceneGraph, rng: np.random.Generator) -> SceneGraph:
    """The scene with one relation for each object but the first: the prompt's own, else a true one.

    It leads to an earlier object, so that a plan can say where each object goes without naming places.
    """
    asked = {
        one.object: Relation(subject=one.object, predicate=INVERSE[one.predicate], object=one.subject)
        for one in scene.relations
    }
    relations = []
    for subject in range(1, len(scene.objects)):
        earlier = int(rng.integers(subject))
        true = world.predicates(scene.objects[subject], scene.objects[earlier])
        sampled = Relation(subject=subject, predicate=true[rng.integers(len(true))], object=earlier)
        relations.append(asked.get(subject, sampled))
    return SceneGraph(objects=scene.objects, relations=tuple(relations))


def unplaced(scene: SceneGraph) -> SceneGraph:
    """What relational plans say of a scene: objects without places, and the relations."""
    return SceneGraph(objects=tuple(replace(one, x=None, y=None) for one in scene.objects), relations=scene.relations)


def proposer(
    world: ShapesWorld, split: str, rng: np.random.Generator
) -> Callable[[Operation, SceneGraph, SceneObject], SceneObject | None]:
    """What `augment.Augmentation` may be led astray by, within what the split may show."""
    return partial(_propose, world, split, rng)


def _propose(
    world: ShapesWorld, split: str, rng: np.random.Generator, operation: Operation, scene: SceneGraph, one: SceneObject
) -> SceneObject | None:
    for _ in range(_DRAWS):
        color, name = pick(world.colors, rng), pick(world.shapes, rng)
        if operation == "refine":
            other = replace(one, color=color)
        elif operation == "swap":
            other = replace(one, color=color, name=name)
        else:
            other = world.place(SceneObject(name=name, color=color), pick(world.free_cells(scene), rng), rng)
        admitted = world.admits(SceneGraph(objects=(*scene.objects, other)), split, finished=False)
        if admitted and (other.name != one.name or operation != "swap") and other.noun != one.noun:
            return other
    return None


def corrected(
    world: ShapesWorld, plan: SceneGraph, wrong: tuple[Discrepancy, ...], rng: np.random.Generator
) -> SceneGraph:
    """The planned scene with all of `diff(prompt, plan)` set right; what the prompt leaves open is drawn."""
    objects: list[SceneObject | None] = list(plan.objects)
    added = [_colored(world, one.wanted, rng) for one in wrong if one.seen is None and one.wanted is not None]
    moved: list[tuple[int, Discrepancy]] = []
    for one in wrong:
        at = next((i for i, planned in enumerate(plan.objects) if planned is one.seen and objects[i]), None)
        before = objects[at] if at is not None else None
        if at is None or before is None:
            continue  # missing, hence added
        if one.kind in ("extra", "count"):
            objects[at] = None
        elif one.kind == "color" and one.wanted is not None:
            objects[at] = replace(before, color=one.wanted.color)
        elif one.kind == "shape" and one.wanted is not None:
            objects[at] = replace(before, name=one.wanted.name)
        else:
            objects[at] = replace(before, x=None, y=None)
            moved.append((at, one))
    everything = [*objects, *added]
    gone = {at for at, _ in moved}  # whatever was said of the place of what is moved gives way
    relations = [one for one in plan.relations if not gone & {one.subject, one.object}]
    for at, one in moved:
        reference = next((i for i, other in enumerate(everything) if i != at and _is(one.reference, other)), None)
        if one.predicate and reference is not None:
            relations.append(Relation(subject=at, predicate=one.predicate, object=reference))
    kept = [index for index, one in enumerate(everything) if one is not None]
    place = {index: number for number, index in enumerate(kept)}
    said = tuple(
        Relation(subject=place[one.subject], predicate=one.predicate, object=place[one.object])
        for one in dict.fromkeys(relations)
        if one.subject in place and one.object in place
    )
    return SceneGraph(objects=tuple(one for one in everything if one is not None), relations=said)


def _colored(world: ShapesWorld, one: SceneObject, rng: np.random.Generator) -> SceneObject:
    return replace(one, color=one.color or pick(world.colors, rng))


def _is(asked: SceneObject | None, one: SceneObject | None) -> bool:
    return asked is not None and one is not None and asked.name == one.name and asked.color in (None, one.color)


def arranged(
    world: ShapesWorld, plan: SceneGraph, seen: SceneGraph, rng: np.random.Generator, *, split: str, finished: bool
) -> SceneGraph | None:
    """Places for a planned scene that satisfy it; things stay in the cells where a draft has them, if that is possible.

    Args:
        world: places things.
        plan: the scene that is wanted; what has a place keeps it.
        seen: what the draft shows. A thing that it lacks takes the place of what it has instead, of the same colour or
            shape.
        rng: source of all randomness.
        split: the scene shows nothing that is held out of this split.
        finished: the scene is the end of a drawing, see `ShapesWorld.admits`.

    Returns:
        None where no draw found a scene that the plan describes and the split may show.
    """
    places = _cells_of_draft(world, plan, seen)
    for draw in range(_DRAWS):
        # More and more of the draft gives way: the plan may say that something stands elsewhere.
        kept = {index: cell for index, cell in places.items() if draw == 0 or rng.random() * _DRAWS > draw}
        objects = []
        for index, one in enumerate(plan.objects):
            if one.x is not None:
                objects.append(one)
                continue
            settled = SceneGraph(objects=(*objects, *(other for other in plan.objects if other.x is not None)))
            free = [cell for cell in world.free_cells(settled) if cell not in kept.values()]
            objects.append(world.place(one, kept[index] if index in kept else pick(free, rng), rng))
        scene = SceneGraph(objects=tuple(objects), relations=plan.relations)
        fits = not diff(plan, scene, tolerance=0.5 / world.grid)
        if fits and world.admits(scene, split, finished=finished):
            return scene
    return None


def _cells_of_draft(world: ShapesWorld, plan: SceneGraph, seen: SceneGraph) -> dict[int, int]:
    """In which cell the draft has each planned object, or what stands for it; each cell once."""
    cells: dict[int, int] = {}
    left = list(seen.objects)
    tests: tuple[Callable[[SceneObject, SceneObject], bool], ...] = (
        lambda one, other: one.noun == other.noun,
        lambda one, other: one.color == other.color or one.name == other.name,
    )
    for alike in tests:
        for index, one in enumerate(plan.objects):
            match = next((other for other in left if alike(one, other)), None)
            if one.x is not None or index in cells or match is None:
                continue
            left.remove(match)
            x, y = match.centre
            cell = min(int(y * world.grid), world.grid - 1) * world.grid + min(int(x * world.grid), world.grid - 1)
            if cell not in cells.values():
                cells[index] = cell
    return cells


def pick(items: Sequence[T], rng: np.random.Generator) -> T:
    """One of the items, all equally likely."""
    return items[int(rng.integers(len(items)))]
