"""Errors planted in a draft: the scene with one thing wrong, so that its inspection is true by construction."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from brushwork.critic.scene import DiscrepancyKind, SceneGraph, SceneObject, diff
from brushwork.data.worlds.shapes import ShapesWorld

_DRAWS_PER_KIND = 6

T = TypeVar("T")
Change = Callable[[ShapesWorld, SceneGraph, np.random.Generator], SceneGraph]


@dataclass(frozen=True, kw_only=True, slots=True)
class Flaw:
    """A scene with one thing more wrong than before, and which kind of thing."""

    kind: DiscrepancyKind
    scene: SceneGraph


def plant(
    world: ShapesWorld, plan: SceneGraph, scene: SceneGraph, rng: np.random.Generator, *, split: str
) -> Flaw | None:
    """A scene that departs from the plan in one thing more than `scene`; the kinds that apply are equally likely.

    Changes are drawn until `diff` explains one by the kind that was meant: so a misplaced object contradicts what the
    plan says, and where two circles are wanted a lost one is a matter of "count".

    Args:
        world: draws and places objects.
        plan: what the step's plan asks for.
        scene: the scene that satisfies it, but for flaws planted before; its last object is the one that the step adds.
        rng: source of all randomness.
        split: the flawed scene shows nothing that is held out of this split.

    Returns:
        None where no kind of flaw fits, which a small world can bring about.
    """
    kinds, tolerance = tuple(_CHANGES), 0.5 / world.grid
    before = Counter(one.kind for one in diff(plan, scene, tolerance=tolerance))
    for number in rng.permutation(len(kinds)):
        kind = kinds[number]
        for _ in range(_DRAWS_PER_KIND):
            flawed = _any(_CHANGES[kind], rng)(world, scene, rng)
            found = Counter(one.kind for one in diff(plan, flawed, tolerance=tolerance))
            if found == before + Counter([kind]) and world.admits(flawed, split, finished=False):
                return Flaw(kind=kind, scene=flawed)
    return None


def _recolor(world: ShapesWorld, scene: SceneGraph, rng: np.random.Generator) -> SceneGraph:
    return _replaced(scene, _index(scene.objects, rng), color=_any(world.colors, rng))


def _reshape(world: ShapesWorld, scene: SceneGraph, rng: np.random.Generator) -> SceneGraph:
    return _replaced(scene, _index(scene.objects, rng), name=_any(world.shapes, rng))


def _move(world: ShapesWorld, scene: SceneGraph, rng: np.random.Generator) -> SceneGraph:
    moved = world.place(scene.objects[-1], _any(world.free_cells(scene), rng), rng)
    return SceneGraph(objects=(*scene.objects[:-1], moved))


def _drop(world: ShapesWorld, scene: SceneGraph, rng: np.random.Generator) -> SceneGraph:
    lost = _index(scene.objects, rng)
    return SceneGraph(objects=scene.objects[:lost] + scene.objects[lost + 1 :])


def _add(world: ShapesWorld, scene: SceneGraph, rng: np.random.Generator) -> SceneGraph:
    added = SceneObject(name=_any(world.shapes, rng), color=_any(world.colors, rng))
    return SceneGraph(objects=(*scene.objects, world.place(added, _any(world.free_cells(scene), rng), rng)))


_CHANGES: Mapping[DiscrepancyKind, tuple[Change, ...]] = {
    "color": (_recolor,),
    "shape": (_reshape,),
    "place": (_move,),
    "missing": (_drop,),
    "extra": (_add,),
    "count": (_drop, _add),
}


def _replaced(scene: SceneGraph, index: int, **attributes: str) -> SceneGraph:
    objects = list(scene.objects)
    objects[index] = replace(objects[index], **attributes)
    return SceneGraph(objects=tuple(objects))


def _index(items: Sequence, rng: np.random.Generator) -> int:
    return int(rng.integers(len(items)))


def _any(items: Sequence[T], rng: np.random.Generator) -> T:
    return items[_index(items, rng)]
