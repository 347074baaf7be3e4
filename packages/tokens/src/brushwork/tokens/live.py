"""One drawing that somebody watches and takes part in: what it is made of, what happens to it, who draws it.

A trajectory in the making is a list of parts, in the order of its sequence: plans, pictures and inspections. Whoever
edits it says which parts it is to begin with, and the rest is written and drawn anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol, runtime_checkable

import numpy as np

from brushwork.tokens.trajectory import Draft, Image, Inspection, Plan, Step, Trajectory

STOPPED = "stopped"
"""Why a trajectory ended that somebody stopped."""

Part = tuple[Plan, ...] | Inspection | Image
"""A text with one plan (or several in a row), what was said of a draft, or a picture."""


def assemble(parts: Sequence[Part]) -> tuple[Step, ...]:
    """The rounds that a sequence of plans, images and inspections forms."""
    steps: list[tuple[Plan | None, list[Draft]]] = []
    for part in parts:
        if isinstance(part, tuple):
            steps += [(plan, []) for plan in part]
        elif isinstance(part, Inspection):
            drafts = steps[-1][1]
            drafts[-1] = Draft(image=drafts[-1].image, inspection=part)
        else:
            if not steps:
                steps.append((None, []))
            steps[-1][1].append(Draft(image=part))
    return tuple(Step(plan=plan, drafts=tuple(drafts)) for plan, drafts in steps)


def num_equal(parts: Sequence[Part], others: Sequence[Part]) -> int:
    """How many parts both begin with."""
    pairs = zip(parts, others, strict=False)
    return sum(1 for _ in takewhile(lambda pair: _is_equal(*pair), pairs))


def _is_equal(part: Part, other: Part) -> bool:
    if isinstance(part, np.ndarray) or isinstance(other, np.ndarray):
        return isinstance(part, np.ndarray) and isinstance(other, np.ndarray) and np.array_equal(part, other)
    return part == other


@dataclass(frozen=True, kw_only=True, slots=True)
class Wrote:
    """A text grew; or a thought before the first picture, which is no part.

    Attributes:
        part: its number in the trajectory, from 0.
        text: all of it so far, with its tags.
        tokens: so far, tags included.
    """

    part: int
    text: str
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sketched:
    """A picture became clearer.

    Attributes:
        part: its number in the trajectory, from 0.
        image: what it would be if nothing changed from here on.
        step: denoising steps that were taken.
        steps: that there are.
    """

    part: int
    image: Image
    step: int
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A part is finished, and is read by all that comes after it.

    Attributes:
        part: its number in the trajectory, from 0.
        value: the part; a picture cannot be written to.
    """

    part: int
    value: Part


Event = Wrote | Sketched | Placed
Listener = Callable[[Event], None]


@runtime_checkable
class Session(Protocol):
    """One prompt's drawing. It belongs to one thread at a time, but for `stop`."""

    @property
    def parts(self) -> Sequence[Part]:
        """What is finished so far."""
        ...

    @property
    def cost(self) -> Mapping[str, int | float]:
        """What all of it has cost, what was thrown away included; the terms of `Trajectory.meta["cost"]`."""
        ...

    def go_on(
        self, parts: Sequence[Part] | None = None, *, seed: int | None = None, listen: Listener | None = None
    ) -> Trajectory:
        """Draws until the end, or until stopped.

        Args:
            parts: what the trajectory is to begin with. As far as it does so already nothing is computed again; the
                rest of these parts is read, and everything behind them is made anew. None goes on behind what there is.
            seed: of what is made anew, now and later; by default the random numbers go on as they were at that place,
                so that equal parts have equal continuations.
            listen: told of everything, in order, the parts that were read included.

        Returns:
            The trajectory; unfinished, with `meta["stopped"] == "stopped"`, where it was stopped.

        Raises:
            ValueError: parts in an order that no trajectory has, pictures of another size, or words that the
                vocabulary cannot express or that hold control tokens. What there was before is kept.
        """
        ...

    def stop(self) -> None:
        """Asks `go_on`, which runs in another thread, to end soon; nothing where it does not run.

        Parts that were to be read and are not yet are left out then.
        """
        ...


@runtime_checkable
class LiveSampler(Protocol):
    """A sampler that can be watched."""

    def open(self, prompt: str, seed: int) -> Session:
        """A drawing of which nothing is there yet.

        Raises:
            ValueError: a prompt that the vocabulary cannot express, or that contains control tokens.
        """
        ...

    def adjusted(self, **settings: Any) -> "LiveSampler":
        """The same model with other settings.

        Args:
            settings: fields of `Sampling`, and `text_scale` and `image_scale` of its guidance; `planner` and
                `inspector`, which stand in for the model.

        Raises:
            ValueError: settings that nothing can be drawn with.
        """
        ...
