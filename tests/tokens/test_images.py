import pytest
import torch

from brushwork.tokens.images import patchify, unpatchify


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
