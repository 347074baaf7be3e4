"""The model as an inspector of pictures that it did not draw.

It reads what its own drawing would have left in front of it: the prompt, the plan, the picture as clean context. Then
it writes, as it does after a draft, but an inspection and nothing else, and without chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
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
from brushwork.tokens.grammar import FORBIDDEN, State, is_word, parse_text, plan_ids, transition_table
from brushwork.tokens.trajectory import Image, Inspection, Plan
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
        reviews = [_Review() for _ in prompts]
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
        written = self.max_text + 4  # a text at its limit still has to close its tags
        return Engine(
            self.model,
            self.autoencoder,
            self.vocabulary.control,
            Guidance(),
            rows=len(contexts),
            capacity=max(read) + written,
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
