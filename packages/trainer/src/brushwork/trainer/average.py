"""An exponential moving average of the weights that train, wherever their shards lie."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """Keeps the average in buffers, so that checkpoints hold it; a sharded weight's average is sharded alike.

    Frozen weights are not averaged: of a LoRA the average is as small as the adapters.

    Args:
        parameters: the weights by name; those that do not train are left out.
        decay: share of the old average that stays at each step.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        super().__init__()
        self.decay = decay
        self._kept: list[Tensor] = []
        self._parameters_of = {_buffer(name): p for name, p in parameters.items() if p.requires_grad}
        for name, parameter in self._parameters_of.items():
            self.register_buffer(name, parameter.detach().float().clone())

    def _pairs(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for name, parameter in self._parameters_of.items():
            yield parameter, getattr(self, name)

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the weights, after a step of the optimiser."""
        for parameter, average in self._pairs():
            average.lerp_(parameter.detach().to(average.dtype), 1 - self.decay)

    @torch.no_grad()
    def write(self) -> None:
        """Gives the model the average for good."""
        for parameter, average in self._pairs():
            parameter.copy_(average)

    @torch.no_grad()
    def lend(self) -> None:
        """Gives the model the average until `take_back`; the weights are kept beside it."""
        self._kept = [parameter.detach().clone() for parameter, _ in self._pairs()]
        self.write()

    @torch.no_grad()
    def take_back(self) -> None:
        """Gives the model its own weights again."""
        for (parameter, _), weights in zip(self._pairs(), self._kept, strict=True):
            parameter.copy_(weights)
        self._kept = []


def _buffer(name: str) -> str:
    """A parameter's name as a buffer may bear it: without dots."""
    return name.replace(".", "/")
