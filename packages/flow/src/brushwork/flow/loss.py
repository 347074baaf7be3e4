"""The objective: cross-entropy on texts and on modality switches, squared error on velocities (paper, "Objective").

Losses leave here as sums and counts, so that whoever averages, over ranks or accumulated batches, gets the true
mean.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One loss as a sum over `count` terms, or over terms whose weights add up to it."""

    sum: Float[Tensor, ""]
    count: int | float

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Sum over count; 0 where there is nothing to average."""
        return self.sum / self.count if self.count else self.sum


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerms:
    """The three losses of a batch. `text` and `switch` are in nats a token, `flow` in squared velocity a channel."""

    text: Term
    switch: Term
    flow: Term

    def total(self, lambda_ce: float) -> Float[Tensor, ""]:
        """lambda_ce * (text + switch) + flow, each averaged over its own terms."""
        return lambda_ce * (self.text.mean + self.switch.mean) + self.flow.mean


def cross_entropy(
    logits: Float[Tensor, "n vocab"], labels: Int[Tensor, " n"], weights: Float[Tensor, " n"] | None = None
) -> Term:
    """Next-token cross-entropy, in float32; each token counts as one, or as its weight."""
    if weights is None:
        return Term(sum=F.cross_entropy(logits.float(), labels, reduction="sum"), count=len(labels))
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return Term(sum=(losses * weights).sum(), count=float(weights.sum()))


def flow_error(velocity: Float[Tensor, "n dim"], target: Float[Tensor, "n dim"]) -> Term:
    """Squared velocity error: mean over the channels of a token, summed over tokens (BAGEL)."""
    return Term(sum=(velocity.float() - target.float()).square().mean(-1).sum(), count=len(target))
