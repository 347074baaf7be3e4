"""What a build is made of: a source gives tasks, a subset turns them into trajectories, an editor draws."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from brushwork.critic.scene import SceneGraph
from brushwork.tokens.trajectory import Image, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A good and a bad picture of one prompt, and what was said of the bad one (Gen-Ref)."""

    good: Image
    bad: Image
    reflection: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One prompt from which a subset may make a trajectory.

    Attributes:
        prompt: the user's words.
        split: "train", "val" or "test".
        rng: source of all randomness of this task; depends on the build's seed and the task's place alone.
        scene: what the prompt asks for; objects have places where the source knows them. None where nobody parsed it.
        pair: pictures that come with the prompt.
        drawn: the trajectory, where somebody has drawn it already.
        kind: of prompt, for balance and for the report.
        meta: JSON-able facts that travel into the trajectory: which corpus, which record, which licence.
    """

    prompt: str
    split: str
    rng: np.random.Generator
    scene: SceneGraph | None = None
    pair: Pair | None = None
    drawn: Trajectory | None = None
    kind: str = "free"
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """A task from which no trajectory was made, kept with its reason so that it can be counted.

    Attributes:
        prompt: of the task.
        reason: a sentence; its first clause (up to a colon) is what the manifest counts by.
        detail: JSON-able facts, such as a judge's words.
        transient: another try may go better, as where an endpoint was down.
    """

    prompt: str
    reason: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    transient: bool = False


@runtime_checkable
class Source(Protocol):
    """Where tasks come from: the embedded world, or records of a corpus."""

    def __call__(self, split: str, part: int, parts: int, seed: int) -> Iterator[Task | Reject]:
        """The tasks of one of `parts` disjoint parts of a split, always the same ones in the same order.

        A world is endless; a corpus ends, and yields records that cannot be read as rejects.
        """
        ...


@runtime_checkable
class CountedSource(Source, Protocol):
    """A corpus of which a build may take all that there is; its parts are those of `sources.division.divide`."""

    def count(self, split: str) -> int:
        """How many tasks and rejects the parts of a split hold together."""
        ...


@runtime_checkable
class Subset(Protocol):
    """Makes trajectories of tasks."""

    def __call__(self, tasks: Sequence[Task]) -> Sequence[Trajectory | Reject]:
        """What came of a batch of tasks: one outcome a task as a rule, more where a task gives several samples.

        An outcome depends on its task alone, but for the last bits of what a model computes in batches. The keys of the
        trajectories are set by the build.
        """
        ...


@runtime_checkable
class Editor(Protocol):
    """Carries out an instruction on a picture."""

    def __call__(self, image: Image | None, instruction: str, *, target: SceneGraph, seed: int) -> Image:
        """The picture after the edit.

        Args:
            image: the picture before it; None for an empty canvas.
            instruction: what to change, in words.
            target: what the result is to show. The exact renderer draws it; a diffusion model reads the words alone,
                and a judge compares.
            seed: of all randomness.
        """
        ...


def task_rng(seed: int, split: str, part: int, number: int) -> np.random.Generator:
    """The randomness of the task with this number in its part, the same in every build with this seed."""
    return np.random.default_rng([seed, *split.encode(), part, number])


class Unfit(Exception):
    """No trajectory can be made of a task; the build keeps what a `Reject` holds."""

    def __init__(self, reason: str, *, transient: bool = False, **detail: Any) -> None:
        super().__init__(reason)
        self.transient, self.detail = transient, detail


def attempt(task: Task, make: Callable[[Task], Trajectory]) -> Trajectory | Reject:
    """What `make` makes of a task, or the reject that it raises as `Unfit`."""
    try:
        return make(task)
    except Unfit as error:
        return Reject(prompt=task.prompt, reason=str(error), detail=error.detail, transient=error.transient)
