"""The four edit operations, add, refine, remove and swap, and detours made of them (paper: augmentation).

An edit is typed: it can be applied to a scene, undone, and said in words. A detour leads away from the straight way of
adding one object after the other and back to it, so the final scene stays what the prompt asks for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from brushwork.critic.scene import INVERSE, Relation, SceneGraph, SceneObject, article, cell_name

Operation = Literal["add", "refine", "remove", "swap"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
EVERYDAY_COLORS = ("red", "green", "blue", "yellow", "black", "white")
EVERYDAY_THINGS = ("ball", "bottle", "book", "chair", "clock", "cup", "lamp", "umbrella", "vase")
_UNDOES: dict[Operation, Operation] = {"add": "remove", "remove": "add", "refine": "refine", "swap": "swap"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """One change of a scene.

    Attributes:
        operation: "add" an object, "refine" the look or place of one, "remove" one, "swap" one for another kind of
            thing in its place.
        index: of the object in the scene before the edit; where it is put for "add".
        before: the object before; None for "add".
        after: the object after; None for "remove".
        relations: what is said of an object that is added or removed, in the numbering of the scene that has it.
    """

    operation: Operation
    index: int
    before: SceneObject | None = None
    after: SceneObject | None = None
    relations: tuple[Relation, ...] = ()

    @property
    def inverse(self) -> "Edit":
        """The edit that takes this one back."""
        return replace(self, operation=_UNDOES[self.operation], before=self.after, after=self.before)

    def __call__(self, scene: SceneGraph) -> SceneGraph:
        """The scene after the edit, its relations sorted.

        Raises:
            ValueError: the scene is not one that the edit was made for.
        """
        at, objects = self.index, scene.objects
        if self.before is not None and (at >= len(objects) or objects[at] != self.before):
            raise ValueError(f"cannot {self.operation} {self.before} at {at}: the scene holds {objects}")
        match self.operation:
            case "add":
                assert self.after is not None
                kept = [_renumbered(one, lambda number: number + (number >= at)) for one in scene.relations]
                objects = (*objects[:at], self.after, *objects[at:])
                return SceneGraph(objects=objects, relations=_sorted([*kept, *self.relations]))
            case "remove":
                left = [one for one in scene.relations if at not in (one.subject, one.object)]
                kept = [_renumbered(one, lambda number: number - (number > at)) for one in left]
                return SceneGraph(objects=objects[:at] + objects[at + 1 :], relations=_sorted(kept))
            case _:
                assert self.after is not None
                changed = (*objects[:at], self.after, *objects[at + 1 :])
                return SceneGraph(objects=changed, relations=_sorted(scene.relations))


def _renumbered(one: Relation, number: Callable[[int], int]) -> Relation:
    return replace(one, subject=number(one.subject), object=number(one.object))


def _sorted(relations: Sequence[Relation]) -> tuple[Relation, ...]:
    return tuple(sorted(relations, key=lambda one: (one.subject, one.object, one.predicate)))


def add(scene: SceneGraph, one: SceneObject, relations: Sequence[Relation] = ()) -> Edit:
    """Puts an object at the end of the scene."""
    return Edit(operation="add", index=len(scene.objects), after=one, relations=tuple(relations))


def remove(scene: SceneGraph, index: int) -> Edit:
    """Takes an object away, with what was said of it."""
    said = tuple(one for one in scene.relations if index in (one.subject, one.object))
    return Edit(operation="remove", index=index, before=scene.objects[index], relations=said)


def change(scene: SceneGraph, index: int, after: SceneObject) -> Edit:
    """Makes an object another one in its place: a swap where it becomes another kind of thing, else a refinement."""
    before = scene.objects[index]
    return Edit(operation="refine" if before.name == after.name else "swap", index=index, before=before, after=after)


def instruction(scene: SceneGraph, edit: Edit, *, grid: int | None = None) -> str:
    """The edit in words, as a command.

    Args:
        scene: before the edit.
        edit: what is to change.
        grid: also say in which of so many cells a side a new object goes; None names places by relations alone.
    """
    if edit.operation == "remove":
        assert edit.before is not None
        return f"remove the {edit.before.noun}"
    assert edit.after is not None
    if edit.operation == "add":
        words = [f"add {article(edit.after.noun)}"]
        if grid is not None:
            words.append(f"at {cell_name(*edit.after.centre, grid)}")
        objects = edit(scene).objects
        words += [
            _relation_words(one, objects) if one.subject == edit.index else _reverse_words(one, objects)
            for one in edit.relations
        ]
        return " ".join(words)
    assert edit.before is not None
    if edit.operation == "swap":
        return f"replace the {edit.before.noun} with {article(edit.after.noun)}"
    look = [] if edit.after.color in (None, edit.before.color) else [edit.after.color]
    look += [one for one in edit.after.attributes if one not in edit.before.attributes]
    return f"make the {edit.before.noun} {' and '.join(filter(None, look))}"


def _relation_words(one: Relation, objects: Sequence[SceneObject]) -> str:
    return f"{one.predicate} the {objects[one.object].noun}"


def _reverse_words(one: Relation, objects: Sequence[SceneObject]) -> str:
    """A relation that an object already there has to the new one, and that cannot be turned around."""
    return f"so that the {objects[one.subject].noun} is {one.predicate} it"


def straight(before: SceneGraph, after: SceneGraph) -> list[Edit]:
    """The edits that add what `after` has beyond `before`, of which it is the continuation."""
    edits, scene = [], before
    for index in range(len(before.objects), len(after.objects)):
        said = [one for one in after.relations if max(one.subject, one.object) == index]
        edits.append(add(scene, after.objects[index], said))
        scene = edits[-1](scene)
    return edits


def everyday(
    operation: Operation, scene: SceneGraph, one: SceneObject, *, rng: np.random.Generator
) -> SceneObject | None:
    """What to be led astray by in pictures of the world at large: another colour, or a thing that may stand anywhere.

    Args:
        operation: of the detour.
        scene: that it starts from.
        one: the object that the step adds.
        rng: source of all randomness.

    Returns:
        None where the scene holds such a thing already, or an object without colour would have to change it.
    """
    taken = {other.name for other in (*scene.objects, one)}
    color = EVERYDAY_COLORS[int(rng.integers(len(EVERYDAY_COLORS)))]
    name = EVERYDAY_THINGS[int(rng.integers(len(EVERYDAY_THINGS)))]
    if operation == "refine":
        other = replace(one, color=color)
        return None if one.color is None or other.noun in {each.noun for each in (*scene.objects, one)} else other
    return None if name in taken else SceneObject(name=name, color=color, x=one.x, y=one.y)


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How often steps are led astray, and how.

    Attributes:
        rate: probability of a detour at each object.
        refine, remove, swap: weights of the three detours: the object first looks different, something is added that
            is taken away later, another kind of thing stands there first. "add" is what every step does.
    """

    rate: float = 0.3
    refine: float = 1.0
    remove: float = 1.0
    swap: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError for a rate outside 0 to 1, a negative weight, or no weight at all."""
        weights = (self.refine, self.remove, self.swap)
        if not 0 <= self.rate <= 1 or min(weights) < 0 or not sum(weights):
            raise ValueError(f"{self}: expected a rate of 0 to 1 and weights of at least 0, one of them above")

    def __call__(
        self,
        stages: Sequence[SceneGraph],
        rng: np.random.Generator,
        propose: Callable[[Operation, SceneGraph, SceneObject], SceneObject | None],
        *,
        max_images: int,
    ) -> list[list[Edit]]:
        """The edits of each step on a way through the stages, with detours where there is room for their images.

        Args:
            stages: the scene after each step of the straight way, see `subgraphs.expand`.
            rng: source of all randomness.
            propose: given the operation of a detour, the scene that it starts from and the object that the step adds,
                an object to draw instead of it at first (refine, swap) or after it (remove); None where nothing fits.
            max_images: steps at most.

        Returns:
            One list of edits a step. Applied in order to an empty scene they end in the last stage.
        """
        steps: list[list[Edit]] = []
        scene, stray = SceneGraph(objects=()), None  # the object that is to be taken away again
        room = max_images - len(stages)
        for before, after in zip((SceneGraph(objects=()), *stages), stages, strict=False):
            edits = straight(before, after)
            if stray is not None:
                steps.append([remove(scene, stray)])
                scene, stray = steps[-1][0](scene), None
            detour = self._drawn(rng) if room and len(edits) == 1 and rng.random() < self.rate else None
            cost = 2 if detour == "remove" else 1  # images: what is added to be removed takes one for each
            context = after if detour == "remove" else before
            other = propose(detour, context, after.objects[-1]) if detour and cost <= room else None
            if detour == "swap" and any(one.predicate not in INVERSE for one in edits[0].relations):
                other = None  # what stands in for a man may be left of the horse, but not ride it
            if detour and other is not None:
                room -= cost
                if detour == "remove":
                    steps.append(edits)
                    scene = edits[0](scene)
                    edits, stray = [add(scene, other)], len(scene.objects)
                else:
                    first = replace(edits[0], after=other)
                    scene = first(scene)
                    steps.append([first])
                    edits = [change(scene, len(scene.objects) - 1, after.objects[-1])]
            for edit in edits:
                scene = edit(scene)
            steps.append(edits)
        if stray is not None:
            steps.append([remove(scene, stray)])
        return steps

    def _drawn(self, rng: np.random.Generator) -> Operation:
        weights = np.array([self.refine, self.remove, self.swap])
        return OPERATIONS[1 + int(rng.choice(3, p=weights / weights.sum()))]
