"""Euler integration of a velocity from noise to data."""

from collections.abc import Callable
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

Velocity = Callable[[Float[Tensor, "*n dim"], float], Float[Tensor, "*n dim"]]
"""A velocity at (x_t, t); t is one number for all."""


def euler(
    velocity: Velocity, noise: Float[Tensor, "*n dim"], timesteps: Float[Tensor, " points"]
) -> Float[Tensor, "*n dim"]:
    """Follows `velocity` along `timesteps` (first to last, as `path.timestep_grid` gives them); state in float32."""
    x_t = noise.float()
    times = timesteps.tolist()
    for now, then in pairwise(times):
        x_t = x_t - velocity(x_t, now).float() * (now - then)
    return x_t
