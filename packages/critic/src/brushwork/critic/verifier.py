"""Who picks among several pictures of one prompt, finished or not: the `Verifier` protocol, and any judge as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from brushwork.critic.verdict import Judge, JudgeFailure
from brushwork.tokens.trajectory import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """What an unfinished picture promises (PARM, arXiv:2501.13926).

    Attributes:
        clear: 0 to 1, that it can be judged already: it shows what the finished one will show.
        potential: 0 to 1, that the finished picture will show the prompt; means nothing where it is not clear.
    """

    clear: float
    potential: float


@runtime_checkable
class Verifier(Protocol):
    """Looks at the candidates for a prompt. The higher its numbers, the better; they need not be calibrated."""

    @property
    def name(self) -> str:
        """Name, version and model."""
        ...

    def assess(self, prompt: str, images: Sequence[Image], progress: float) -> list[Assessment]:
        """What unfinished pictures promise.

        Args:
            prompt: the user's words.
            images: of any number of candidates, all for this prompt.
            progress: share of the denoising steps that were taken, between 0 and 1.

        Raises:
            ValueError: the prompt cannot be read at all.
        """
        ...

    def reward(self, prompt: str, images: Sequence[Image]) -> list[float | None]:
        """How well finished pictures show the prompt; None where that could not be said, which is no low reward.

        Raises:
            ValueError: the prompt cannot be read at all.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeVerifier:
    """Any judge as the verifier: a picture is worth its score, an unfinished one as if it were the answer.

    A judge takes every picture for clear: it is of use on unfinished ones only late in their denoising. Best of n by
    the judge that scores the run is no baseline but the upper bound of one.

    Attributes:
        judge: of prompts and pictures.
    """

    judge: Judge

    @property
    def name(self) -> str:
        """The judge's, or its type where it has none."""
        return f"judge/1:{getattr(self.judge, 'name', type(self.judge).__qualname__)}"

    def assess(self, prompt: str, images: Sequence[Image], progress: float) -> list[Assessment]:
        """The scores as potential; a picture that the judge fails on is not clear."""
        scores = self.reward(prompt, images)
        return [Assessment(clear=float(score is not None), potential=score or 0.0) for score in scores]

    def reward(self, prompt: str, images: Sequence[Image]) -> list[float | None]:
        """The scores; None where the judge failed."""
        verdicts = [self.judge(prompt, image) for image in images]
        return [None if isinstance(verdict, JudgeFailure) else verdict.score for verdict in verdicts]
