"""The model as an inspector of pictures that it did not draw.

It reads what its own drawing would have left in front of it: the prompt, the plan, the picture as clean context. Then
it writes, as it does after a draft, but an inspection and nothing else, and without chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from brushwork.flow.autoencoder import Autoencoder, PixelAutoencoder
from brushwork.flow.checkpoint import from_pretrained
from brushwork.flow.engine import Engine, image_tokens
from brushwork.flow.guidance import Guidance
from brushwork.flow.model import UnifiedModel
from brushwork.tokens.attention import Kind
from brushwork.tokens.grammar import FORBIDDEN, State, is_word, parse_text, plan_ids, transition_table
from brushwork.tokens.segments import Segmenter
from brushwork.tokens.trajectory import Image, Inspection, Plan, Trajectory
from brushwork.tokens.vocabulary import Vocabulary

_ENDS = (State.ACCEPT_END, State.REFINE_END)


@dataclass(kw_only=True, slots=True)
class _Review:
    """One inspection as far as it is written. CHECK is REVIEW, the place behind an image's bos, without a new plan."""

    state: State = State.CHECK
    text: list[int] = field(default_factory=list)
    acceptance: float = 0.0


class SelfInspector:
    """Inspects pictures as the model inspects its own drafts; equal questions have equal answers.

    Args:
        model: the unified model; used in evaluation mode.
        vocabulary: its vocabulary.
        autoencoder: pictures to latents; the pixel autoencoder by default.
        max_text: tokens, tags included, after which a text is brought to its end. Whether the picture is accepted is
            the model's own choice all the same.

    Raises:
        ValueError: `max_text` is below 1.
    """

    def __init__(
        self,
        model: UnifiedModel,
        vocabulary: Vocabulary,
        *,
        autoencoder: Autoencoder | None = None,
        max_text: int = 128,
    ) -> None:
        if max_text < 1:
            raise ValueError(f"max_text must be at least 1, got {max_text}")
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.autoencoder = autoencoder or PixelAutoencoder()
        self.max_text = max_text
        self._table = transition_table(vocabulary)
        self._is_word = is_word(vocabulary)

    @torch.inference_mode()
    def __call__(
        self, prompts: Sequence[str], plans: Sequence[Sequence[Plan]], images: Sequence[Image]
    ) -> list[tuple[Inspection, float]]:
        """One inspection a picture, all of them in one batch in which they do not meet.

        Args:
            prompts: the users' words.
            plans: of each picture, what was planned for it, written as one text; none where it follows the prompt.
            images: not all need be of one size.

        Returns:
            The inspection, each token the likeliest that the grammar allows (its checks, which no tag separates, are
            one `draft_check`), and the probability, 0 to 1, that its `<refine>` stays empty, which accepts the picture,
            given the checks that it wrote. That of an accepting inspection may be below 1/2: first words of refinements
            are many, and each may be less likely.

        Raises:
            ValueError: a text that the vocabulary cannot express, a side that the patches do not divide, a picture
                beyond the position table, or unequal numbers of prompts, plans and images.
        """
        if not prompts:
            return []
        contexts = [self._context(prompt, plan) for prompt, plan in zip(prompts, plans, strict=True)]
        engine = self._engine(contexts, images)
        engine.read_text(contexts)
        engine.read_images(images)
        return self._reviews(engine)

    @torch.inference_mode()
    def last_drafts(self, trajectories: Sequence[Trajectory]) -> list[tuple[Inspection, float]]:
        """One inspection of the last draft of each trajectory, after all that came before it, as in training.

        Args:
            trajectories: what their last drafts' own inspections say is not read.

        Returns:
            As of a call: the inspection, and the probability that it accepts.

        Raises:
            ValueError: a trajectory that does not end in a draft, a text that the vocabulary cannot express, or a
                picture that the model does not take.
        """
        if not trajectories:
            return []
        config = self.model.config
        vision = None if config.vision is None else config.vision.resize
        segmenter = Segmenter(vocabulary=self.vocabulary, stride=config.stride, noise_copies=0, vision=vision)
        read = [segmenter(uninspected(one), np.random.default_rng(0)) for one in trajectories]
        capacity = max(sum(map(len, segments)) for segments in read)
        engine = self._new_engine(len(read), capacity)
        queues = [[one for one in segments if one.kind is not Kind.VISION] for segments in read]
        while any(queues):
            texts = [[] for _ in queues]
            for ids, queue in zip(texts, queues, strict=True):
                while queue and queue[0].kind is Kind.TEXT:
                    ids += queue.pop(0).ids
            engine.read_text(texts)
            engine.read_images([queue.pop(0).image if queue else None for queue in queues])
        return self._reviews(engine)

    def _reviews(self, engine: Engine) -> list[tuple[Inspection, float]]:
        """What is written behind the pictures that were read."""
        reviews = [_Review() for _ in engine.rows]
        pending = [[self.vocabulary.control.bos] for _ in reviews]
        while any(pending):
            logits = engine.read_text(pending)
            self._write([review for review, ids in zip(reviews, pending, strict=True) if ids], logits)
            pending = [[] if review.state in _ENDS else review.text[-1:] for review in reviews]
        return [(self._parsed(review), review.acceptance) for review in reviews]

    def _context(self, prompt: str, plans: Sequence[Plan]) -> list[int]:
        """All texts before the picture, each between bos and eos."""
        control = self.vocabulary.control
        planned = [token for plan in plans for token in plan_ids(plan, self.vocabulary)]
        texts = [self.vocabulary.encode(prompt), *([planned] if planned else [])]
        return [token for ids in texts for token in (control.bos, *ids, control.eos)]

    def _engine(self, contexts: Sequence[Sequence[int]], images: Sequence[Image]) -> Engine:
        """With room for the longest of what is read and written."""
        read = [
            len(ids) + image_tokens(self.model.config, image.shape[0], image.shape[1])
            for ids, image in zip(contexts, images, strict=True)
        ]
        return self._new_engine(len(contexts), max(read))

    def _new_engine(self, rows: int, read: int) -> Engine:
        """With room for so many tokens that are read, and for what is written."""
        return Engine(
            self.model,
            self.autoencoder,
            self.vocabulary.control,
            Guidance(),
            rows=rows,
            capacity=read + self.max_text + 4,  # a text at its limit still has to close its tags
            text_capacity=0,
            patches=0,
        )

    def _write(self, reviews: Sequence[_Review], logits: Float[Tensor, "reviews vocab"]) -> None:
        """Adds the likeliest token to each text."""
        allowed = torch.from_numpy(np.stack([self._allowed(review) for review in reviews]))
        logits = logits.float().cpu()[:, : allowed.shape[1]].masked_fill(~allowed, -torch.inf)
        for review, row in zip(reviews, logits, strict=True):
            if review.state is State.REFINE_START:
                review.acceptance = float(row.softmax(-1)[self.vocabulary.control.refine_end])
            token = int(row.argmax())
            review.state = State(int(self._table[review.state, token]))
            review.text.append(token)

    def _allowed(self, review: _Review) -> np.ndarray:
        """Which ids may come next (bool, one an id)."""
        allowed = self._table[review.state] != FORBIDDEN
        # Without words there is one way out of a check or a refinement; at `<refine>` it would be a verdict.
        if len(review.text) >= self.max_text and review.state is not State.REFINE_START:
            allowed &= ~self._is_word
        return allowed

    def _parsed(self, review: _Review) -> Inspection:
        inspection = parse_text(review.text, self.vocabulary)
        assert isinstance(inspection, Inspection), "the automaton starts behind the place where a plan may begin"
        return inspection


def uninspected(trajectory: Trajectory) -> Trajectory:
    """The trajectory without the inspection of its last draft.

    Raises:
        ValueError: it does not end in a draft.
    """
    if not trajectory.steps or not trajectory.steps[-1].drafts:
        raise ValueError(f"trajectory {trajectory.key!r} does not end in a draft; there is nothing to inspect")
    *steps, last = trajectory.steps
    *drafts, draft = last.drafts
    step = replace(last, drafts=(*drafts, replace(draft, inspection=None)))
    return replace(trajectory, steps=(*steps, step))


@cache
def load_inspector(
    folder: str | Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    quantize: Literal["nf4"] | None = None,
    max_text: int = 128,
) -> SelfInspector:
    """The inspector of a model folder or a published BAGEL; see `checkpoint.from_pretrained`.

    It is read once a process: weights that are written there later are not seen.
    """
    bundle = from_pretrained(folder, device=device, dtype=dtype, quantize=quantize)
    return SelfInspector(bundle.model, bundle.vocabulary, autoencoder=bundle.autoencoder, max_text=max_text)
