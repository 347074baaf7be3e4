"""Who may look at whom. The rule stands here once; every mask and kernel plan is derived from it.

A prompt of 3 tokens, a noised image of 2 patches (its boundary tokens left out) and its clean copy, then 2 text tokens:

             p p p   n n   c c   t t
    prompt   1 . .   . .   . .   . .      text is causal
             1 1 .   . .   . .   . .
             1 1 1   . .   . .   . .
    noised   1 1 1   1 1   . .   . .      an image sees itself whole and all earlier clean content
             1 1 1   1 1   . .   . .
    clean    1 1 1   . .   1 1   . .      nobody else sees a noised image
             1 1 1   . .   1 1   . .
    text     1 1 1   . .   1 1   1 .
             1 1 1   . .   1 1   1 1
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Kind(Enum):
    """How a segment is treated by the attention rule, the experts and the losses."""

    TEXT = auto()
    """Words between bos and eos, read left to right."""
    VISION = auto()
    """An image as the vision encoder sees it: context for the understanding expert."""
    CLEAN = auto()
    """An image as latents without noise: context for the generating expert."""
    NOISED = auto()
    """An image that is being drawn."""

    @property
    def is_latent(self) -> bool:
        """Its patches belong to the generating expert."""
        return self in (Kind.CLEAN, Kind.NOISED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One segment's place in a packed sequence. Plain numbers, so that plans are made without asking a device.

    Attributes:
        kind: what stands there. All but a text has a boundary token at either end.
        sample: which sample of the pack.
        start, length: in tokens, boundary tokens included.
    """

    kind: Kind
    sample: int
    start: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLayout:
    """Where each token stands, all that the rule looks at. Shapes agree; any leading dimensions.

    Attributes:
        sample: which sample of the pack.
        segment: which segment, unique within the sample.
        index: place in the sequence; only its order within a sample matters.
        causal: the token's segment is read left to right (text).
        noised: the token belongs to an image that is being drawn.
    """

    sample: Int[Tensor, "*shape"]
    segment: Int[Tensor, "*shape"]
    index: Int[Tensor, "*shape"]
    causal: Bool[Tensor, "*shape"]
    noised: Bool[Tensor, "*shape"]

    def map(self, function: Callable[[Tensor], Tensor]) -> "TokenLayout":
        """The same function applied to every field."""
        return TokenLayout(
            sample=function(self.sample),
            segment=function(self.segment),
            index=function(self.index),
            causal=function(self.causal),
            noised=function(self.noised),
        )

    def __getitem__(self, index) -> "TokenLayout":
        return self.map(lambda tensor: tensor[index])


def may_attend(query: TokenLayout, key: TokenLayout) -> Bool[Tensor, "*shape"]:
    """May a query token look at a key token? Layouts broadcast against each other (BAGEL)."""
    same_segment = query.segment == key.segment
    past = key.index <= query.index
    return (
        (query.sample == key.sample)
        & (past | (same_segment & ~query.causal))
        & ~(key.noised & ~same_segment)
    )  # fmt: skip


def dense_mask(layout: TokenLayout) -> Bool[Tensor, "tokens tokens"]:
    """The rule as a matrix for a whole pack: entry (i, j) says whether token i sees token j."""
    return may_attend(layout[:, None], layout[None, :])


def token_layout(spans: Sequence[Span], device: torch.device | str = "cpu") -> TokenLayout:
    """The layout of every token of a pack, in the order of the sequence."""
    lengths = torch.tensor([span.length for span in spans], dtype=torch.long, device=device)
    total = sum(span.length for span in spans)

    def per_token(values: Sequence[int | bool], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device).repeat_interleave(lengths, output_size=total)

    return TokenLayout(
        sample=per_token([span.sample for span in spans], torch.long),
        segment=per_token(range(len(spans)), torch.long),
        index=torch.arange(total, device=device),
        causal=per_token([span.kind is Kind.TEXT for span in spans], torch.bool),
        noised=per_token([span.kind is Kind.NOISED for span in spans], torch.bool),
    )


def visible_spans(spans: Sequence[Span]) -> list[list[int]]:
    """Of which spans each span sees every token that lies before it, itself among them: the rule between first tokens.

    Within its own span a text sees what lies before, an image everything.
    """
    return [row.nonzero().flatten().tolist() for row in _between_spans(spans)]


def _between_spans(spans: Sequence[Span]) -> Bool[Tensor, "spans spans"]:
    """The rule between first tokens, which is the rule between spans."""
    return dense_mask(token_layout([Span(kind=s.kind, sample=s.sample, start=0, length=1) for s in spans]))


def visible_pairs(spans: Sequence[Span]) -> int:
    """How many (query, key) pairs the rule allows: what attention has to compute."""
    lengths = torch.tensor([span.length for span in spans], dtype=torch.long)
    unseen = sum(span.length * (span.length - 1) // 2 for span in spans if span.kind is Kind.TEXT)  # what is ahead
    return int((_between_spans(spans) * lengths).sum(1) @ lengths) - unseen
