"""Who may plan and inspect in the model's place: another model, an oracle, a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from brushwork.tokens.trajectory import Image, Inspection, Plan, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class NoAnswer:
    """A planner or inspector could not answer: the trajectory ends there and says so, it is not made up.

    Attributes:
        reason: why, for people.
    """

    reason: str


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
