"""How shapes and colours look."""

from itertools import combinations

import numpy as np
import pytest

from brushwork.data.worlds.glyphs import BACKGROUND, NAMES, PALETTE, bitmap

DRAWN = """
..###..   #######   ...#...   ##...##   ..###..   #######   #######
.#####.   #######   ...#...   ###.###   .#####.   #######   #######
#######   #######   ..###..   .#####.   ##...##   ##...##   ..###..
#######   #######   ..###..   ..###..   ##...##   ##...##   ..###..
#######   #######   .#####.   .#####.   ##...##   ##...##   ..###..
.#####.   #######   .#####.   ###.###   .#####.   ##...##   ..###..
..###..   #######   #######   ##...##   ..###..   ##...##   ..###..
"""


def test_the_shapes_at_seven_pixels():
    rows = [row.split() for row in DRAWN.split("\n") if row]
    for index, name in enumerate(NAMES):
        expected = [[pixel == "#" for pixel in row[index]] for row in rows]
        np.testing.assert_array_equal(bitmap(name, 7), expected, err_msg=name)


@pytest.mark.parametrize("size", [5, 6, 7, 8, 9, 11, 15, 31])
def test_no_two_shapes_overlap_too_much(size):
    for one, other in combinations(NAMES, 2):
        a, b = bitmap(one, size), bitmap(other, size)
        assert (a & b).sum() / (a | b).sum() < 0.85, (one, other)


def test_colors_are_far_apart():
    codes = np.array([*PALETTE.values(), BACKGROUND], dtype=float)
    assert min(np.linalg.norm(a - b) for a, b in combinations(codes, 2)) > 190


def test_an_unknown_shape_is_named():
    with pytest.raises(ValueError, match="'star'"):
        bitmap("star", 7)


def test_bitmaps_are_shared_and_therefore_locked():
    with pytest.raises(ValueError, match="read-only"):
        bitmap("ring", 7)[0, 0] = True
