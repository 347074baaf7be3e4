"""Keys and values of what has been read and drawn so far: preallocated, append-only, one row a prompt."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from brushwork.flow.kernels import AttentionPlan, bias_from, pad_layout
from brushwork.tokens.attention import TokenLayout
from brushwork.tokens.packing import PackedBatch


class KVCache:
    """The memory of a batch of sequences.

    New tokens are always written behind the `lengths` kept ones, then seen by each other. `commit` keeps them; without
    it the next tokens overwrite them, which is how the steps of a denoising loop leave no trace. Lowering `lengths` is
    a rollback.

    Args:
        rows: number of sequences.
        capacity: most tokens a row can hold, tentative ones included.
    """

    def __init__(
        self, *, rows: int, capacity: int, num_layers: int, num_kv_heads: int, head_dim: int, dtype, device
    ) -> None:
        shape = (num_layers, rows, capacity, num_kv_heads, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.segments = torch.zeros(rows, dtype=torch.long, device=device)
        ints = torch.zeros((rows, capacity), dtype=torch.long, device=device)
        flags = torch.zeros((rows, capacity), dtype=torch.bool, device=device)
        self.layout = TokenLayout(
            sample=ints - 2, segment=ints.clone(), index=ints.clone(), causal=flags, noised=flags.clone()
        )

    @property
    def capacity(self) -> int:
        """Most tokens a row can hold."""
        return self.keys.shape[2]

    def place(
        self, batch: PackedBatch, visible: Int[Tensor, " n"] | None = None
    ) -> tuple[AttentionPlan, Int[Tensor, " n"], int]:
        """Writes the layout of new tokens behind the kept ones.

        Args:
            batch: the new tokens; its sample r belongs to row r, and there are as many samples as rows.
            visible: of each new token, how many kept tokens of its row it may see; None is all of them. This is how a
                guidance branch without the last text shares the memory of the full context.

        Returns:
            The attention plan, the flat cache slot of each new token, and how many columns of the cache are in use.

        Raises:
            ValueError: a row would exceed the capacity.
        """
        device = self.lengths.device
        counts = torch.tensor(batch.lengths, device=device)
        row, starts = batch.layout.sample, counts.cumsum(0) - counts
        offset = torch.arange(batch.num_tokens, device=device) - starts[row]
        column = self.lengths[row] + offset
        used = int((self.lengths + counts).max())
        if used > self.capacity:
            raise ValueError(f"a sequence of {used} tokens exceeds the cache's capacity of {self.capacity}; raise it")
        layout = TokenLayout(
            sample=row,
            segment=self.segments[row] + batch.layout.segment,
            index=column,
            causal=batch.layout.causal,
            noised=batch.layout.noised,
        )
        for name in ("sample", "segment", "index", "causal", "noised"):
            getattr(self.layout, name)[row, column] = getattr(layout, name)
        rows, width = len(self.lengths), max(batch.lengths)
        slots = row * width + offset
        bias = self._bias(layout, slots, rows, width, used, visible, counts)
        plan = AttentionPlan(slots=slots, rows=rows, width=width, bias=bias)
        return plan, row * self.capacity + column, used

    def _bias(self, layout, slots, rows, width, used, visible, counts) -> Tensor:
        columns = torch.arange(used, device=slots.device)
        bias = bias_from(pad_layout(layout, slots, rows, width, empty=-1), self.layout[:, :used])
        stale = columns >= (self.lengths + counts)[:, None]  # left behind by tokens that were not committed
        bias = bias.masked_fill(stale[:, None, None], -1e9)
        if visible is None:
            return bias
        limit = visible.new_zeros(rows * width).index_copy(0, slots, visible).view(rows, 1, width, 1)
        kept = columns < self.lengths[:, None]
        return bias.masked_fill(kept[:, None, None] & (columns >= limit), -1e9)

    def write(
        self,
        layer: int,
        slots: Int[Tensor, " n"],
        keys: Float[Tensor, "n kv_heads dim"],
        values: Float[Tensor, "n kv_heads dim"],
        used: int,
    ) -> tuple[Tensor, Tensor]:
        """Stores one layer's new keys and values; returns views of all that are in use (rows, used, kv_heads, dim)."""
        self.keys[layer].flatten(0, 1).index_copy_(0, slots, keys.to(self.keys.dtype))
        self.values[layer].flatten(0, 1).index_copy_(0, slots, values.to(self.values.dtype))
        return self.keys[layer, :, :used], self.values[layer, :, :used]

    def commit(self, batch: PackedBatch) -> None:
        """Keeps the tokens that were placed last."""
        counts = torch.tensor(batch.lengths, device=self.lengths.device)
        self.lengths += counts
        self.segments += int(batch.layout.segment.max()) + 1  # only uniqueness within a row matters
