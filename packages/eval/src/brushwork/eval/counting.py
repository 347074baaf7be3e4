"""What the metrics that count have in common: their states are sums, so ranks and runs are merged by adding."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

MAX_STEPS = 16
"""Entries of a vector state, for the numbers from 1; the last holds all greater numbers, too. Fixed, so that the states
of all ranks have one shape."""


def add_sums(metric: Metric, *names: str, size: int | None = None) -> None:
    """Give a metric a state a name, a sum over updates and ranks: a number, or a vector of `size`."""
    for name in names:
        zeros = torch.zeros(() if size is None else size, dtype=torch.float64)
        metric.add_state(name, default=zeros, dist_reduce_fx="sum")


def counts(metric: Metric) -> dict[str, Tensor]:
    """Copies of a metric's states by their names: the states themselves go on changing."""
    return {name: value.clone() for name, value in metric.metric_state.items() if isinstance(value, Tensor)}


def as_floats(computed: Mapping[str, Tensor]) -> dict[str, float]:
    """What a metric computed, as plain floats.

    Args:
        computed: name → a number or a vector.

    Returns:
        The same names for numbers; a vector's entries are named by their numbers from 1 ("rate_step_1"), up to the
        last of which any of the vectors knows something but zero.
    """
    known = [value.nan_to_num() for value in computed.values() if value.ndim]
    used = max((int(place) + 1 for value in known for place in value.nonzero()), default=0)
    found = {}
    for name, value in computed.items():
        named = {f"{name}_{place + 1}": value[place] for place in range(used)} if value.ndim else {name: value}
        found |= {key: one.item() for key, one in named.items()}
    return found
