"""What a judge answers: a verdict, or the failure to reach one."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from brushwork.tokens.trajectory import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A judge's answer.

    Attributes:
        passed: the picture shows what was asked.
        score: 0 (nothing of it) to 1 (all of it).
        reason: why, in words for a reader of the report.
        judge: name and version of the judge, so that verdicts of another version can be told apart.
    """

    passed: bool
    score: float
    reason: str
    judge: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeFailure:
    """A judge could not judge (unreadable prompt, endpoint down): to be counted apart, never as a score of zero."""

    reason: str
    judge: str


@runtime_checkable
class Judge(Protocol):
    """Whether an image shows what a prompt asks for."""

    def __call__(self, prompt: str, image: Image) -> Verdict | JudgeFailure:
        """The answer; a judge raises only for its own misuse, never for a prompt that it cannot read."""
        ...
