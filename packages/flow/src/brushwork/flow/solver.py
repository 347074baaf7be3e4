"""Euler integration of a velocity from noise to data."""

from collections.abc import Callable
from itertools import pairwise

from jaxtyping import Float, Int
from torch import Tensor

Velocity = Callable[[Float[Tensor, "*n dim"], float], Float[Tensor, "*n dim"]]
"""A velocity at (x_t, t); t is one number for all."""

Selection = Callable[[int, Float[Tensor, "n *tokens dim"]], Int[Tensor, " kept"] | None]
"""From the steps taken and the data predictions to the indexes of those to go on with; None for all."""


def euler(
    velocity: Velocity,
    noise: Float[Tensor, "*n dim"],
    timesteps: Float[Tensor, " points"],
    *,
    every: int = 1,
    warmup: int = 3,
    regime: Callable[[float], object] = lambda _: None,
    select: Selection | None = None,
) -> Float[Tensor, "*left dim"]:
    """Follows `velocity` along `timesteps` (first to last, as `path.timestep_grid` gives them); state in float32.

    Args:
        every: evaluate only every so-many-th step and, in between, extend the last two velocities in a straight line
            over time (the idea of feature caching, at the model's output). 1 evaluates every step.
        warmup: steps that are evaluated in any case, at the start, where the velocity turns most.
        regime: what kind of velocity a time has (guided or not); nothing is extended from one kind to another.
        select: asked after each step but the last; what it leaves out along the first axis is gone from then on, and
            `velocity` must know. Where nothing is left, no further step is taken.
    """
    x_t, skipped, kind = noise.float(), 0, None
    seen: list[tuple[float, Tensor]] = []  # the last two evaluations of this kind, as (time, velocity)
    last = len(timesteps) - 2
    for step, (now, then) in enumerate(pairwise(timesteps.tolist())):
        if regime(now) != kind:
            kind, seen = regime(now), []
        if step < warmup or not seen or skipped >= every - 1:
            seen, skipped = [*seen[-1:], (now, velocity(x_t, now).float())], 0
            slope = seen[-1][1]
        else:
            skipped += 1
            slope = _extended(seen, now)
        before, x_t = x_t, x_t - slope * (now - then)
        if select is None or step == last:
            continue
        if (kept := select(step + 1, before - slope * now)) is not None:
            x_t, seen = x_t[kept], [(time, velocities[kept]) for time, velocities in seen]
            if not len(x_t):
                break
    return x_t


def _extended(seen: list[tuple[float, Tensor]], now: float) -> Tensor:
    (before, older), (last, newer) = seen[0], seen[-1]
    return newer if len(seen) == 1 else newer + (newer - older) * ((now - last) / (last - before))
