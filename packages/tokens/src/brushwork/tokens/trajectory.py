"""The typed record of one process-driven drawing: prompt, then plan → sketch → inspect → refine, step by step.

`Trajectory` is the one type on all three roads: data are built as trajectories, batches are made of them, samplers
return them and judges score them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "_ _ 3"]
"""An RGB picture, 0-255, rows first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to draw now and what the scene looks like afterwards (paper: `<ins>` and `<des>`).

    Attributes:
        instruction: what to draw now.
        description: the whole scene after it.
        flawed: the plan contradicts the prompt. Such a plan is context for its inspection, never a text to learn;
            unknown, hence False, for sampled trajectories.
    """

    instruction: str
    description: str
    flawed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """The model's own check of a draft.

    Attributes:
        plan_check: does the plan agree with the prompt? Empty where the data do not say.
        draft_check: does the draft show the plan?
        refine: the corrective instruction; empty means that the draft is accepted.
    """

    plan_check: str = ""
    draft_check: str = ""
    refine: str = ""

    @property
    def accepts(self) -> bool:
        """True when nothing is to be refined."""
        return not self.refine


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """One visible state and what the inspection said of it.

    Attributes:
        image: the picture.
        inspection: None where drafts are not inspected (single pass, the no-critique ablation).
        flawed: the builder planted an error here. Such a draft is context, never a target to imitate
            (unless a run asks for it); unknown, hence False, for sampled trajectories.
    """

    image: Image
    inspection: Inspection | None = None
    flawed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One round: a plan and the drafts drawn for it, each but the last refined into the next.

    Attributes:
        plan: None where an image follows the prompt directly (single pass).
        drafts: empty where everything is planned in text before anything is drawn.
    """

    plan: Plan | None
    drafts: tuple[Draft, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """A prompt and the rounds that answer it.

    Attributes:
        key: identifies the sample within its data set; safe as a file name (letters, digits, `-` and `_`).
        prompt: the user's words.
        steps: the rounds in order.
        finished: the last image is the answer. False for a sample that was cut off, whose end is not to be learnt.
        goes_on: it was cut off where another step must follow: that is to be learnt, so that samples which are cut off
            do not leave the ends alone to learn from.
        meta: JSON-able facts that travel with the sample: benchmark kind, seed, cost, provenance.
    """

    key: str
    prompt: str
    steps: tuple[Step, ...]
    finished: bool = True
    goes_on: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def drafts(self) -> Iterator[Draft]:
        """All drafts in the order in which they were drawn."""
        return (draft for step in self.steps for draft in step.drafts)

    @property
    def final_image(self) -> Image:
        """The last image, which is the answer.

        Raises:
            ValueError: the trajectory holds no image at all, or was cut off.
        """
        if not self.finished:
            raise ValueError(f"trajectory {self.key!r} was cut off before its answer; only its process can be read")
        images = [draft.image for draft in self.drafts]
        if not images:
            raise ValueError(f"trajectory {self.key!r} holds no image; one was expected as the answer")
        return images[-1]
