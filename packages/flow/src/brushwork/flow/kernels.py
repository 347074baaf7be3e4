"""How the attention rule is carried out.

Samples are laid into rows, one sample a row, and one scaled-dot-product call serves them all, with the rule as an
additive bias. Nothing outside a sample is ever computed. The same plan serves training (keys are the pack's own
tokens) and cached inference (keys are a `KVCache`'s rows).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from brushwork.tokens.attention import TokenLayout, may_attend


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionPlan:
    """Where each token goes in the padded rows, and what it sees there.

    Attributes:
        slots: flat place (row * width + column) of each token among the padded queries.
        rows, width: shape of the padded queries.
        bias: 0 where a query may see a key, very negative elsewhere.
    """

    slots: Int[Tensor, " n"]
    rows: int
    width: int
    bias: Float[Tensor, "rows 1 width keys"]


def bias_from(query: TokenLayout, key: TokenLayout) -> Float[Tensor, "rows 1 width keys"]:
    """The rule between padded rows of queries (rows, width) and keys (rows, keys).

    A padding query sees nothing; a very negative number rather than -inf keeps its softmax, which nobody reads, finite.
    """
    allowed = may_attend(query[:, :, None], key[:, None, :])
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, -1e9)[:, None]


def pad_layout(layout: TokenLayout, slots: Int[Tensor, " n"], rows: int, width: int, empty: int) -> TokenLayout:
    """Layout fields in padded rows; places without a token belong to the sample `empty`, which is nobody's."""

    def pad(field: Tensor, fill: int) -> Tensor:
        return field.new_full((rows * width,), fill).index_copy(0, slots, field).view(rows, width)

    return TokenLayout(
        sample=pad(layout.sample, empty),
        segment=pad(layout.segment, 0),
        index=pad(layout.index, 0),
        causal=pad(layout.causal, False),
        noised=pad(layout.noised, False),
    )


def plan_packed(layout: TokenLayout, lengths: tuple[int, ...]) -> AttentionPlan:
    """The plan of a training pack: each sample sees itself."""
    width = max(lengths)
    starts = torch.tensor(lengths, device=layout.index.device).cumsum(0) - torch.tensor(
        lengths, device=layout.index.device
    )
    slots = layout.sample * width + layout.index - starts[layout.sample]
    query = pad_layout(layout, slots, len(lengths), width, empty=-1)
    key = pad_layout(layout, slots, len(lengths), width, empty=-2)
    return AttentionPlan(slots=slots, rows=len(lengths), width=width, bias=bias_from(query, key))


def pad_rows(x: Float[Tensor, "n heads dim"], plan: AttentionPlan) -> Float[Tensor, "rows width heads dim"]:
    """Tokens at their places in the padded rows, zeros elsewhere."""
    padded = x.new_zeros(plan.rows * plan.width, *x.shape[1:]).index_copy(0, plan.slots, x)
    return padded.view(plan.rows, plan.width, *x.shape[1:])


def attend(
    queries: Float[Tensor, "n heads dim"],
    keys: Float[Tensor, "rows keys kv_heads dim"],
    values: Float[Tensor, "rows keys kv_heads dim"],
    plan: AttentionPlan,
) -> Float[Tensor, "n heads dim"]:
    """Softmax attention of each token over the keys of its row; grouped-query when there are fewer key heads."""
    q = pad_rows(queries, plan).transpose(1, 2)  # (rows, heads, width, dim)
    out = F.scaled_dot_product_attention(
        q,
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=plan.bias.to(q.dtype),
        enable_gqa=queries.shape[1] != keys.shape[2],
    )
    return out.transpose(1, 2).flatten(0, 1).index_select(0, plan.slots)
