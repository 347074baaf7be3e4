"""The detector: exact on what the world draws, robust to mild noise, and not to be fooled."""

import numpy as np
import pytest

from brushwork.critic.scene import SceneGraph, parse_scene
from brushwork.data.worlds.detector import UNRECOGNISED, ShapesDetector
from brushwork.data.worlds.glyphs import BACKGROUND, PALETTE
from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, ShapesWorld

WORLDS = [
    ShapesWorld(),
    ShapesWorld(jitter=1),
    ShapesWorld(canvas=30, grid=3),
    ShapesWorld(canvas=64, jitter=3),
    ShapesWorld(canvas=24, grid=4, max_objects=6, shapes=("ring", "circle", "square")),
]


def draw(text: str) -> np.ndarray:
    return ShapesWorld().render(parse_scene(text))


def found(image: np.ndarray) -> list[str]:
    return sorted(one.noun for one in ShapesDetector()(image).objects)


def objects(scene: SceneGraph, world: ShapesWorld) -> list[tuple[str, str | None, int, int]]:
    return sorted(
        (one.name, one.color, round(one.x * world.canvas), round(one.y * world.canvas)) for one in scene.objects
    )


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_what_is_drawn_is_found_where_it_was_drawn(world):
    rng = np.random.default_rng(0)
    hard = HARD_KINDS if len(world.shapes) > 3 else ()  # of three shapes no chain of three is left to train on
    for kind in (*KINDS, *hard) * 2:
        _, scene = world.sample(kind, rng, "train")
        seen = world.detect(world.render(scene))
        assert sorted(one.noun for one in seen.objects) == sorted(one.noun for one in scene.objects)
        np.testing.assert_array_equal(world.render(seen), world.render(scene))


def test_every_shape_in_every_color_and_corner():
    for shape in ShapesWorld().shapes:
        for color in ShapesWorld().colors:
            for cell in ("a1", "d1", "a4", "d4", "b2"):
                assert found(draw(f"a {color} {shape} at {cell}")) == [f"{color} {shape}"]


def test_neighbours_of_one_color_stay_apart():
    text = "a red square at b2 and a red ring at b3 and a red circle at c2 and a red cross at c3"
    assert found(draw(text)) == ["red circle", "red cross", "red ring", "red square"]


def test_reading_order_and_centres():
    first, second = ShapesDetector()(draw("a red ring at a2 and a blue cross at d1")).objects
    assert (first.noun, second.noun) == ("blue cross", "red ring")
    assert (second.x, second.y) == (3.5 / 32, 11.5 / 32)


def test_mild_noise_changes_nothing():
    rng = np.random.default_rng(0)
    image = draw("a red ring at a2 and a blue cross at d1 and a yellow circle at c3 and a cyan triangle at b4")
    for _ in range(20):
        noisy = np.clip(image + rng.normal(0, 30, image.shape), 0, 255).astype(np.uint8)
        assert found(noisy) == ["blue cross", "cyan triangle", "red ring", "yellow circle"]


def test_an_empty_canvas_and_pure_noise():
    assert found(np.full((32, 32, 3), BACKGROUND, dtype=np.uint8)) == []
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert all(noun.endswith(UNRECOGNISED) for noun in found(noise))


def test_specks_are_ignored_and_blobs_are_not():
    image = draw("a red ring at a2")
    image[20:22, 20:22] = PALETTE["blue"]
    assert found(image) == ["red ring"]
    image[20:22, 20:23] = PALETTE["blue"]
    assert found(image) == ["blue smudge", "red ring"]


def test_half_a_shape_is_a_smudge():
    image = draw("a red square at b2")
    image[12:15, 8:15] = PALETTE["blue"]
    assert found(image) == ["blue smudge", "red smudge"]


def test_two_shapes_that_run_together_are_a_smudge():
    image = draw("a red square at b2 and a red square at c2")
    image[8:15, 15] = PALETTE["red"]
    assert found(image) == ["red smudge"]


def test_a_lost_tip_does_not_matter():
    image = draw("a red triangle at b2")
    image[9, 8:15] = BACKGROUND
    assert found(image) == ["red triangle"]


@pytest.mark.parametrize("shape", [(16, 16, 3), (32, 64, 3)])
def test_another_size_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(32, 32, 3\)"):
        ShapesDetector()(np.zeros(shape, dtype=np.uint8))
