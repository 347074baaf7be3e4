"""Who may plan and inspect in the model's place, or drop its pictures: another model, an oracle, a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from brushwork.tokens.trajectory import Image, Inspection, Plan, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class NoAnswer:
    """A planner or inspector could not answer: the trajectory ends there and says so, it is not made up.

    Attributes:
        reason: why, for people.
        transient: another try may go better, as where an endpoint was down.
    """

    reason: str
    transient: bool = False


@runtime_checkable
class Planner(Protocol):
    """Says what to draw next."""

    def __call__(self, prompt: str, steps: Sequence[Step]) -> Plan | NoAnswer | None:
        """The next plan.

        Args:
            prompt: the user's words.
            steps: what has been planned, drawn and inspected so far, oldest first; empty at the beginning.

        Returns:
            The plan, or None where the picture is finished.
        """
        ...


@runtime_checkable
class Inspector(Protocol):
    """Says what is wrong with a draft."""

    def __call__(self, prompt: str, plans: Sequence[Plan], image: Image) -> Inspection | NoAnswer:
        """The inspection of a draft.

        Args:
            prompt: the user's words.
            plans: of all steps so far, the draft's own the last; none where it was drawn from the prompt alone.
            image: the draft.

        Returns:
            The inspection, its `refine` empty where the draft is accepted.
        """
        ...


@runtime_checkable
class Look(Protocol):
    """Looks at pictures before they are finished, and says which of them are worth it (PARM)."""

    @property
    def steps(self) -> Sequence[int]:
        """After how many Euler steps of each image to look; from 1, and below the number that finishes it."""
        ...

    def keep(self, rows: Sequence[int], images: Sequence[Image], step: int) -> Sequence[bool]:
        """Which to go on with, one answer a picture.

        Args:
            rows: where the prompt of each picture stands among those that are drawn together.
            images: what each picture would be if nothing changed from here on: the data prediction at this step.
            step: Euler steps that were taken.
        """
        ...
