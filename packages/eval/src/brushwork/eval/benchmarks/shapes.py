"""Held-out prompts of the embedded world: GenEval's six kinds, harder ones, and ones out of distribution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, OOD_KINDS, ShapesWorld
from brushwork.eval.benchmark import BenchmarkPrompt

ALL_KINDS = (*KINDS, *HARD_KINDS, *OOD_KINDS)
MAX_REPEATS = 50
"""Repeated prompts in a row after which a kind has no new one to give: some have fewer than are asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapesBenchmark:
    """Prompts that hold a combination which training never showed (see `ShapesWorld` for what is held out).

    Prompts of a kind are distinct as long as the held-out set has distinct ones to give; beyond that they repeat with
    other seeds, so that an interval over them speaks of drawing these prompts again, not of new prompts.

    Attributes:
        world: where prompts and their hold-out come from; its settings must be those that the training data had.
        prompts_per_kind: at least 1.
        kinds: in equal numbers; the overall score is over those that do not start with "ood".
        seed: decides which prompts are drawn and the sampling seed of each.
        split: "test", or "val" for choices made before the test is looked at.
    """

    world: ShapesWorld
    prompts_per_kind: int = 60
    kinds: Sequence[str] = ALL_KINDS
    seed: int = 0
    split: str = "test"

    def describe(self) -> dict[str, Any]:
        """Its name and settings."""
        settings = {
            "prompts_per_kind": self.prompts_per_kind,
            "kinds": list(self.kinds),
            "seed": self.seed,
            "split": self.split,
        }
        return {"benchmark": "shapes", **settings, "world": str(self.world)}

    def prompts(self) -> list[BenchmarkPrompt]:
        """All prompts, kind by kind; the same list for the same fields on every machine.

        Raises:
            ValueError: fewer than one prompt a kind, no such kind, or a split that the world does not know.
        """
        if self.prompts_per_kind < 1:
            raise ValueError(f"prompts_per_kind is {self.prompts_per_kind}; expected at least 1")
        if not self.kinds or set(self.kinds) - set(ALL_KINDS):
            raise ValueError(f"kinds={list(self.kinds)}: expected some of {ALL_KINDS}")
        chosen = []
        for kind in self.kinds:
            # A stream per kind: asking for more prompts of one kind leaves those of the others as they were.
            rng = np.random.default_rng([self.seed, ALL_KINDS.index(kind)])
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
