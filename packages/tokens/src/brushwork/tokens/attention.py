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

from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor


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

    def __getitem__(self, index) -> "TokenLayout":
        """The same indexing applied to every field."""
        return TokenLayout(
            sample=self.sample[index],
            segment=self.segment[index],
            index=self.index[index],
            causal=self.causal[index],
            noised=self.noised[index],
        )


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
