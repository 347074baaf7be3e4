"""The published BAGEL, by its sizes."""

import torch

from brushwork.flow.model import UnifiedModel
from brushwork.flow.published import BAGEL_7B


def test_the_sizes_are_those_of_the_published_file():
    """Tensors and numbers of `ema.safetensors`, both position tables among them."""
    with torch.device("meta"):
        tensors = UnifiedModel(BAGEL_7B).state_dict().values()
    assert len(tensors) == 1223
    assert sum(tensor.numel() for tensor in tensors) == 14_607_260_128
