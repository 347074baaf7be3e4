import pytest
import torch
from torch import nn

from brushwork.trainer.average import WeightAverage


def test_the_average_follows_by_its_decay():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    average = WeightAverage(dict(layer.named_parameters()), decay=0.9)
    nn.init.ones_(layer.weight)
    for _ in range(3):
        average.update()
    average.lend()
    assert layer.weight.item() == pytest.approx(1 - 0.9**3)
    average.take_back()
    assert layer.weight.item() == 1.0
    average.write()
    assert layer.weight.item() == pytest.approx(1 - 0.9**3)


def test_a_low_precision_weight_has_a_precise_average():
    """Steps of one part in a thousand would vanish in bfloat16."""
    layer = nn.Linear(4, 4).bfloat16()
    average = WeightAverage(dict(layer.named_parameters()), decay=0.999)
    before = average.state_dict()["weight"].clone()
    with torch.no_grad():
        layer.weight.mul_(1.01)
    average.update()
    average.lend()
    average.take_back()
    moved = average.state_dict()["weight"]
    assert moved.dtype == torch.float32
    assert not torch.equal(moved, before)
    assert (moved - before).abs().max() < 2e-5


def test_frozen_weights_have_no_average_and_state_dicts_restore_it():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    average = WeightAverage(dict(model.named_parameters()), decay=0.5)
    assert set(average.state_dict()) == {"1/weight", "1/bias"}
    nn.init.ones_(model[1].weight)
    average.update()
    other = WeightAverage(dict(model.named_parameters()), decay=0.5)
    other.load_state_dict(average.state_dict())
    assert torch.equal(other.state_dict()["1/weight"], average.state_dict()["1/weight"])
