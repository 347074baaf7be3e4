"""The embedded world: prompts that are true, pictures that are exact, and no leak from what is held out."""

import numpy as np
import pytest

from brushwork.critic.scene import SceneGraph, SceneObject, diff, parse_scene
from brushwork.data.worlds.glyphs import BACKGROUND, PALETTE
from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, OOD_KINDS, SPLITS, ShapesWorld

WORLD = ShapesWorld()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", KINDS + HARD_KINDS)
def test_a_sampled_scene_answers_its_prompt(kind, split):
    rng = np.random.default_rng(0)
    for _ in range(8):
        prompt, scene = WORLD.sample(kind, rng, split)
        wanted = parse_scene(prompt)
        assert diff(wanted, scene) == (), prompt
        assert [one.name for one in wanted.objects] == [one.name for one in scene.objects], "in the prompt's order"
        assert WORLD.prompt(kind, scene) == prompt
        assert len({one.noun for one in scene.objects}) == len(scene.objects) <= WORLD.max_objects


def test_prompts_of_each_kind():
    rng = np.random.default_rng(3)
    assert {kind: WORLD.sample(kind, rng, "test")[0] for kind in (*KINDS, *HARD_KINDS, *OOD_KINDS)} == {
        "single_object": "a circle",
        "two_objects": "a triangle and a square",
        "counting": "three rings",
        "colors": "a green arch",
        "position": "a square right of a cross",
        "color_attribution": "a red circle and a yellow arch",
        "three_objects": "a purple ring and a purple circle and a cyan circle",
        "four_objects": "a green ring and a cyan square and a cyan ring and a yellow ring",
        "chain": "a circle left of a triangle right of a ring",
        "ood_five_objects": "a yellow triangle and a blue circle and a blue ring and a blue triangle and a purple "
        "triangle",
    }


def test_the_same_stream_gives_the_same_scene():
    first, second = (WORLD.sample("position", np.random.default_rng(5), "train") for _ in range(2))
    assert first == second


def test_a_chain_relates_each_object_to_the_next():
    rng = np.random.default_rng(0)
    for _ in range(20):
        prompt, scene = WORLD.sample("chain", rng, "train")
        assert [(one.subject, one.object) for one in scene.relations] == [(0, 1), (1, 2)]
        assert len({one.name for one in scene.objects}) == 3 and parse_scene(prompt).relations == scene.relations


@pytest.mark.parametrize("kind", ["position", "chain"])
def test_of_shapes_that_touch_diagonally_nothing_is_said(kind):
    """By two pixels each towards the other: then neither is left of the other, nor above it."""
    world, rng = ShapesWorld(jitter=2), np.random.default_rng(0)
    assert all(world.sample(kind, rng, "test")[1].relations for _ in range(40 if kind == "position" else 6))


def test_no_scene_of_training_holds_as_many_objects_as_what_is_out_of_distribution():
    rng = np.random.default_rng(0)
    most = max(len(WORLD.sample(kind, rng, "train")[1].objects) for kind in (*KINDS, *HARD_KINDS) * 20)
    (kind,) = OOD_KINDS
    assert most < len(WORLD.sample(kind, rng, "test")[1].objects) == 5


# Holding out


def test_every_combination_has_one_split_in_the_stated_shares():
    for kind in KINDS:
        splits = [split for key, split in WORLD.split_of.items() if key[0] == kind]
        total = len(splits)
        assert splits.count("test") == -(-total // 5) and splits.count("val") == -(-total // 10)


def test_the_number_of_combinations():
    of = {kind: sum(key[0] == kind for key in WORLD.split_of) for kind in KINDS}
    assert of == {
        "single_object": 7,
        "two_objects": 21,
        "counting": 21,
        "colors": 42,
        "position": 84,
        "color_attribution": 630,
    }


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", KINDS + HARD_KINDS)
def test_no_leak(kind, split):
    """No prompt asks for what belongs to another split, and no scene shows what is held out of this one."""
    rng = np.random.default_rng(1)
    held_out = {"val", "test"} if split == "train" else {"test"}
    for _ in range(12):
        _, scene = WORLD.sample(kind, rng, split)
        assert WORLD.split(WORLD.asked(kind, scene)) == split
        assert not {WORLD.split(key) for key in WORLD.held(scene)} & held_out


@pytest.mark.parametrize("kind", (*KINDS, *HARD_KINDS, *OOD_KINDS))
def test_a_test_prompt_is_new_in_one_thing(kind):
    rng = np.random.default_rng(2)
    for _ in range(30):
        _, scene = WORLD.sample(kind, rng, "test")
        asked = WORLD.asked(kind, scene)
        assert WORLD.split(asked) == "test"
        assert {WORLD.split_of[key] for key in WORLD.named(kind, scene) - {asked}} <= {"train"}


def test_a_coloured_shape_is_held_where_it_is_all_there_is():
    alone = parse_scene("a red ring at a1")
    assert WORLD.held(alone) == {("colors", "red ring")}
    assert WORLD.held(alone, finished=False) == set()  # a draft on the way to more


def test_what_a_scene_holds():
    scene = parse_scene("a red ring at a1 and a blue cross at b1 and a green ring at a2")
    assert WORLD.held(scene) == {
        ("two_objects", "cross", "ring"),
        ("position", "ring", "left of", "cross"),
        ("position", "cross", "above", "ring"),
        ("color_attribution", "blue cross", "red ring"),
        ("color_attribution", "blue cross", "green ring"),
        ("counting", "two", "ring"),
        ("three_objects", "blue cross", "green ring", "red ring"),
    }
    assert WORLD.held(scene) - WORLD.held(scene, finished=False) == {
        ("counting", "two", "ring"),
        ("three_objects", "blue cross", "green ring", "red ring"),
    }


def test_prompts_said_either_way_are_one_combination():
    left = parse_scene("a circle left of a square")
    right = parse_scene("a square right of a circle")
    assert (
        WORLD.asked("position", left) == WORLD.asked("position", right) == ("position", "circle", "left of", "square")
    )


def test_training_meets_every_word():
    rng = np.random.default_rng(0)
    prompts = [WORLD.sample(KINDS[index % 6], rng, "train")[0] for index in range(600)]
    met = {word for prompt in prompts for word in prompt.split()}
    plurals = {"circles", "squares", "triangles", "crosses", "rings", "arches", "tees"}
    assert met >= {*WORLD.shapes, *WORLD.colors, *plurals, "two", "three", "four", "left", "right", "above", "below"}


# Drawing


def test_a_picture_pixel_by_pixel():
    image = WORLD.render(parse_scene("a red square at b1 and a blue ring at d4"))
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    expected = np.full((32, 32, 3), BACKGROUND)
    expected[0:7, 8:15] = PALETTE["red"]
    np.testing.assert_array_equal(image[:24], expected[:24])
    assert (image[24:31, 24:31] == PALETTE["blue"]).all(-1).sum() == 28


@pytest.mark.parametrize("one", [SceneObject(name="ring", color="red"), SceneObject(name="ring", x=0.5, y=0.5)])
def test_what_is_not_said_cannot_be_drawn(one):
    with pytest.raises(ValueError, match="needs x, y and one of the colours"):
        WORLD.render(SceneGraph(objects=(one,)))


def test_a_settled_object_is_the_same_pixels_where_the_world_may_have_put_it():
    """As detected: the middle of what is drawn, half a pixel off the place that it was drawn for."""
    rng = np.random.default_rng(0)
    for world in (WORLD, ShapesWorld(jitter=1), ShapesWorld(jitter=2)):
        for kind in (*KINDS, *HARD_KINDS):
            _, scene = world.sample(kind, rng, "train")
            image = world.render(scene)
            seen = [(one, int(one.y * 4) * 4 + int(one.x * 4)) for one in world.detect(image).objects]
            again = SceneGraph(objects=tuple(world.settled(one, cell, one.centre) for one, cell in seen))
            np.testing.assert_array_equal(world.render(again), image)


def test_an_object_settles_as_near_as_its_cell_allows():
    one, world = SceneObject(name="ring", color="red"), ShapesWorld(jitter=1)
    assert world.settled(one, 5, (0.5, 0.36)).centre == (13 / 32, 0.36), "at most a pixel off the middle of b2"
    assert world.settled(one, 0, (0.0, 0.0)).centre == (3.5 / 32, 3.5 / 32), "and on the canvas"
    assert ShapesWorld(jitter=0).settled(one, 5, (0.5, 0.3)).centre == (0.375, 0.375)


def test_jitter_moves_shapes_but_they_never_touch():
    world, rng, places = ShapesWorld(jitter=2), np.random.default_rng(0), set()
    for _ in range(150):
        _, scene = world.sample("counting", rng, "train")
        boxes = [(round(one.x * 32 - 3.75), round(one.y * 32 - 3.75)) for one in scene.objects]
        assert all(0 <= edge <= 25 for box in boxes for edge in box)
        places |= {x % 8 for x, _ in boxes}
        for index, one in enumerate(boxes):
            assert all(max(abs(one[0] - x), abs(one[1] - y)) >= 8 for x, y in boxes[:index])
    assert places == {0, 1, 2, 6, 7}


# Words and settings


def test_words_are_listed_once_in_order():
    words = WORLD.words()
    assert words == tuple(sorted(set(words))) and len(words) == 80
    assert all(word.isalnum() for word in words)


@pytest.mark.parametrize(
    "settings",
    [
        {"shapes": ("circle", "star", "ring")},
        {"shapes": ("circle", "ring")},
        {"colors": ("red", "green", "blue")},
        {"canvas": 30},
        {"canvas": 16},
        {"grid": 10, "canvas": 80},
        {"max_objects": 1},
        {"grid": 2, "canvas": 16, "max_objects": 4},
        {"jitter": 3},
        {"jitter": -1},
        {"held_out": 0.0},
        {"held_out": 0.9, "held_out_val": 0.1},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        ShapesWorld(**settings)


def test_lists_from_yaml_make_the_same_world():
    assert ShapesWorld(shapes=list(WORLD.shapes), colors=list(WORLD.colors)) == WORLD


@pytest.mark.parametrize(("kind", "split"), [("relations", "train"), ("counting", "dev")])
def test_an_unknown_kind_or_split_is_named(kind, split):
    with pytest.raises(ValueError, match=f"kind='{kind}', split='{split}'"):
        WORLD.sample(kind, np.random.default_rng(0), split)


def test_a_chain_is_one_combination_from_whichever_end_it_is_told():
    ends = "an arch left of a square above a ring", "a ring below a square right of an arch"
    one, other = (WORLD.asked("chain", WORLD.parse(prompt)) for prompt in ends)
    assert one == other and WORLD.split(one) == WORLD.split(other)
    assert one != WORLD.asked("chain", WORLD.parse("an arch right of a square above a ring"))
