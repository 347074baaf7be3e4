"""Prompts of the embedded world, without end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar

import numpy as np

from brushwork.data.tasks import Task, task_rng
from brushwork.data.worlds.shapes import KINDS, ShapesWorld


@dataclass(frozen=True, kw_only=True)
class ShapesSource:
    """Scenes of the embedded world and the prompts that ask for them.

    Attributes:
        world: samples them; what each split may show is its business.
        kinds: of prompt, taken in turn.
    """

    licence: ClassVar[str] = "Apache-2.0, as this package"

    world: ShapesWorld = field(default_factory=ShapesWorld)
    kinds: Sequence[str] = KINDS

    def __post_init__(self) -> None:
        """Raises ValueError where the config has left the world out."""
        if not isinstance(self.world, ShapesWorld):
            raise ValueError("source=shapes needs the embedded world: leave '~world' away, or choose a corpus")

    def __call__(self, split: str, part: int, parts: int, seed: int) -> Iterator[Task]:
        """Tasks without end; the scenes have colours and places, see `ShapesWorld.sample`."""
        for number in count():
            kind, rng = self.kinds[(part + number) % len(self.kinds)], task_rng(seed, split, part, number)
            yield shapes_task(self.world, kind, rng, split)


def shapes_task(world: ShapesWorld, kind: str, rng: np.random.Generator, split: str) -> Task:
    """A prompt of the embedded world with a scene that answers it; ValueError as `ShapesWorld.sample`."""
    prompt, scene = world.sample(kind, rng, split)
    return Task(prompt=prompt, split=split, rng=rng, scene=scene, kind=kind, meta={"source": "shapes"})
