"""Means of the losses since the last logging step: of each loss, and by subset and kind of segment.

`summed` and `go_on` carry metrics over a checkpoint: the ranks' states as one, which one rank takes up again.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from torchmetrics import Metric

from brushwork.flow.loss import LossTerms, Term
from brushwork.tokens.packing import PackedBatch

ROLES = {"text": ("plan", "inspection"), "switch": ("",), "flow": ("draft", "refinement")}
"""Which kinds of segment each loss is told apart by."""


class LossMeans(Metric):
    """Sums and counts over batches and ranks; `compute` divides them.

    Args:
        subsets: of the data; what belongs to none of them counts in the whole alone.
    """

    full_state_update = False

    def __init__(self, subsets: Sequence[str] = ()) -> None:
        super().__init__()
        self.names = [name for term in ROLES for name in (term, *self._groups(term, subsets))]
        self._place = {name: place for place, name in enumerate(self.names)}
        self.sums: Tensor
        self.counts: Tensor
        for state in ("sums", "counts"):
            zeros = torch.zeros(len(self.names), dtype=torch.float64)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    @staticmethod
    def _groups(term: str, subsets: Sequence[str]) -> list[str]:
        return ["/".join(filter(None, (term, subset, role))) for subset in subsets if subset for role in ROLES[term]]

    @torch.no_grad()
    def update(self, batch: PackedBatch, terms: LossTerms) -> None:
        """Adds the losses of a batch."""
        self._add("text", terms.text, batch, batch.text_span)
        self._add("switch", terms.switch, batch, batch.switch_span)
        self._add("flow", terms.flow, batch, batch.flow_span)

    def _add(self, name: str, term: Term, batch: PackedBatch, spans: Int[Tensor, " n"]) -> None:
        whole = self._place[name]
        rows = torch.tensor([self._row(name, group) for group in batch.groups], device=spans.device)[spans]
        values, weights = term.weighted.double(), (torch.ones_like(term.each) if term.weights is None else term.weights)
        for state, amounts in ((self.sums, values), (self.counts, weights.double())):
            state[whole] += amounts.sum()
            state.index_add_(0, rows, amounts.where(rows != whole, 0))

    def _row(self, name: str, group: str) -> int:
        """Of a span's "subset/role"; the row of the whole where the group is not told apart."""
        subset, _, role = group.rpartition("/")
        role = role if role in ROLES[name] else ""
        return self._place.get("/".join(filter(None, (name, subset, role))), self._place[name])

    def compute(self) -> dict[str, Tensor]:
        """The means by name ("flow", "flow/conflict/refinement", ...) of all that occurred."""
        means = self.sums / self.counts
        return {name: means[place].float() for place, name in enumerate(self.names) if self.counts[place] > 0}


def summed(metric: Metric) -> dict[str, Tensor]:
    """What a metric has seen on all ranks; every rank has to call it."""
    with metric.sync_context():
        return {name: torch.as_tensor(getattr(metric, name)).clone().cpu() for name in metric.metric_state}


def go_on(metric: Metric, state: dict[str, Tensor]) -> None:
    """Gives a metric what `summed` told."""
    for name, value in state.items():
        setattr(metric, name, value.to(metric.device))
    metric._update_count = 1  # it holds something now
