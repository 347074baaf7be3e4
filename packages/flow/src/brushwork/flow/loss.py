"""The objective: cross-entropy on texts and on modality switches, squared error on velocities (paper, "Objective").

Losses leave here term by term and are averaged over all terms of an optimiser step, whichever ranks and accumulated
batches those are in: a token counts the same wherever it is.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from brushwork.tokens.packing import LossCounts


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One loss: a value for each token or patch, and how much each weighs (None: all the same)."""

    each: Float[Tensor, " n"]
    weights: Float[Tensor, " n"] | None = None

    def detach(self) -> "Term":
        """The values alone, without what they were computed from."""
        return Term(each=self.each.detach(), weights=self.weights)

    @property
    def weighted(self) -> Float[Tensor, " n"]:
        """Each value times its weight."""
        return self.each if self.weights is None else self.each * self.weights

    @property
    def sum(self) -> Float[Tensor, ""]:
        """Of the weighted values."""
        return self.weighted.sum()

    @property
    def count(self) -> int | float:
        """Of the values, or the sum of their weights."""
        return len(self.each) if self.weights is None else float(self.weights.sum())

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Sum over count; 0 where there is nothing to average."""
        return _over(self.sum, self.count)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerms:
    """The three losses of a batch. `text` and `switch` are in nats a token, `flow` in squared velocity a channel."""

    text: Term
    switch: Term
    flow: Term

    def detach(self) -> "LossTerms":
        """The values alone, without what they were computed from."""
        return LossTerms(text=self.text.detach(), switch=self.switch.detach(), flow=self.flow.detach())

    def total(self, lambda_ce: float, counts: LossCounts | None = None) -> Float[Tensor, ""]:
        """lambda_ce * (text + switch) + flow.

        Args:
            lambda_ce: weight of the words against the pictures.
            counts: what the sums are divided by: all terms of the step that the batch is a part of. The totals of a
                step's batches then add up to the step's loss. By default each loss is averaged over the batch.
        """
        if counts is None:
            text, switch, flow = self.text.mean, self.switch.mean, self.flow.mean
        else:
            texts = counts.text if self.text.weights is None else counts.text_weight
            text, switch, flow = (
                _over(term.sum, count)
                for term, count in ((self.text, texts), (self.switch, counts.switch), (self.flow, counts.flow))
            )
        return lambda_ce * (text + switch) + flow


def _over(total: Tensor, count: int | float) -> Tensor:
    return total / count if count else total


def cross_entropy(
    logits: Float[Tensor, "n vocab"], labels: Int[Tensor, " n"], weights: Float[Tensor, " n"] | None = None
) -> Term:
    """Next-token cross-entropy, in float32; each token counts as one, or as its weight."""
    return Term(each=F.cross_entropy(logits.float(), labels, reduction="none"), weights=weights)


def flow_error(velocity: Float[Tensor, "n dim"], target: Float[Tensor, "n dim"]) -> Term:
    """Squared velocity error of each token: mean over its channels (BAGEL)."""
    return Term(each=torch.square(velocity.float() - target.float()).mean(-1))
