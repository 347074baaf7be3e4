"""Planted flaws: one thing wrong, of the kind that is claimed."""

from collections import Counter

import numpy as np
import pytest

from brushwork.critic.scene import SceneGraph, diff, parse_scene
from brushwork.data.subsets.flaws import plant
from brushwork.data.worlds.shapes import ShapesWorld

WORLD = ShapesWorld()


def said(scene: SceneGraph) -> SceneGraph:
    """What a relational plan says of it: no places."""
    return parse_scene(" and ".join(f"a {one.noun}" for one in scene.objects))


def planted(scene: SceneGraph, plan: SceneGraph, num: int = 60) -> Counter:
    rng, kinds = np.random.default_rng(0), Counter()
    for _ in range(num):
        flaw = plant(WORLD, plan, scene, rng, split="test")
        assert [one.kind for one in diff(plan, flaw.scene)] == [flaw.kind]
        kinds[flaw.kind] += 1
    return kinds


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("a red ring at b2", {"color", "shape", "missing", "extra"}),
        ("a red ring at b2 and a blue cross at c3", {"color", "shape", "missing", "extra"}),
        ("a red ring at b2 and a blue ring at c3", {"color", "shape", "extra", "count"}),
        (
            "a red ring at b2 and a blue ring at c3 and a red cross at a1",
            {"color", "shape", "missing", "extra", "count"},
        ),
    ],
)
def test_every_kind_that_applies_is_planted(text, kinds):
    scene = parse_scene(text)
    assert set(planted(scene, said(scene))) == kinds
    assert set(planted(scene, scene)) == kinds | {"place"}, "the plan names cells"


def test_a_misplaced_object_contradicts_the_instruction():
    scene, plan = parse_scene("a red ring at b2 and a blue cross at c3"), parse_scene("a red ring left of a blue cross")
    rng, moved = np.random.default_rng(0), []
    for _ in range(30):
        flaw = plant(WORLD, plan, scene, rng, split="test")
        if flaw.kind == "place":
            ring, cross = flaw.scene.objects
            assert ring == scene.objects[0] and cross.x <= ring.x
            moved.append(cross)
    assert moved


def test_a_flaw_shows_nothing_that_is_held_out():
    rng, scene = np.random.default_rng(0), parse_scene("a green ring at b2")
    held_out = {key for key, split in WORLD.split_of.items() if split != "train"}
    assert not WORLD.held(scene) & held_out
    for _ in range(20):
        flaw = plant(WORLD, scene, scene, rng, split="train")
        assert not WORLD.held(flaw.scene, finished=False) & held_out
