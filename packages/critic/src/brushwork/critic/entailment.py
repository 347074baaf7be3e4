"""What plans say of a scene, and whether that follows from the prompt or contradicts it."""

from collections.abc import Callable, Sequence

from brushwork.critic.scene import GRID, Discrepancy, Relation, SceneGraph, SceneObject, diff, parse_scene
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

    Relational descriptions name things, not places ("add a ring above the red circle" says where the ring is). A
    relation between things that the last description does not name exactly once is left out, as is an instruction that
    cannot be read.

    Raises:
        ValueError: the last description cannot be read.
    """
    objects = parse(plans[-1].description).objects
    relations = dict.fromkeys(relation for plan in plans for relation in _said(plan.instruction, objects, parse))
    return SceneGraph(objects=objects, relations=tuple(relations))


def _said(instruction: str, objects: Sequence[SceneObject], parse: Callable[[str], SceneGraph]) -> list[Relation]:
    """The relations of an instruction, between these objects."""
    words = ["a" if word == "the" else word for word in instruction.split()]
    try:
        scene = parse(" ".join(words[1:] if words[:1] == ["add"] else words))
    except ValueError:
        return []
    places = [[index for index, one in enumerate(objects) if one.noun == named.noun] for named in scene.objects]
    return [
        Relation(subject=places[one.subject][0], predicate=one.predicate, object=places[one.object][0])
        for one in scene.relations
        if len(places[one.subject]) == len(places[one.object]) == 1
    ]
