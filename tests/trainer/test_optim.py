import copy
import math

import pytest
import torch
from torch import nn

from brushwork.trainer.optim import MuonAdamW, orthogonalise, quick_precision, warmup_cosine


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Module()
    net.layers = nn.ModuleList([nn.Linear(6, 4), nn.Linear(4, 6)])
    net.head = nn.Linear(6, 3)
    return net


def gradients(net: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 5, 12), (3, 12, 5)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape, dtype):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    values = torch.linalg.svdvals(orthogonalise(matrices).float())
    assert values.min() > 0.3
    assert values.max() < 1.3


@pytest.mark.parametrize(("units", "dtype"), [({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)])
def test_directions_are_found_in_the_precision_that_the_processor_has(monkeypatch, units, dtype):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: units)
    assert quick_precision.__wrapped__("cpu") is dtype
    assert quick_precision("cuda") is torch.bfloat16 and quick_precision("mps") is torch.float32


def test_exact_directions_are_those_of_float32(monkeypatch):
    seen = []
    monkeypatch.setattr("brushwork.trainer.optim.quick_precision", lambda _: torch.bfloat16)
    monkeypatch.setattr(
        "brushwork.trainer.optim.orthogonalise", lambda matrices: seen.append(matrices.dtype) or matrices
    )
    for exact in (True, False):
        net = network()
        gradients(net, 0)
        MuonAdamW(net.named_parameters(), exact=exact).step()
    assert seen == [torch.float32] * 2 + [torch.bfloat16] * 2


def test_everything_but_the_layers_matrices_follows_torchs_adamw():
    net, reference = network(), network()
    ours = MuonAdamW(net.named_parameters(), lr=1e-2, weight_decay=0.1)
    theirs = torch.optim.AdamW(reference.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(5):
        for one, optimizer in ((net, ours), (reference, theirs)):
            gradients(one, step)
            optimizer.step()
    torch.testing.assert_close(net.head.weight, reference.head.weight)
    torch.testing.assert_close(net.layers[0].bias, reference.layers[0].bias)


def test_matrices_follow_torchs_muon():
    """Up to bfloat16, in which torch orthogonalises."""
    net, reference = network(), network()
    ours = MuonAdamW(net.named_parameters(), muon_lr=1e-2, weight_decay=0.1)
    matrices = [layer.weight for layer in reference.layers]
    theirs = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, momentum=0.95)
    for step in range(3):
        for one, optimizer in ((net, ours), (reference, theirs)):
            gradients(one, step)
            optimizer.step()
    for layer, other in zip(net.layers, reference.layers, strict=True):
        torch.testing.assert_close(layer.weight, other.weight, atol=1e-3, rtol=2e-2)


def test_a_resumed_optimiser_goes_on_to_the_bit():
    net = network()
    optimizer = MuonAdamW(net.named_parameters())
    gradients(net, 0)
    optimizer.step()
    other = copy.deepcopy(net)
    resumed = MuonAdamW(other.named_parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, opt in ((net, optimizer), (other, resumed)):
        gradients(one, 1)
        opt.step()
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_parameters_stay():
    net = network()
    net.layers[0].requires_grad_(False)
    before = net.layers[0].weight.clone()
    optimizer = MuonAdamW(net.named_parameters(), weight_decay=0.1)
    gradients(net, 0)
    optimizer.step()
    assert torch.equal(net.layers[0].weight, before)


def test_schedule_warms_up_then_follows_the_progress():
    done = [0.0]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_cosine(optimizer, warmup_steps=4, floor=0.1, progress=lambda: done[0])
    rates = []
    for share in (0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 2.0):
        rates.append(optimizer.param_groups[0]["lr"])
        done[0] = share
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[5] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert rates[6] == pytest.approx(0.1)
