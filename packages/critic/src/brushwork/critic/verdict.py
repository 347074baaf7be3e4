"""What a judge answers: a verdict, or the failure to reach one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from brushwork.tokens.trajectory import Image, Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A judge's answer.

    Attributes:
        passed: the picture shows what was asked.
        score: 0 (nothing of it) to 1 (all of it).
        reason: why, in words for a reader of the report.
        judge: name and version of the judge, so that verdicts of another version can be told apart.
        unfinished: of a failed picture, that nothing in it is wrong and something asked for is missing; None where the
            judge does not tell.
        details: what else it found, JSON-able: boxes, single scores, the raw reply.
    """

    passed: bool
    score: float
    reason: str
    judge: str
    unfinished: bool | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeFailure:
    """A judge could not judge (unreadable prompt, endpoint down): to be counted apart, never as a score of zero.

    Attributes:
        reason: why, for people; its first clause (up to a colon) can be counted by.
        judge: name and version of the judge.
        transient: another try may go better, as where an endpoint was down.
        details: what came instead, JSON-able: the raw replies.
    """

    reason: str
    judge: str
    transient: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Judge(Protocol):
    """Whether an image shows what a prompt asks for."""

    def __call__(self, prompt: str, image: Image) -> Verdict | JudgeFailure:
        """The answer; a judge raises only for its own misuse, never for a prompt that it cannot read."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanVerdict:
    """Whether the plans of a trajectory keep to its prompt (paper: instruction-intermediate conflict).

    Attributes:
        step: the first plan that contradicts the prompt, counted from 0; None where none does.
        analysis: what is wrong with it, or that nothing is, in words for the model to learn.
        refine: the corrective instruction; empty where nothing is wrong.
        judge: name and version of the judge.
    """

    step: int | None
    analysis: str
    refine: str
    judge: str


@runtime_checkable
class PlanCritic(Protocol):
    """Whether plans contradict the prompt that they are made for; reads words alone."""

    def __call__(self, prompt: str, plans: Sequence[Plan]) -> PlanVerdict | JudgeFailure:
        """The answer for the plans of one trajectory, in order, the last of which may be unfinished."""
        ...
