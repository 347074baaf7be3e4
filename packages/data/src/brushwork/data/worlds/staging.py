"""How scenes of the embedded world are put on their way: relations to speak of, things to be led astray by, places."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from brushwork.critic.scene import INVERSE, Discrepancy, Relation, SceneGraph, SceneObject, diff
from brushwork.data.augment import Operation
from brushwork.data.worlds.shapes import ShapesWorld

_DRAWS, _STAYING = 12, 40
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
    world: ShapesWorld,
    wanted: SceneGraph,
    plan: SceneGraph,
    wrong: tuple[Discrepancy, ...],
    rng: np.random.Generator,
    *,
    finished: bool,
) -> SceneGraph:
    """The planned scene with all of `diff(wanted, plan)` set right; what the prompt leaves open is drawn.

    Args:
        world: whose colours are drawn.
        wanted: what the prompt asks for.
        plan: the planned scene.
        wrong: the discrepancies between them.
        rng: source of all randomness.
        finished: the prompt's relations have to be said now.
    """
    objects: list[SceneObject | None] = list(plan.objects)
    moved: list[tuple[int, Discrepancy]] = []
    for one in wrong:
        at = next((i for i, planned in enumerate(plan.objects) if planned is one.seen and objects[i]), None)
        before = objects[at] if at is not None else None
        if at is None or before is None:
            continue  # missing, hence added below
        if one.kind in ("extra", "count"):
            objects[at] = None
        elif one.kind == "color" and one.wanted is not None:
            objects[at] = replace(before, color=one.wanted.color)
        elif one.kind == "shape" and one.wanted is not None:
            objects[at] = replace(before, name=one.wanted.name)
        else:
            objects[at] = replace(before, x=None, y=None)
            moved.append((at, one))
    for one in wrong:
        if one.seen is None and one.wanted is not None:
            objects.append(_colored(world, one.wanted, objects, rng))
    gone = {at for at, _ in moved}  # whatever was said of the place of what is moved gives way
    relations = [one for one in plan.relations if not gone & {one.subject, one.object}]
    for at, one in moved:
        reference = next((i for i, other in enumerate(objects) if i != at and _is(one.reference, other)), None)
        if one.predicate and reference is not None:
            relations.append(Relation(subject=at, predicate=one.predicate, object=reference))
    for asked in wanted.relations if finished else ():
        subject, reference = (_place_of(wanted.objects[end], objects) for end in (asked.subject, asked.object))
        said_already = any({one.subject, one.object} == {subject, reference} for one in relations)
        if subject is not None and reference is not None and subject != reference and not said_already:
            relations.append(Relation(subject=subject, predicate=asked.predicate, object=reference))
    kept = [index for index, one in enumerate(objects) if one is not None]
    place = {index: number for number, index in enumerate(kept)}
    said = tuple(
        Relation(subject=place[one.subject], predicate=one.predicate, object=place[one.object])
        for one in dict.fromkeys(relations)
        if one.subject in place and one.object in place
    )
    return SceneGraph(objects=tuple(one for one in objects if one is not None), relations=said)


def _place_of(asked: SceneObject, objects: Sequence[SceneObject | None]) -> int | None:
    return next((index for index, one in enumerate(objects) if _is(asked, one)), None)


def _colored(
    world: ShapesWorld, one: SceneObject, others: Sequence[SceneObject | None], rng: np.random.Generator
) -> SceneObject:
    """The object with a colour, one that no other of its shape has if there is any left."""
    taken = {other.color for other in others if other is not None and other.name == one.name}
    free = [color for color in world.colors if color not in taken] or list(world.colors)
    return replace(one, color=one.color or pick(free, rng))


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
    if len(plan.objects) > world.grid**2:
        return None
    plan = _all_colored(world, plan, seen, rng)
    found = diff(plan, seen, tolerance=0.5 / world.grid)
    astray = {id(one.wanted) for one in found if one.kind in ("place", "missing", "count")}
    places = _places_of_draft(world, plan, seen)
    stay = {index: one for index, one in places.items() if id(plan.objects[index]) not in astray}
    for draw in range(_STAYING + _DRAWS):
        # First all stays that need not move; then more and more of the draft gives way.
        gives_way = draw - _STAYING
        kept = {i: one for i, one in stay.items() if gives_way < 0 or rng.random() * _DRAWS > gives_way}
        taken = {cell for cell, _ in kept.values()}
        objects: list[SceneObject] = []
        for index, one in enumerate(plan.objects):
            if one.x is not None:
                objects.append(one)
                continue
            settled = SceneGraph(objects=(*objects, *(other for other in plan.objects if other.x is not None)))
            free = [cell for cell in world.free_cells(settled) if cell not in taken]
            if index not in kept and not free:
                break
            objects.append(
                world.settled(one, *kept[index]) if index in kept else world.place(one, pick(free, rng), rng)
            )
        scene = SceneGraph(objects=tuple(objects), relations=plan.relations)
        whole = len(objects) == len(plan.objects)
        if (
            whole
            and not diff(plan, scene, tolerance=0.5 / world.grid)
            and world.admits(scene, split, finished=finished)
        ):
            return scene
    return None


def _all_colored(world: ShapesWorld, plan: SceneGraph, seen: SceneGraph, rng: np.random.Generator) -> SceneGraph:
    """The plan with a colour for each object: that of its shape in the draft, else any that is free."""
    objects: list[SceneObject] = []
    for one in plan.objects:
        like = next((other for other in seen.objects if one.color is None and other.name == one.name), None)
        taken = (*plan.objects, *objects)
        if like is not None and not any(other.noun == like.noun for other in taken):
            objects.append(replace(one, color=like.color))
        else:
            objects.append(_colored(world, one, taken, rng))
    return SceneGraph(objects=tuple(objects), relations=plan.relations)


def _places_of_draft(
    world: ShapesWorld, plan: SceneGraph, seen: SceneGraph
) -> dict[int, tuple[int, tuple[float, float]]]:
    """Cell and centre at which the draft has each planned object, or what stands for it; each cell once."""
    places: dict[int, tuple[int, tuple[float, float]]] = {}
    left = list(seen.objects)
    tests: tuple[Callable[[SceneObject, SceneObject], bool], ...] = (
        lambda one, other: one.noun == other.noun,
        lambda one, other: one.color == other.color or one.name == other.name,
    )
    for alike in tests:
        for index, one in enumerate(plan.objects):
            match = next((other for other in left if alike(one, other)), None)
            if one.x is not None or index in places or match is None:
                continue
            left.remove(match)
            x, y = match.centre
            cell = min(int(y * world.grid), world.grid - 1) * world.grid + min(int(x * world.grid), world.grid - 1)
            if cell not in {other for other, _ in places.values()}:
                places[index] = cell, (x, y)
    return places


def pick(items: Sequence[T], rng: np.random.Generator) -> T:
    """One of the items, all equally likely."""
    return items[int(rng.integers(len(items)))]
