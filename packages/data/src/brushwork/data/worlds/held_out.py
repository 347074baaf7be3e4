"""Whether a prompt that somebody made up asks for what the embedded world keeps for its tests."""

from collections import Counter

from brushwork.critic.scene import NUMBERS, SceneGraph
from brushwork.data.worlds.shapes import HARD_KINDS, ShapesWorld


def asks_for_held_out(world: ShapesWorld, prompt: str) -> bool:
    """True where a prompt names a combination that is not of the world's train split, see `ShapesWorld`.

    Free words, which the world does not know, name none.
    """
    try:
        scene = world.parse(prompt)
    except ValueError:
        return False
    kind = _kind(scene)
    shapes = Counter(one.name for one in scene.objects)
    counted = {("counting", NUMBERS[n - 1], name) for name, n in shapes.items() if 1 < n <= len(NUMBERS)}
    splits = [world.split_of.get(key, "train") for key in world.named(kind, scene) | counted]
    if kind in HARD_KINDS:  # these are not listed but told by a hash
        splits.append(world.split(world.asked(kind, scene)))
    return any(split != "train" for split in splits)


def _kind(scene: SceneGraph) -> str:
    """The kind that a prompt for such a scene is of; where it is of none, one whose pairs it has."""
    has_colors, relations = all(one.color for one in scene.objects), len(scene.relations)
    match len(scene.objects):
        case 1:
            return "colors" if has_colors else "single_object"
        case 2 if relations:
            return "position"
        case 3 if relations == 2:
            return "chain"
        case 3 if has_colors and not relations:
            return "three_objects"
        case 4 if has_colors and not relations:
            return "four_objects"
    return "color_attribution" if has_colors else "two_objects"
