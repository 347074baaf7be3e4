"""Held-out prompts of the embedded world, the six GenEval kinds in equal numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from brushwork.data.worlds.shapes import KINDS, ShapesWorld
from brushwork.eval.benchmark import BenchmarkPrompt

MAX_REPEATS = 50
"""Repeated prompts in a row after which a kind has no new one to give: some have fewer than are asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapesBenchmark:
    """Prompts that hold a combination which training never showed (see `ShapesWorld` for what is held out).

    Prompts of a kind are distinct as long as the held-out set has distinct ones to give; beyond that they repeat with
    other seeds, so that an interval over them speaks of drawing these prompts again, not of new prompts.

    Attributes:
        world: where prompts and their hold-out come from; its settings must be those that the training data had.
        prompts_per_kind: at least 1; the default makes 312 prompts of six kinds.
        seed: decides which prompts are drawn and the sampling seed of each.
        split: "test", or "val" for choices made before the test is looked at.
    """

    world: ShapesWorld
    prompts_per_kind: int = 52
    seed: int = 0
    split: str = "test"

    def describe(self) -> dict[str, Any]:
        """Its name and settings."""
        settings = {"prompts_per_kind": self.prompts_per_kind, "seed": self.seed, "split": self.split}
        return {"benchmark": "shapes", **settings, "world": str(self.world)}

    def prompts(self) -> list[BenchmarkPrompt]:
        """All prompts, kind by kind; the same list for the same fields on every machine.

        Raises:
            ValueError: fewer than one prompt a kind, or a split that the world does not know.
        """
        if self.prompts_per_kind < 1:
            raise ValueError(f"prompts_per_kind is {self.prompts_per_kind}; expected at least 1")
        chosen = []
        for number, kind in enumerate(KINDS):
            # A stream per kind: asking for more prompts of one kind leaves those of the others as they were.
            rng = np.random.default_rng([self.seed, number])
            seen: set[str] = set()
            repeats = 0
            for index in range(self.prompts_per_kind):
                prompt, _ = self.world.sample(kind, rng, self.split)
                while prompt in seen and repeats < MAX_REPEATS:
                    prompt, _ = self.world.sample(kind, rng, self.split)
                    repeats += 1
                if prompt not in seen:
                    repeats = 0
                seen.add(prompt)
                key = f"{kind}-{index:04d}"
                chosen.append(BenchmarkPrompt(key=key, prompt=prompt, kind=kind, seed=int(rng.integers(2**31))))
        return chosen
