"""What a verifier learns from: candidates of training prompts, looked at while they were drawn, and what a judge says.

For a candidate with the pictures p_1, p_2, … of its looks and the finished p, a judge's verdict on p is the label of p
and the potential of each p_k; p_k is clear where the judge already says of it what it says of p.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from brushwork.critic.verdict import Judge, JudgeFailure, Verdict
from brushwork.eval.baselines.best_of_n import OpenSampler
from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.eval.progress import progress_bar
from brushwork.eval.sampler import Sampler
from brushwork.tokens.trajectory import Image

log = logging.getLogger(__name__)

CLEAR_TOLERANCE = 0.05
"""By how much a judge's scores of an unfinished picture and of the finished one may differ where it says the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One picture, what was asked for, and what is to be said of it.

    Attributes:
        prompt: the words it is judged by.
        image: the picture.
        progress: share of the denoising steps taken; 1 for a finished picture.
        passed: the judge passes the finished picture.
        clear: the judge says of this picture what it says of the finished one; True of that itself.
    """

    prompt: str
    image: Image
    progress: float
    passed: bool
    clear: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A drawn answer to a prompt.

    Attributes:
        kind: the prompt's category.
        prompt: the words it is judged by.
        pictures: those of each look, with the share of steps taken; the finished one, with 1, the last.
    """

    kind: str
    prompt: str
    pictures: Sequence[tuple[float, Image]]


@dataclass(kw_only=True, slots=True)
class Recording:
    """A `Look` that keeps every row and every picture.

    Attributes:
        steps: after which to look.
        num_steps: denoising steps of an image.
        pictures: by row, in the order of the steps, with the share of steps taken.
    """

    steps: Sequence[int]
    num_steps: int
    pictures: dict[int, list[tuple[float, Image]]] = field(default_factory=dict)

    def keep(self, rows: Sequence[int], images: Sequence[Image], step: int) -> list[bool]:
        """All of them."""
        for row, image in zip(rows, images, strict=True):
            self.pictures.setdefault(row, []).append((step / self.num_steps, image))
        return [True] * len(rows)


def draw_candidates(
    sampler: Sampler | OpenSampler,
    samples: Sequence[BenchmarkPrompt],
    steps: Sequence[int],
    *,
    batch_size: int,
) -> list[Candidate]:
    """Draws each prompt once and keeps its pictures; prompts that the sampler refuses are left out.

    Args:
        sampler: draws; at `steps` it is looked into.
        samples: prompts and seeds.
        steps: after which to look; none for a sampler that cannot be looked into.
        batch_size: prompts in one call.
    """
    candidates = []
    with progress_bar("drawing", len(samples)) as tell:
        for begin in range(0, len(samples), batch_size):
            batch = samples[begin : begin + batch_size]
            candidates += _draw(sampler, batch, steps)
            tell(begin + len(batch))
    if len(candidates) < len(samples):
        log.warning("%d of %d prompts gave no picture", len(samples) - len(candidates), len(samples))
    return candidates


def _draw(
    sampler: Sampler | OpenSampler, batch: Sequence[BenchmarkPrompt], steps: Sequence[int]
) -> Iterator[Candidate]:
    """The candidate of each sample; a batch that is refused is halved until the refused prompt stands alone."""
    prompts, seeds = [sample.prompt for sample in batch], [sample.seed for sample in batch]
    recording = None
    try:
        if steps:
            assert isinstance(sampler, OpenSampler), "`steps_to_look` has seen to it"
            recording = Recording(steps=steps, num_steps=sampler.sampling.num_steps)
            drawn = sampler(prompts, seeds, look=recording)
        else:
            drawn = sampler(prompts, seeds)
    except ValueError as error:
        if len(batch) == 1:
            log.info("%r: %s", prompts[0], error)
            return
        middle = len(batch) // 2
        yield from _draw(sampler, batch[:middle], steps)
        yield from _draw(sampler, batch[middle:], steps)
        return
    for row, (sample, trajectory) in enumerate(zip(batch, drawn, strict=True)):
        if trajectory.finished and any(trajectory.drafts):
            looks = [] if recording is None else recording.pictures[row]
            pictures = [*looks, (1.0, trajectory.final_image)]
            yield Candidate(kind=sample.kind, prompt=sample.prompt, pictures=pictures)


def asked_otherwise(candidates: Sequence[Candidate], number: int, seed: int) -> list[Candidate]:
    """The same pictures under other prompts of their kind, which most of them do not show.

    They keep a verifier from learning which prompts are easy, where it is to look at the picture.

    Args:
        candidates: whose prompts there are.
        number: of prompts drawn for each; a candidate's own is left out.
        seed: decides which.
    """
    rng = np.random.default_rng(seed)
    kinds: dict[str, list[str]] = {}
    for candidate in candidates:
        kinds.setdefault(candidate.kind, []).append(candidate.prompt)
    return [
        replace(candidate, prompt=prompt)
        for candidate in candidates
        for prompt in rng.choice(kinds[candidate.kind], number).tolist()
        if prompt != candidate.prompt
    ]


def label(candidates: Sequence[Candidate], judge: Judge, num_workers: int = 1) -> list[list[Example]]:
    """The examples of each candidate, in order; none where the judge cannot judge the finished picture.

    Args:
        candidates: to be judged.
        judge: asked once for every picture.
        num_workers: candidates judged at the same time, by threads: more than 1 where the judge waits for an endpoint.
    """
    labelled = []
    with progress_bar("judging", len(candidates)) as tell, ThreadPoolExecutor(num_workers) as pool:
        for examples in pool.map(lambda candidate: _examples(candidate, judge), candidates):
            labelled.append(examples)
            tell(len(labelled))
    asked = sum(len(candidate.pictures) for candidate in candidates)
    if missing := asked - sum(map(len, labelled)):
        log.warning("the judge failed on %d of %d pictures, which nothing is learnt from", missing, asked)
    return labelled


def _examples(candidate: Candidate, judge: Judge) -> list[Example]:
    _, finished = candidate.pictures[-1]
    verdict = judge(candidate.prompt, finished)
    if isinstance(verdict, JudgeFailure):
        return []
    examples = []
    for progress, image in candidate.pictures:
        now = verdict if image is finished else judge(candidate.prompt, image)
        if not (isinstance(now, JudgeFailure) and now.transient):
            clear = _says_the_same(now, verdict)
            examples.append(
                Example(prompt=candidate.prompt, image=image, progress=progress, passed=verdict.passed, clear=clear)
            )
    return examples


def _says_the_same(now: Verdict | JudgeFailure, then: Verdict) -> bool:
    """A picture that cannot be judged yet is not clear."""
    if isinstance(now, JudgeFailure):
        return False
    return now.passed == then.passed and abs(now.score - then.score) <= CLEAR_TOLERANCE
