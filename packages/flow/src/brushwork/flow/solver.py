"""Euler integration of a velocity from noise to data."""

from collections.abc import Callable
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

Velocity = Callable[[Float[Tensor, "*n dim"], float], Float[Tensor, "*n dim"]]
"""A velocity at (x_t, t); t is one number for all."""


def euler(
    velocity: Velocity,
    noise: Float[Tensor, "*n dim"],
    timesteps: Float[Tensor, " points"],
    *,
    every: int = 1,
    warmup: int = 3,
) -> Float[Tensor, "*n dim"]:
    """Follows `velocity` along `timesteps` (first to last, as `path.timestep_grid` gives them); state in float32.

    Args:
        every: evaluate only every so-many-th step and, in between, extend the last two velocities in a straight line
            over time (the idea of feature caching, at the model's output). 1 evaluates every step.
        warmup: steps that are evaluated in any case, at the start, where the velocity turns most.
    """
    x_t, seen = noise.float(), []
    for step, (now, then) in enumerate(pairwise(timesteps.tolist())):
        if evaluated(step, every=every, warmup=warmup):
            seen = [*seen[-1:], (now, velocity(x_t, now).float())]
            slope = seen[-1][1]
        else:
            (before, older), (last, newer) = seen[0], seen[-1]
            slope = newer + (newer - older) * ((now - last) / (last - before)) if len(seen) > 1 else newer
        x_t = x_t - slope * (now - then)
    return x_t


def evaluated(step: int, *, every: int, warmup: int = 3) -> bool:
    """Whether `euler` asks for the velocity at a step."""
    return step < warmup or (step - warmup) % every == every - 1
