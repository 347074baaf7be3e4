"""What plans say of a scene, and whether that follows from the prompt or contradicts it."""

import re
from collections.abc import Callable, Sequence

from brushwork.critic.scene import GRID, Discrepancy, Relation, SceneGraph, diff, parse_scene
from brushwork.tokens.trajectory import Plan


def entails(whole: SceneGraph, part: SceneGraph) -> bool:
    """True where everything that `part` says is also said by `whole`, which may say more."""
    return all(one.wanted is None for one in diff(part, whole))


def contradictions(
    wanted: SceneGraph, plan: SceneGraph, *, finished: bool, grid: int = GRID
) -> tuple[Discrepancy, ...]:
    """How a planned scene departs from what the prompt asks for (paper: instruction-intermediate conflict).

    Args:
        wanted: what the prompt asks for.
        plan: what has been planned so far, see `planned_scene`.
        finished: nothing more will be planned, so that what is missing is wrong too.
        grid: cells a side, for plans that name cells.
    """
    return diff(wanted, plan, tolerance=0.5 / grid, unfinished=not finished)


def planned_scene(plans: Sequence[Plan], parse: Callable[[str], SceneGraph] = parse_scene) -> SceneGraph:
    """The scene after the last plan: its description, with the relations that all instructions so far have said.

    Relational descriptions name things, not places ("add a ring above the red circle" says where the ring is). What was
    said of a thing goes with it when it is made another or replaced, and is gone when it is removed. A relation between
    things that the last description does not name exactly once is left out, as is an instruction that cannot be read.

    Raises:
        ValueError: the last description cannot be read.
    """
    said: list[_Said] = []
    for command in (command for plan in plans for command in _COMMAND.split(plan.instruction)):
        said = _replayed(command, said, parse)
    objects = parse(plans[-1].description).objects
    places: dict[str, list[int]] = {}
    for index, one in enumerate(objects):
        places.setdefault(one.noun, []).append(index)
    relations = [
        Relation(subject=places[one][0], predicate=predicate, object=places[other][0])
        for one, predicate, other in dict.fromkeys(said)
        if one != other and len(places.get(one, ())) == len(places.get(other, ())) == 1
    ]
    return SceneGraph(objects=objects, relations=tuple(relations))


_COMMAND = re.compile(r" and (?=(?:add|make|remove|replace) )")
_Said = tuple[str, str, str]
"""Noun, predicate, noun."""


def _replayed(command: str, said: list[_Said], parse: Callable[[str], SceneGraph]) -> list[_Said]:
    """What has been said after one more command."""
    if found := re.fullmatch(r"remove the (.+)", command):
        return [one for one in said if found[1] not in (one[0], one[2])]
    if found := re.fullmatch(r"replace the (.+) with an? (.+)", command):
        return _renamed(said, found[1], found[2])
    if found := re.fullmatch(r"make the (.+) (\S+)", command):  # its colour is what changes
        return _renamed(said, found[1], f"{found[2]} {found[1].split()[-1]}")
    words = ["a" if word == "the" else word for word in command.split()]
    try:
        scene = parse(" ".join(words[1:] if words[:1] == ["add"] else words))
    except ValueError:
        return said
    nouns = [one.noun for one in scene.objects]
    return [*said, *((nouns[one.subject], one.predicate, nouns[one.object]) for one in scene.relations)]


def _renamed(said: list[_Said], old: str, new: str) -> list[_Said]:
    return [(new if one == old else one, predicate, new if other == old else other) for one, predicate, other in said]
