"""From a trajectory to the segments of one sequence: what is read, what is drawn, and where the losses are.

Layout and position ids follow BAGEL (BAGEL): a text is `bos ids eos`, an image is
`vision_start patches vision_end`, all tokens of an image share one position, and an image that is to be drawn stands
in the sequence as noised copies (flow loss, seen by nobody else) followed by its clean copy (context).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np

from brushwork.tokens.grammar import inspection_ids, plan_ids
from brushwork.tokens.trajectory import Draft, Image, Step, Trajectory
from brushwork.tokens.vocabulary import Vocabulary

IGNORE_INDEX = -100
"""Label of a token at which nothing is to be predicted."""


class Kind(Enum):
    """How a segment is treated by the attention rule, the experts and the losses."""

    TEXT = auto()
    CLEAN = auto()
    NOISED = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One item of the sequence.

    Attributes:
        kind: text, or an image as clean context or as a noised target.
        position: RoPE position of the first token (text) or of all tokens (image).
        ids: the token ids of a text, bos and eos included; empty for an image.
        grid: rows and columns of patches of an image; (0, 0) for a text.
        image: the picture behind the patches; None for a text, and where latents are supplied by the caller.
        loss: the text is to be learnt (plans and inspections, never the prompt).
        switch: what must follow the last token: vision_start, bos (more text) or eos (the end); `IGNORE_INDEX`
            where nothing is to be learnt.
    """

    kind: Kind
    position: int
    ids: tuple[int, ...] = ()
    grid: tuple[int, int] = (0, 0)
    image: Image | None = None
    loss: bool = False
    switch: int = IGNORE_INDEX

    def __len__(self) -> int:
        """Number of tokens, boundary tokens included."""
        return len(self.ids) if self.kind is Kind.TEXT else self.grid[0] * self.grid[1] + 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmenter:
    """Turns trajectories into segments.

    Attributes:
        vocabulary: encodes the texts.
        stride: pixels a side of one image token (8 for the mini model, 16 for BAGEL).
        noise_copies: noised copies of each drawn image, each with its own timestep and noise, on one clean context.
        text_dropout: probability that a sample is cut to "everything before the last text, then one image", which
            teaches the velocity that text guidance extrapolates from. For a single pass this drops the prompt.
        draw_flawed: also learn to draw the drafts in which an error was planted.
    """

    vocabulary: Vocabulary
    stride: int
    noise_copies: int = 1
    text_dropout: float = 0.0
    draw_flawed: bool = False

    def __call__(self, trajectory: Trajectory, rng: np.random.Generator) -> list[Segment]:
        """All segments of one sample, in order.

        Raises:
            ValueError: no image at the end, a text that the vocabulary cannot express, or an image that the stride does
                not divide.
        """
        if not trajectory.steps or not trajectory.steps[-1].drafts:
            raise ValueError(f"trajectory {trajectory.key!r} does not end in an image; a sample needs one")
        segments = self._segments(trajectory)
        drawn = [i for i, segment in enumerate(segments) if segment.kind is Kind.NOISED]
        if drawn and rng.random() < self.text_dropout:
            return self._without_last_text(segments, drawn[rng.integers(len(drawn))])
        return segments

    def _segments(self, trajectory: Trajectory) -> list[Segment]:
        control = self.vocabulary.control
        first = control.vision_start if trajectory.steps[0].plan is None else control.bos
        segments = [self.text(self.vocabulary.encode(trajectory.prompt), 0, loss=False, switch=first)]
        planned: list[int] = []
        for step, following in zip(trajectory.steps, (*trajectory.steps[1:], None), strict=True):
            if step.plan is not None:
                planned += plan_ids(step.plan, self.vocabulary)
            if step.drafts:
                if planned:
                    segments.append(self.text(planned, _next(segments), switch=control.vision_start))
                    planned = []
                self._append_drafts(segments, step, last=following is None)
        return segments

    def _append_drafts(self, segments: list[Segment], step: Step, *, last: bool) -> None:
        control = self.vocabulary.control
        for number, draft in enumerate(step.drafts, start=1):
            after_image = control.eos if last and draft.inspection is None else control.bos
            segments += self._image(draft, _next(segments), after_image)
            if draft.inspection is None:
                continue
            after_last = control.eos if last else control.bos
            after_text = control.vision_start if number < len(step.drafts) else after_last
            ids = inspection_ids(draft.inspection, self.vocabulary)
            segments.append(self.text(ids, _next(segments), switch=after_text))

    def text(self, ids: Sequence[int], position: int, *, loss: bool = True, switch: int = IGNORE_INDEX) -> Segment:
        """A text segment: `ids` between bos and eos."""
        control = self.vocabulary.control
        return Segment(
            kind=Kind.TEXT, position=position, ids=(control.bos, *ids, control.eos), loss=loss, switch=switch
        )

    def _image(self, draft: Draft, position: int, switch: int) -> list[Segment]:
        height, width = draft.image.shape[:2]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"a {height}x{width} image does not divide into tokens of {self.stride} pixels; resize it to a multiple"
            )
        grid = (height // self.stride, width // self.stride)
        clean = Segment(kind=Kind.CLEAN, position=position, grid=grid, image=draft.image, switch=switch)
        copies = self.noise_copies if self.draw_flawed or not draft.flawed else 0
        return [replace(clean, kind=Kind.NOISED, switch=IGNORE_INDEX)] * copies + [clean]

    @staticmethod
    def _without_last_text(segments: list[Segment], drawn: int) -> list[Segment]:
        """The context before the last text that precedes segment `drawn`, then that image.

        A text dropped from the sequence does not advance the position counter (BAGEL).
        """
        cut = max(i for i in range(drawn) if segments[i].kind is Kind.TEXT)
        target = segments[drawn]
        copies = [s for s in segments if s.kind is Kind.NOISED and s.image is target.image]
        return segments[:cut] + [replace(copy, position=segments[cut].position) for copy in copies]


def _next(segments: list[Segment]) -> int:
    """The position that follows: past a text its length, past a clean image one, past a noised image none."""
    last = segments[-1]
    return last.position + (len(last) if last.kind is Kind.TEXT else 0 if last.kind is Kind.NOISED else 1)
