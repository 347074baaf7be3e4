"""Test-time scaling: several candidates a prompt, the hopeless dropped while they are drawn, the best one the answer.

After PARM (Guo et al. 2025, arXiv:2501.13926): at each assessment a candidate is asked whether it is clear enough to
be judged and, if so, whether it has potential; the best of those that are left is chosen by a reward. PARM's own
setting is 20 candidates.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

import numpy as np

from brushwork.critic.verifier import Assessment, Verifier
from brushwork.eval.cost import PEAK
from brushwork.eval.sampler import Sampler, told_by
from brushwork.tokens.roles import Look
from brushwork.tokens.trajectory import Image, Trajectory

log = logging.getLogger(__name__)

DROPPED = "dropped"
"""`meta["stopped"]` of a trajectory whose unfinished picture a look did not keep."""
_NOT_SUMMED = ("seconds", PEAK)


@runtime_checkable
class Settings(Protocol):
    """What must be known of a sampler before one can look at its pictures."""

    @property
    def num_steps(self) -> int:
        """Denoising steps of an image."""
        ...

    @property
    def single_pass(self) -> bool:
        """An image follows the prompt and ends it."""
        ...


@runtime_checkable
class OpenSampler(Protocol):
    """A sampler whose pictures can be looked at before they are finished, such as `TrajectoryGenerator`."""

    @property
    def sampling(self) -> Settings:
        """How it samples."""
        ...

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], *, look: Look | None = None) -> list[Trajectory]:
        """As `Sampler`; a trajectory that was dropped has `meta["stopped"] == "dropped"`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BestOfN:
    """Draws `num_candidates` answers a prompt and gives the one that the verifier rewards most, the first of equals.

    The answer's cost is that of all candidates: steps and forwards as they were taken, dropped candidates up to their
    end; `images` counts every candidate that was begun, as the paper's 20 x 50 does; `external_calls` counts the
    pictures that the verifier was shown. `meta["candidates"]` tells of each candidate `seed`, `reward` (None where it
    has none), `stopped`, `denoise_steps`, `assessed` (step, clear, potential) and whether it is `chosen`.

    A candidate without a reward, because it was dropped, has no picture, or the verifier could not say, is never
    preferred to one that has one. Where none has one, the first that was finished is the answer.

    Attributes:
        sampler: draws the candidates.
        verifier: assesses and rewards them.
        num_candidates: n.
        assess_at: shares of the denoising steps, above 0 and below 1, after which to assess what is drawn so far;
            empty: every candidate is finished. Only of a sampler that can be looked into and draws in a single pass.
        clear_threshold: a picture that is less clear than that is not judged yet, and goes on.
        potential_threshold: a clear picture of less potential is dropped, unless all of its prompt are: then the one
            with most potential stays, the first of equals.
        batch_size: candidates in one call of the sampler. Candidates that may be dropped are drawn with the others of
            their prompt, hence `num_candidates` at least.
    """

    sampler: Sampler
    verifier: Verifier
    num_candidates: int = 20
    assess_at: Sequence[float] = ()
    clear_threshold: float = 0.5
    potential_threshold: float = 0.5
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Raises ValueError for numbers out of range, or where a sampler cannot be looked into that should be."""
        if self.num_candidates < 1 or self.batch_size < 1:
            raise ValueError(f"{self.num_candidates=}, {self.batch_size=}: expected at least 1 each")
        if self.assess_at:
            steps_to_look(self.sampler, self.assess_at)

    @property
    def fingerprint(self) -> str:
        """The sampler's, the verifier's name, and how candidates are chosen."""
        inner = getattr(self.sampler, "fingerprint", type(self.sampler).__qualname__)
        return f"best of {self.num_candidates} {self._rules()} {inner}"

    def describe(self) -> dict[str, Any]:
        """The sampler's settings, and how candidates are chosen."""
        return {**told_by(self.sampler), "best_of_n": {"num_candidates": self.num_candidates, **self._rules()}}

    def _rules(self) -> dict[str, Any]:
        rules = {"clear_threshold": self.clear_threshold, "potential_threshold": self.potential_threshold}
        pruning = {"assess_at": list(self.assess_at), **rules} if self.assess_at else {}
        return {"verifier": self.verifier.name, **pruning}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        """One trajectory a prompt, which depends on no other prompt.

        Raises:
            ValueError: a prompt that sampler or verifier cannot read.
        """
        asked = list(zip(prompts, seeds, strict=True))
        at_once = max(1, self.batch_size // self.num_candidates)
        answers = []
        for begin in range(0, len(asked), at_once):
            answers += self._answer(asked[begin : begin + at_once])
        return answers

    def _answer(self, asked: Sequence[tuple[str, int]]) -> list[Trajectory]:
        """The answers to prompts that are drawn together."""
        start = time.perf_counter()
        n = self.num_candidates
        prompts = [prompt for prompt, _ in asked for _ in range(n)]
        seeds = [drawn for _, seed in asked for drawn in candidate_seeds(seed, n)]
        pruning = None
        if self.assess_at:
            pruning = Pruning(
                prompts=prompts,
                num_candidates=n,
                num_steps=_settings(self.sampler).num_steps,
                steps=steps_to_look(self.sampler, self.assess_at),
                verifier=self.verifier,
                clear_threshold=self.clear_threshold,
                potential_threshold=self.potential_threshold,
            )
        candidates = self._draw(prompts, seeds, pruning)
        rewards: list[float | None] = []
        for first, (prompt, _) in zip(range(0, len(prompts), n), asked, strict=True):
            rewards += self._rewards(prompt, candidates[first : first + n])
        seconds = (time.perf_counter() - start) / len(asked)
        assessed = (
            [[]] * len(prompts) if pruning is None else [pruning.assessed.get(i, []) for i in range(len(prompts))]
        )
        return [
            chosen(candidates[some], seeds[some], rewards[some], assessed[some], seconds)
            for some in (slice(first, first + n) for first in range(0, len(prompts), n))
        ]

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int], pruning: "Pruning | None") -> list[Trajectory]:
        if pruning is not None:
            assert isinstance(self.sampler, OpenSampler), "checked at construction"
            return self.sampler(prompts, seeds, look=pruning)
        drawn = []
        for begin in range(0, len(prompts), self.batch_size):
            some = slice(begin, begin + self.batch_size)
            drawn += self.sampler(prompts[some], seeds[some])
        return drawn

    def _rewards(self, prompt: str, candidates: Sequence[Trajectory]) -> list[float | None]:
        """The reward of each finished candidate of a prompt."""
        answered = [number for number, candidate in enumerate(candidates) if _has_answer(candidate)]
        given = self.verifier.reward(prompt, [candidates[number].final_image for number in answered])
        rewards = dict(zip(answered, given, strict=True))
        if all(reward is None for reward in given):
            log.warning("no candidate for %r has a reward; the first is taken", prompt)
        return [rewards.get(number) for number in range(len(candidates))]


@dataclass(kw_only=True, slots=True)
class Pruning:
    """A `Look` that drops candidates without potential; remembers what it was told of each row.

    Attributes:
        prompts: of each row; rows of one prompt are `num_candidates` neighbours.
        num_candidates: of a prompt.
        num_steps: denoising steps of an image.
        steps: after which to look.
        verifier: assesses.
        clear_threshold, potential_threshold: see `BestOfN`.
        assessed: by row, what was said of it at each step.
    """

    prompts: Sequence[str]
    num_candidates: int
    num_steps: int
    steps: Sequence[int]
    verifier: Verifier
    clear_threshold: float
    potential_threshold: float
    assessed: dict[int, list[dict[str, int | float]]] = field(default_factory=dict)

    def keep(self, rows: Sequence[int], images: Sequence[Image], step: int) -> list[bool]:
        """Which rows are not clear yet, have potential, or are the best that their prompt has left."""
        kept: dict[int, bool] = {}
        pictures = dict(zip(rows, images, strict=True))
        for _, group in groupby(sorted(rows), key=lambda row: row // self.num_candidates):
            together = list(group)
            shown = [pictures[row] for row in together]
            said = self.verifier.assess(self.prompts[together[0]], shown, step / self.num_steps)
            for row, assessment in zip(together, said, strict=True):
                told = {"step": step, "clear": assessment.clear, "potential": assessment.potential}
                self.assessed.setdefault(row, []).append(told)
            kept |= dict(zip(together, self._keep(said), strict=True))
        return [kept[row] for row in rows]

    def _keep(self, said: Sequence[Assessment]) -> list[bool]:
        kept = [one.clear < self.clear_threshold or one.potential >= self.potential_threshold for one in said]
        if not any(kept):
            kept[max(range(len(said)), key=lambda number: said[number].potential)] = True
        return kept


def candidate_seeds(seed: int, num_candidates: int) -> list[int]:
    """The seeds of a prompt's candidates, 0 to 2**31 - 1: its own, then the k-th child of it.

    So the first candidate is what the sampler draws alone, and the candidates of best of 4 are the first of best of 8.
    """
    more = [np.random.SeedSequence([seed, number]).generate_state(1)[0] for number in range(1, num_candidates)]
    return [seed, *(int(state) >> 1 for state in more)]


def steps_to_look(sampler: Sampler | OpenSampler, shares: Sequence[float]) -> list[int]:
    """The steps, from 1 to one below the last, that lie next to these shares of a sampler's denoising steps.

    Raises:
        ValueError: a share that is not between 0 and 1, or a sampler whose pictures cannot be looked at.
    """
    if not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares of the denoising steps lie between 0 and 1, got {list(shares)}")
    settings = _settings(sampler)
    if settings.num_steps < 2:
        raise ValueError(f"num_steps is {settings.num_steps}; a picture of one step is never unfinished")
    if not settings.single_pass:
        raise ValueError(
            "drafts of a process show a part of the prompt alone, and cannot be assessed by it; "
            "take sampling.single_pass=true, or look at no steps (assess_at=[])"
        )
    return sorted({min(max(round(share * settings.num_steps), 1), settings.num_steps - 1) for share in shares})


def _settings(sampler: Sampler | OpenSampler) -> Settings:
    if not isinstance(sampler, OpenSampler):
        raise ValueError(
            f"{type(sampler).__qualname__} cannot be looked into while it draws; "
            "look at no steps (assess_at=[]), or take a sampler that is a model of this project"
        )
    return sampler.sampling


def chosen(
    candidates: Sequence[Trajectory],
    seeds: Sequence[int],
    rewards: Sequence[float | None],
    assessed: Sequence[Sequence[Mapping[str, int | float]]],
    seconds: float,
) -> Trajectory:
    """The best candidate of a prompt, with the cost of all and an account of each.

    Args:
        candidates, seeds, rewards, assessed: one of each a candidate.
        seconds: that the prompt took, verifier included.
    """
    best = _best(candidates, rewards)
    calls = sum(map(len, assessed)) + sum(_has_answer(candidate) for candidate in candidates)
    account = [
        {
            "seed": seed,
            "reward": reward,
            "stopped": candidate.meta.get("stopped"),
            "denoise_steps": candidate.meta.get("cost", {}).get("denoise_steps"),
            "assessed": [dict(told) for told in said],
            "chosen": number == best,
        }
        for number, (candidate, seed, reward, said) in enumerate(zip(candidates, seeds, rewards, assessed, strict=True))
    ]
    cost = {**total_cost(candidates, calls), "seconds": seconds}
    return replace(candidates[best], meta={**candidates[best].meta, "cost": cost, "candidates": account})


def _best(candidates: Sequence[Trajectory], rewards: Sequence[float | None]) -> int:
    """The first of the highest rewards; without any the first finished candidate, or the first of all."""
    rewarded = [(reward, -number) for number, reward in enumerate(rewards) if reward is not None]
    if rewarded:
        return -max(rewarded)[1]
    return next((number for number, candidate in enumerate(candidates) if _has_answer(candidate)), 0)


def total_cost(candidates: Sequence[Trajectory], calls: int) -> dict[str, int | float]:
    """What candidates cost together, see `BestOfN`; peak memory does not add up, and seconds are not theirs alone.

    Args:
        candidates: all of a prompt.
        calls: pictures that the verifier was shown.
    """
    total: dict[str, int | float] = {}
    for candidate in candidates:
        cost = candidate.meta.get("cost", {})
        finished = cost.get("images", sum(1 for _ in candidate.drafts))
        begun = {"images": finished + (candidate.meta.get("stopped") == DROPPED)}
        for term, value in {**cost, **begun}.items():
            if term not in _NOT_SUMMED:
                total[term] = total.get(term, 0) + value
    return {**total, "external_calls": total.get("external_calls", 0) + calls}


def _has_answer(candidate: Trajectory) -> bool:
    return candidate.finished and any(True for _ in candidate.drafts)
