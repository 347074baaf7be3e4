"""From a trajectory to the segments of one sequence: what is read, what is drawn, and where the losses are.

Layout and position ids are BAGEL's: a text is `bos ids eos`, an image is `vision_start patches vision_end`, all tokens
of an image share one position, and an image that is to be drawn stands in the sequence as noised copies (flow loss,
seen by nobody else), its clean copy and, where the model has a vision encoder, what that encoder sees (context).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from brushwork.tokens.attention import Kind
from brushwork.tokens.grammar import inspection_ids, plan_ids
from brushwork.tokens.images import ResizeRule, patch_grid
from brushwork.tokens.trajectory import Draft, Image, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import Vocabulary

IGNORE_INDEX = -100
"""Label of a token at which nothing is to be predicted."""

ImageContext = Literal["latent", "vision", "both", "blank"]
"""What stands for a finished image: its clean latents, what the vision encoder sees of it, or both (BAGEL).

"blank" is the control for what images tell the words behind them: both, of a picture that shows nothing.
"""

BLANK_LEVEL = 128
"""Red, green and blue of a picture that shows nothing: mid-grey, which is zero in the range that models read."""

History = Literal["full", "last"]
"""What stands before a step: all that was written and drawn so far, or the prompt and the last image alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One item of the sequence.

    Attributes:
        kind: text, or an image as context (clean latents, vision) or as a noised target.
        position: RoPE position of the first token (text) or of all tokens (image).
        ids: the token ids of a text, bos and eos included; empty for an image.
        grid: rows and columns of patches of an image; (0, 0) for a text.
        image: the picture behind the patches; None for a text, and where latents are supplied by the caller.
        loss: the text is to be learnt (plans and inspections, but never the prompt nor a plan that contradicts it).
        switch: what must follow the last token: vision_start, bos (more text) or eos (the end); `IGNORE_INDEX`
            where nothing is to be learnt.
        droppable: may be left out now and then, so that guidance has a context without it.
        role: what it is for: "prompt", "plan", "inspection", "draft" (the first of a step) or "refinement" (the later
            ones); images carry that of their draft. Empty where nobody asks.
        begins: a document begins here: what came before is not seen, and positions start anew.
    """

    kind: Kind
    position: int
    ids: tuple[int, ...] = ()
    grid: tuple[int, int] = (0, 0)
    image: Image | None = None
    loss: bool = False
    switch: int = IGNORE_INDEX
    droppable: bool = False
    role: str = ""
    begins: bool = False

    def __len__(self) -> int:
        """Number of tokens, boundary tokens included."""
        return len(self.ids) if self.kind is Kind.TEXT else self.grid[0] * self.grid[1] + 2

    @property
    def next_position(self) -> int:
        """The position that follows: past a text its length, past an image one, past a noised image none (BAGEL)."""
        return self.position + {Kind.TEXT: len(self), Kind.NOISED: 0}.get(self.kind, 1)


@lru_cache(maxsize=64)
def blank(height: int, width: int) -> Image:
    """A picture of this size (in pixels) that shows nothing, see `BLANK_LEVEL`; read-only, the same one each time."""
    return np.broadcast_to(np.uint8(BLANK_LEVEL), (height, width, 3))


def drop_conditions(segments: Sequence[Segment], drop: Callable[[Segment], bool]) -> list[Segment]:
    """The sequence without the droppable segments for which `drop` says so (BAGEL's condition dropout).

    A text that is gone gives its positions back, an image does not. What was to be predicted at the end of an image is
    predicted at the end of the same image's other copy, if that stays.
    """
    kept: list[Segment] = []
    freed = 0
    for segment in segments:
        if segment.droppable and drop(segment):
            freed += len(segment) if segment.kind is Kind.TEXT else 0
            is_same_image = kept and kept[-1].kind is Kind.CLEAN and kept[-1].position == segment.position - freed - 1
            if segment.kind is Kind.VISION and is_same_image:
                kept[-1] = replace(kept[-1], switch=segment.switch)
            continue
        kept.append(replace(segment, position=segment.position - freed) if freed else segment)
    return kept


def check_choices(context: str, history: str, *, sees: bool) -> None:
    """Refuses what no sequence can be made of.

    Args:
        context, history: see `ImageContext` and `History`.
        sees: the model has a vision encoder.

    Raises:
        ValueError: a choice that there is not, or "vision" for a model that cannot see.
    """
    for name, choice, valid in (("context", context, get_args(ImageContext)), ("history", history, get_args(History))):
        if choice not in valid:
            raise ValueError(f"{name} is {choice!r}; expected one of {', '.join(valid)}")
    if context == "vision" and not sees:
        raise ValueError("context is 'vision', but the model has no vision encoder; choose 'latent' or 'both'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmenter:
    """Turns trajectories into segments.

    Attributes:
        vocabulary: encodes the texts.
        stride: pixels a side of one image token (8 for the mini model, 16 for BAGEL).
        noise_copies: noised copies of each drawn image, each with its own timestep and noise, on one clean context.
        context: what stands for a finished image. An image takes the same positions whichever of its copies stay. With
            "blank" both show nothing, while the noised copies are those of the image: drawing is learnt as ever, and
            what an inspection says of a draft cannot be read from it.
        history: with "last" each step becomes a document of its own: the prompt, the last image before it, its plan,
            its drafts and inspections. What follows an image is learnt once, in the document that drew it, and so is
            `bos <ins>`, by which a step opens: a sampler starts the next document when it has read that.
        text_dropout: probability that a document is cut to "everything before the last text, then one image", which
            teaches the velocity that text guidance extrapolates from. For a single pass this drops the prompt.
        latent_dropout, vision_dropout: probability that a clean copy, or what the vision encoder sees of it, is left
            out, each by itself: what image guidance extrapolates from, and robustness.
        draw_flawed: also learn to draw the drafts in which an error was planted.
        resize: brings pictures to a size that the stride divides; None takes them as they are.
        max_size: longest side of a picture in pixels, where the model's position table ends; None for no limit.
        vision: brings pictures to the vision encoder's size; None where the model has no such encoder.
    """

    vocabulary: Vocabulary
    stride: int
    noise_copies: int = 1
    context: ImageContext = "both"
    history: History = "full"
    text_dropout: float = 0.0
    latent_dropout: float = 0.0
    vision_dropout: float = 0.0
    draw_flawed: bool = False
    resize: ResizeRule | None = None
    max_size: int | None = None
    vision: ResizeRule | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a context or a history that cannot be."""
        check_choices(self.context, self.history, sees=self.vision is not None)

    def __call__(self, trajectory: Trajectory, rng: np.random.Generator) -> list[Segment]:
        """All segments of one sample, in order.

        Raises:
            ValueError: no image at the end, a text that the vocabulary cannot express, or an image that the stride does
                not divide.
        """
        if not trajectory.steps or not trajectory.steps[-1].drafts:
            raise ValueError(f"trajectory {trajectory.key!r} does not end in an image; a sample needs one")
        documents = [self._thinned(document, rng) for document in self._documents(trajectory)]
        return [replace(s, begins=number == 0) for document in documents for number, s in enumerate(document)]

    def _thinned(self, segments: list[Segment], rng: np.random.Generator) -> list[Segment]:
        """A document without the copies of images that are not wanted, and without what chance leaves out."""
        unwanted = {"latent": Kind.VISION, "vision": Kind.CLEAN}.get(self.context)
        segments = drop_conditions(segments, lambda segment: segment.kind is unwanted)
        chances = {Kind.CLEAN: self.latent_dropout, Kind.VISION: self.vision_dropout}
        if any(chances.values()):  # no random number is drawn where nothing can be dropped
            segments = drop_conditions(segments, lambda segment: rng.random() < chances[segment.kind])
        drawn = [i for i, segment in enumerate(segments) if segment.kind is Kind.NOISED]
        if drawn and rng.random() < self.text_dropout:
            return self._without_last_text(segments, drawn[rng.integers(len(drawn))])
        return segments

    def _documents(self, trajectory: Trajectory) -> list[list[Segment]]:
        control = self.vocabulary.control
        first = control.vision_start if trajectory.steps[0].plan is None else control.bos
        prompt = self._text(self.vocabulary.encode(trajectory.prompt), 0, first, role="prompt", loss=False)
        documents: list[list[Segment]] = [[prompt]]
        planned: list[Plan] = []
        seen: list[Segment] = []
        for step, following in zip(trajectory.steps, (*trajectory.steps[1:], None), strict=True):
            if step.plan is not None:
                planned.append(step.plan)
            if not step.drafts:
                continue
            if planned:
                plan = self._plan(planned, documents[-1][-1].next_position)
                if seen and self.history == "last":
                    documents.append(self._next_document(documents[-1], plan, seen))
                else:
                    documents[-1].append(plan)
                planned = []
            seen = self._append_drafts(documents[-1], step, last=following is None and trajectory.finished)
        if not (trajectory.finished or trajectory.goes_on):
            documents[-1][-1] = replace(documents[-1][-1], switch=IGNORE_INDEX)  # what would have followed is not known
        return documents

    def _next_document(self, before: list[Segment], plan: Segment, seen: Sequence[Segment]) -> list[Segment]:
        """Prompt and last image as context, then the plan. How the plan opens is learnt at the end of `before`."""
        opening = 2  # bos <ins>
        before.append(replace(plan, ids=plan.ids[:opening], switch=IGNORE_INDEX))
        prompt = replace(before[0], switch=IGNORE_INDEX)
        shift = prompt.next_position - seen[0].position
        context = [prompt, *(replace(s, position=s.position + shift, switch=IGNORE_INDEX) for s in seen)]
        bos = replace(plan, position=context[-1].next_position, ids=plan.ids[:1], loss=False, switch=IGNORE_INDEX)
        return [*context, bos, replace(plan, position=bos.next_position, ids=plan.ids[1:])]

    def _append_drafts(self, segments: list[Segment], step: Step, *, last: bool) -> list[Segment]:
        """Adds a step's drafts and inspections; returns what stands there for its last image."""
        control, image = self.vocabulary.control, []
        for number, draft in enumerate(step.drafts, start=1):
            after_image = control.eos if last and draft.inspection is None else control.bos
            role = "draft" if number == 1 else "refinement"
            image = self._image(draft, segments[-1].next_position, after_image, role=role)
            segments += image
            if draft.inspection is None:
                continue
            after_last = control.eos if last else control.bos
            after_text = control.vision_start if number < len(step.drafts) else after_last
            ids = inspection_ids(draft.inspection, self.vocabulary)
            segments.append(self._text(ids, segments[-1].next_position, after_text, role="inspection"))
        return [segment for segment in image if segment.kind is not Kind.NOISED]

    def _plan(self, plans: Sequence[Plan], position: int) -> Segment:
        ids = [token for plan in plans for token in plan_ids(plan, self.vocabulary)]
        learnt = not any(plan.flawed for plan in plans)
        return self._text(ids, position, self.vocabulary.control.vision_start, role="plan", loss=learnt)

    def _text(self, ids: Sequence[int], position: int, switch: int, *, role: str, loss: bool = True) -> Segment:
        """`ids` between bos and eos."""
        control = self.vocabulary.control
        ids = (control.bos, *ids, control.eos)
        return Segment(kind=Kind.TEXT, position=position, ids=ids, loss=loss, switch=switch, role=role)

    def _image(self, draft: Draft, position: int, switch: int, *, role: str) -> list[Segment]:
        image = draft.image if self.resize is None else self.resize(draft.image)
        grid = patch_grid(image.shape[0], image.shape[1], self.stride, self.max_size)
        read = blank(*image.shape[:2]) if self.context == "blank" else image
        clean = Segment(
            kind=Kind.CLEAN, position=position, grid=grid, image=read, switch=switch, droppable=True, role=role
        )
        copies = self.noise_copies if self.draw_flawed or not draft.flawed else 0
        noised = replace(clean, kind=Kind.NOISED, image=image, switch=IGNORE_INDEX, droppable=False)
        if self.vision is None:
            return [noised] * copies + [clean]
        seen = self.vision(read)
        grid = patch_grid(seen.shape[0], seen.shape[1], self.vision.stride)
        vision = replace(clean, kind=Kind.VISION, position=position + 1, grid=grid, image=seen)
        return [noised] * copies + [replace(clean, switch=IGNORE_INDEX), vision]

    def _without_last_text(self, segments: list[Segment], drawn: int) -> list[Segment]:
        """The context before the last text that precedes segment `drawn`, then that image.

        A text dropped from the sequence does not advance the position counter (BAGEL).
        """
        cut = max(i for i in range(drawn) if segments[i].ids[:1] == (self.vocabulary.control.bos,))
        target = segments[drawn]
        copies = [s for s in segments if s.kind is Kind.NOISED and s.image is target.image]
        return segments[:cut] + [replace(copy, position=segments[cut].position) for copy in copies]
