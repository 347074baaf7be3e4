import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brushwork.tokens.images import (
    ResizeRule,
    interpolated_index,
    patchify,
    rgb,
    table_index,
    unpatchify,
    vision_patches,
)


def test_patch_order_is_row_column_channel():
    latents = torch.arange(2 * 4 * 4).float().view(1, 2, 4, 4)
    tokens = patchify(latents, 2)
    assert tokens.shape == (1, 4, 8)
    # Token 1 is the top right patch: rows 0-1, columns 2-3, both channels of a cell side by side.
    assert tokens[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]


def test_round_trip():
    latents = torch.randn(3, 4, 6, 10)
    assert torch.equal(unpatchify(patchify(latents, 2), 2, (3, 5)), latents)


def test_sizes_that_do_not_divide():
    with pytest.raises(ValueError, match="5x4"):
        patchify(torch.zeros(1, 3, 5, 4), 2)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([ResizeRule(max_size=980, min_size=224, stride=14)]))
def test_resized_sides_are_multiples_within_bounds(width, height, rule):
    sides = rule.size(width, height)
    assert all(side % rule.stride == 0 and side >= rule.stride for side in sides)
    if max(width, height) <= 4 * min(width, height):  # otherwise the shorter side's bound wins
        assert max(sides) <= rule.max_size


def test_a_picture_of_the_right_size_stays_as_it_is():
    image = np.zeros((224, 280, 3), np.uint8)
    assert ResizeRule(max_size=980, min_size=224, stride=14)(image) is image


def test_what_is_transparent_becomes_white():
    image = PIL.Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    assert rgb(image).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert rgb(PIL.Image.new("L", (1, 1), 7)).tolist() == [[[7, 7, 7]]]


def test_vision_patches_are_in_row_column_channel_order():
    image = torch.arange(2 * 4 * 3, dtype=torch.uint8).view(2, 4, 3)
    patches = vision_patches(image, 2)
    assert patches.shape == (2, 12)
    assert ((patches[1] + 1) * 127.5).round().tolist() == [6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23]


def test_table_rows():
    cells = torch.tensor([[0, 0], [0, 1], [1, 0]])
    assert table_index(cells, 5).tolist() == [0, 1, 5]
    with pytest.raises(ValueError, match="2x2 patches exceeds the position table of side 1"):
        table_index(cells, 1)
    assert interpolated_index((1, 2), 4).tolist() == [0, 2]


def test_a_picture_of_one_pixel_is_resized_without_being_computed():
    """Batches are laid out by such pictures, hundreds at a time."""
    blank = np.broadcast_to(np.full((1, 1, 3), 7, dtype=np.uint8), (512, 384, 3))
    resized = ResizeRule(max_size=980, min_size=224, stride=14)(blank)
    assert resized.shape == (518, 378, 3) and resized.strides[:2] == (0, 0)
    assert (resized == 7).all()
