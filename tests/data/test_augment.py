"""Typed edits: applied, undone, said; and detours that end where the straight way does."""

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brushwork.critic.judges.oracle import OraclePlanCritic
from brushwork.critic.scene import Relation, SceneGraph, SceneObject
from brushwork.data.augment import Augmentation, add, change, everyday, instruction, remove, straight
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subgraphs import expand
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.worlds.shapes import KINDS, ShapesWorld
from brushwork.data.worlds.staging import proposer, related

WORLD = ShapesWorld()
RING, CROSS = SceneObject(name="ring", color="red", x=0.1, y=0.1), SceneObject(name="cross", color="blue", x=0.9, y=0.1)
SCENE = SceneGraph(objects=(RING, CROSS), relations=(Relation(subject=1, predicate="right of", object=0),))
EDITS = [
    add(SCENE, replace(RING, color="green"), [Relation(subject=2, predicate="above", object=0)]),
    remove(SCENE, 0),
    remove(SCENE, 1),
    change(SCENE, 0, replace(RING, color="blue")),
    change(SCENE, 1, replace(CROSS, name="square")),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: f"{edit.operation}-{edit.index}")
def test_an_edit_is_undone_by_its_inverse(edit):
    changed = edit(SCENE)
    assert changed != SCENE and edit.inverse(changed) == SCENE
    assert edit.inverse.inverse == edit


def test_relations_of_the_others_follow_their_numbers():
    square = replace(CROSS, name="square", y=0.9)
    scene = SceneGraph(objects=(*SCENE.objects, square), relations=(Relation(subject=2, predicate="below", object=1),))
    first = remove(scene, 0)
    assert first(scene).relations == (Relation(subject=1, predicate="below", object=0),)
    assert first.inverse(first(scene)) == scene


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (EDITS[0], "add a green ring above the red ring"),
        (EDITS[1], "remove the red ring"),
        (EDITS[2], "remove the blue cross"),
        (EDITS[3], "make the red ring blue"),
        (EDITS[4], "replace the blue cross with a blue square"),
    ],
)
def test_an_edit_in_words(edit, words):
    assert instruction(SCENE, edit) == words


def test_a_new_object_can_be_placed_by_its_cell():
    assert instruction(SCENE, add(SCENE, replace(RING, name="square", y=0.9)), grid=4) == "add a red square at a4"


def test_a_relation_that_cannot_be_turned_around_is_said_of_the_new_object():
    man, horse = SceneObject(name="man"), SceneObject(name="horse")
    scene = SceneGraph(objects=(man,))
    edit = add(scene, horse, [Relation(subject=0, predicate="riding", object=1)])
    assert instruction(scene, edit) == "add a horse so that the man is riding it"


def test_an_edit_of_another_scene_is_refused():
    with pytest.raises(ValueError, match="the scene holds"):
        remove(SCENE, 0)(SceneGraph(objects=(CROSS,)))


def way(kind: str, seed: int, augmentation: Augmentation, max_images: int = 5):
    rng = np.random.default_rng(seed)
    _, scene = WORLD.sample(kind, rng, "train")
    stages = expand(related(WORLD, scene, rng))
    return stages, augmentation(stages, rng, proposer(WORLD, "train", rng), max_images=max_images)


@settings(deadline=None)
@given(
    st.sampled_from(KINDS), st.integers(0, 10_000), st.sampled_from([Augmentation(rate=1.0), Augmentation(rate=0.4)])
)
def test_a_detour_ends_where_the_straight_way_does(kind, seed, augmentation):
    stages, steps = way(kind, seed, augmentation)
    assert len(stages) <= len(steps) <= 5
    scene = SceneGraph(objects=())
    for edits in steps:
        for edit in edits:
            after = edit(scene)
            assert edit.inverse(after) == scene
            scene = after
        assert WORLD.admits(scene, "train", finished=False), "no step shows what is held out"
    assert scene.objects == stages[-1].objects and set(scene.relations) == set(stages[-1].relations)


@pytest.mark.parametrize("operation", ["refine", "remove", "swap"])
def test_the_mix_is_a_setting(operation):
    weights = {"refine": 0.0, "remove": 0.0, "swap": 0.0, operation: 1.0}
    counts = Counter()
    for seed in range(30):
        _, steps = way("two_objects", seed, Augmentation(rate=0.5, **weights))
        counts.update(edit.operation for edits in steps for edit in edits)
    assert set(counts) == {"add", operation}


def test_without_detours_objects_are_added_one_by_one():
    stages, steps = way("counting", 3, Augmentation(rate=0.0))
    assert steps == [straight(a, b) for a, b in zip((SceneGraph(objects=()), *stages), stages, strict=False)]


def test_a_way_with_detours_never_contradicts_its_prompt_in_the_end():
    """The critic of plans and the builder of plans agree, whatever is made another, replaced or removed on the way."""
    tasks = [shapes_task(WORLD, KINDS[n % 6], np.random.default_rng(n), "train") for n in range(120)]
    drawn = multi_turn(tasks, drawing=shapes_drawing(WORLD), augmentation=Augmentation(rate=0.8))
    critic = OraclePlanCritic()
    verdicts = [critic(one.prompt, [step.plan for step in one.steps]) for one in drawn]
    assert all(verdict.step is None for verdict in verdicts)


def test_in_the_world_at_large_a_detour_makes_no_twin_and_no_rider_of_a_clock():
    cups = SceneGraph(objects=(SceneObject(name="cup", color="red"), SceneObject(name="cup", color="black")))
    riding = (Relation(subject=1, predicate="riding", object=0),)
    rider = SceneGraph(objects=(SceneObject(name="horse"), SceneObject(name="man", color="red")), relations=riding)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        for scene in (cups, rider):
            steps = Augmentation(rate=1.0)(expand(scene), rng, partial(everyday, rng=rng), max_images=5)
            now = SceneGraph(objects=())
            for edit in (edit for edits in steps for edit in edits):
                now = edit(now)
                assert len({one.noun for one in now.objects}) == len(now.objects)
                assert all(now.objects[one.subject].name == "man" for one in now.relations)


def test_there_is_no_detour_without_room_for_its_images():
    for seed in range(20):
        stages, steps = way("two_objects", seed, Augmentation(rate=1.0), max_images=2)
        assert len(steps) == len(stages)


def test_pictures_of_the_world_at_large_have_detours_too():
    scene, rng = SceneGraph(objects=(SceneObject(name="dog", color="black"), SceneObject(name="sofa"))), None
    operations = Counter()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        steps = Augmentation(rate=1.0)(expand(scene), rng, partial(everyday, rng=rng), max_images=5)
        end = SceneGraph(objects=())
        for edit in (edit for edits in steps for edit in edits):
            end = edit(end)
            operations[edit.operation] += 1
        assert end == scene
    assert set(operations) == {"add", "refine", "remove", "swap"}


@pytest.mark.parametrize("settings", [{"rate": 1.1}, {"swap": -1.0}, {"refine": 0.0, "remove": 0.0, "swap": 0.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="expected a rate of 0 to 1"):
        Augmentation(**settings)
