"""Optimisers and the learning-rate schedule."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

# Coefficients of the quintic that the Muon write-up uses; torch.optim.Muon has the same.
_QUINTIC = (3.4445, -4.7750, 2.0315)


@cache
def quick_precision(device_type: str) -> torch.dtype:
    """The narrowest precision that such a device multiplies matrices in by itself: bfloat16, or float32.

    A CPU without bfloat16 units emulates it, several times slower than float32.
    """
    if device_type == "cuda":
        return torch.bfloat16
    able = torch.cpu.get_capabilities() if device_type == "cpu" else {}
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def orthogonalise(matrices: Float[Tensor, "n rows columns"], *, steps: int = 5) -> Float[Tensor, "n rows columns"]:
    """Replaces the singular values of each matrix by numbers near 1 (0.7 to 1.2), by Newton-Schulz iteration.

    The iteration runs in the precision of `matrices`; bfloat16 is enough for it (the Muon write-up).
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.mT if tall else x


class MuonAdamW(Optimizer):
    """Muon for the matrices of the decoder layers, AdamW for everything else.

    `torch.optim.Muon` orthogonalises one matrix at a time, always in bfloat16. A small model on a CPU without bfloat16
    units spends more time there than in its own forward pass; here matrices of one shape go through together, in
    bfloat16 where the device has such units (`quick_precision`) and in float32 elsewhere. Rounding to bfloat16 makes
    much of the last bits of a gradient, in which shards and one process differ: `exact` keeps the two together.

    Args:
        named_parameters: as `nn.Module.named_parameters` gives them.
        lr: step size of AdamW.
        muon_lr: step size of Muon.
        momentum: of Muon (Nesterov).
        betas, eps, weight_decay: of AdamW; weight decay (decoupled) serves both.
        exact: find Muon's directions in float32 on every device.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float = 2e-3,
        muon_lr: float = 0.02,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        exact: bool = False,
    ) -> None:
        matrices, others = [], []
        for name, parameter in named_parameters:
            if parameter.requires_grad:
                (matrices if parameter.ndim == 2 and ".layers." in f".{name}" else others).append(parameter)
        groups = [
            {"params": matrices, "lr": muon_lr, "muon": True},
            {"params": others, "lr": lr, "muon": False},
        ]
        defaults = {
            "momentum": momentum,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "exact": exact,
        }
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            (self._step_muon if group["muon"] else self._step_adamw)(parameters, group)
        return loss

    def _state(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]

    def _step_muon(self, parameters: list[Tensor], group: dict) -> None:
        momenta = self._state(parameters, "momentum")
        gradients = _gradients(parameters)
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
        by_shape = defaultdict(list)
        for parameter, update in zip(parameters, updates, strict=True):
            by_shape[parameter.shape].append((parameter, update))
        for (rows, columns), pairs in by_shape.items():
            stacked = torch.stack([update for _, update in pairs])
            precision = torch.float32 if group["exact"] else quick_precision(stacked.device.type)
            directions = orthogonalise(stacked.to(precision)).to(stacked.dtype)
            scale = max(1.0, rows / columns) ** 0.5
            torch._foreach_add_([p for p, _ in pairs], list(directions.unbind()), alpha=-group["lr"] * scale)

    def _step_adamw(self, parameters: list[Tensor], group: dict) -> None:
        first, second = self._state(parameters, "exp_avg"), self._state(parameters, "exp_avg_sq")
        gradients, (beta1, beta2) = _gradients(parameters), group["betas"]
        group["step"] = step = group.get("step", 0) + 1
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
        denominators = torch._foreach_sqrt(second)
        torch._foreach_div_(denominators, math.sqrt(1 - beta2**step))
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_addcdiv_(parameters, first, denominators, value=-group["lr"] / (1 - beta1**step))


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def warmup_cosine(optimizer: Optimizer, *, warmup_steps: int, floor: float, progress: Callable[[], float]) -> LambdaLR:
    """Linear warm-up over optimiser steps, then a cosine from the full learning rate to `floor` times it.

    Args:
        progress: how much of the training is over, 0 to 1, by steps or by elapsed time, so that runs of equal *time*
            anneal fully whatever their speed.
    """

    def factor(step: int) -> float:
        decay = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress())))
        return min(1.0, (step + 1) / max(1, warmup_steps)) * decay

    return LambdaLR(optimizer, factor)
