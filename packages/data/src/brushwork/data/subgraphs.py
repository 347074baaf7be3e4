"""Nested sub-graphs: a scene cut into steps, none of which contradicts a later one (paper, data construction)."""

from brushwork.critic.scene import INVERSE, Relation, SceneGraph


def expand(scene: SceneGraph, max_steps: int = 5) -> list[SceneGraph]:
    """The scene after each step, growing from its first objects to the whole.

    An object comes with its attributes, and after the objects that it is said to stand in a relation to; otherwise the
    order is the scene's. So each sub-graph is said by the whole, none says what a later one takes back, and the last
    one is the scene with its objects in the order in which they are drawn.

    Args:
        scene: at least one object.
        max_steps: where there are more objects, they share the steps evenly.

    Raises:
        ValueError: no object, or `max_steps` below 1.
    """
    if not scene.objects or max_steps < 1:
        raise ValueError(f"{len(scene.objects)} objects in {max_steps} steps: expected at least one of each")
    whole = _reordered(scene, _order(scene))
    num_objects = len(whole.objects)
    num_steps = min(num_objects, max_steps)
    return [subgraph(whole, num_objects * step // num_steps) for step in range(1, num_steps + 1)]


def subgraph(scene: SceneGraph, num_objects: int) -> SceneGraph:
    """The first objects of a scene, and what is said among them."""
    among = tuple(one for one in scene.relations if max(one.subject, one.object) < num_objects)
    return SceneGraph(objects=scene.objects[:num_objects], relations=among)


def _order(scene: SceneGraph) -> list[int]:
    """Every object after those that it refers to, else as given; a circle of references is cut at its first object.

    A relation with an opposite ("left of") can be said from either end and binds nobody.
    """
    needs: dict[int, set[int]] = {index: set() for index in range(len(scene.objects))}
    for one in scene.relations:
        if one.predicate not in INVERSE and one.subject != one.object:
            needs[one.subject].add(one.object)
    order: list[int] = []
    while len(order) < len(needs):
        left = [index for index in needs if index not in order]
        order.append(next((index for index in left if needs[index] <= set(order)), left[0]))
    return order


def _reordered(scene: SceneGraph, order: list[int]) -> SceneGraph:
    """The scene with its objects in this order, and relations said from the later object where that is possible."""
    place = {index: number for number, index in enumerate(order)}
    relations = [
        _from_the_later(Relation(subject=place[one.subject], predicate=one.predicate, object=place[one.object]))
        for one in scene.relations
    ]
    return SceneGraph(objects=tuple(scene.objects[index] for index in order), relations=tuple(relations))


def _from_the_later(one: Relation) -> Relation:
    if one.subject < one.object and one.predicate in INVERSE:
        return Relation(subject=one.object, predicate=INVERSE[one.predicate], object=one.subject)
    return one
