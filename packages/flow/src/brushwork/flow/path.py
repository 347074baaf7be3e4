"""The straight path between data and noise, and the time convention of the whole project.

t = 0 is data, t = 1 is noise, `x_t = (1 - t) * data + t * noise`, and the velocity is `noise - data`. BAGEL's released
weights demand this direction (BAGEL).
"""

from jaxtyping import Float
from torch import Generator, Tensor, linspace, randn


def shift_timesteps(timesteps: Float[Tensor, "*n"], shift: float) -> Float[Tensor, "*n"]:
    """Moves timesteps in [0, 1] towards noise (shift > 1) or data (shift < 1); 0 and 1 stay (BAGEL)."""
    return shift * timesteps / (1 + (shift - 1) * timesteps)


def sample_timesteps(count: int, *, shift: float = 1.0, generator: Generator | None = None) -> Float[Tensor, " n"]:
    """Draws training timesteps: the logistic of a standard normal, shifted. Values lie in (0, 1)."""
    return shift_timesteps(randn(count, generator=generator).sigmoid(), shift)


def timestep_grid(num_steps: int, *, shift: float = 1.0) -> Float[Tensor, " points"]:
    """The times at which a sampler stops: 1 (noise) down to 0 (data), `num_steps` steps, hence one point more.

    BAGEL counts points: its `num_timesteps=50` is `num_steps=49` here.
    """
    return shift_timesteps(linspace(1.0, 0.0, num_steps + 1), shift)


def interpolate(
    data: Float[Tensor, "n dim"], noise: Float[Tensor, "n dim"], timesteps: Float[Tensor, " n"]
) -> Float[Tensor, "n dim"]:
    """The point x_t on the path."""
    t = timesteps[:, None]
    return (1 - t) * data + t * noise


def velocity_from_data(
    data: Float[Tensor, "n dim"], x_t: Float[Tensor, "n dim"], timesteps: Float[Tensor, " n"], *, floor: float = 0.05
) -> Float[Tensor, "n dim"]:
    """The velocity at `x_t` of a path that starts in `data`: `(x_t - data) / t`.

    Args:
        floor: smallest t to divide by, so that a data prediction's error is not blown up near t = 0.
    """
    return (x_t - data) / timesteps[:, None].clamp(min=floor)
