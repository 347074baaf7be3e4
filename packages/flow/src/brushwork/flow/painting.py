"""Draws the images that rows wait for, and drops those that somebody finds not worth finishing."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from brushwork.flow.engine import Engine, GuidedVelocity
from brushwork.flow.path import timestep_grid
from brushwork.flow.solver import euler
from brushwork.flow.writing import Drawing, Row
from brushwork.tokens.roles import Look
from brushwork.tokens.trajectory import Image

DROPPED = "dropped"
"""Why a trajectory stopped whose unfinished picture was not worth going on with."""


def paint(
    engine: Engine,
    rows: Sequence[Row],
    grid: tuple[int, int],
    *,
    shift: float = 1.0,
    every: int = 1,
    look: Look | None = None,
) -> Iterator[tuple[Row, Image]]:
    """The picture that each row's `drawing` asks for, unless it is dropped.

    Args:
        engine: holds the rows' contexts.
        rows: those with equally many steps are drawn together.
        grid: rows and columns of latent patches.
        shift: of the timesteps.
        every: see `solver.euler`.
        look: ends those rows whose pictures it does not keep.

    Raises:
        ValueError: the look does not give one answer a picture.
    """
    for steps, group in groupby(sorted(rows, key=_steps), key=_steps):
        together = list(group)
        drawings = [_drawing(row) for row in together]
        velocity = engine.velocity([drawing.view for drawing in drawings], grid)
        x = euler(
            velocity,
            torch.stack([drawing.noise for drawing in drawings]).to(engine.device),
            timestep_grid(steps, shift=shift),
            every=every,
            regime=engine.guidance.active,
            select=None if look is None else partial(_select, look, engine, together, velocity),
        )
        for row, image in zip(together, engine.pictures(x, grid), strict=True):
            row.denoise_steps += steps
            row.images_drawn += 1
            yield row, image


def _select(
    look: Look,
    engine: Engine,
    rows: list[Row],
    velocity: GuidedVelocity,
    step: int,
    data: Float[Tensor, "rows tokens dim"],
) -> Int[Tensor, " kept"] | None:
    """Shows unfinished pictures; takes those that are not kept out of `rows` and `velocity`."""
    if step not in look.steps:
        return None
    answers = list(look.keep([row.number for row in rows], engine.pictures(data, velocity.grid), step))
    if len(answers) != len(rows):
        raise ValueError(f"{type(look).__qualname__}.keep gave {len(answers)} answers for {len(rows)} pictures")
    if all(answers):
        return None
    for row, is_kept in zip(rows, answers, strict=True):
        if not is_kept:
            row.denoise_steps += step
            row.drawing = None
            row.end(DROPPED)
    kept = [number for number, is_kept in enumerate(answers) if is_kept]
    rows[:] = [rows[number] for number in kept]
    velocity.keep(kept)
    return torch.tensor(kept, dtype=torch.long, device=data.device)


def _drawing(row: Row) -> Drawing:
    assert row.drawing is not None, "only rows that wait for an image are painted"
    return row.drawing


def _steps(row: Row) -> int:
    return _drawing(row).steps
