"""The decoder layer: two experts with their own weights, one attention over all tokens (BAGEL).

Tokens travel expert-major: first the n_und tokens of the understanding expert (text, boundaries), then the image
patches of the generating one. Attention does not care about order as long as the plan travels along, so no layer has
to gather or scatter.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from brushwork.flow.kernels import Attend


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 and cast back before the weight is applied (BAGEL)."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n dim"]:
        """The normed and weighted input, in its own precision."""
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


def rotary_angles(
    position_ids: Int[Tensor, " n"], head_dim: int, theta: float
) -> tuple[Float[Tensor, "n head_dim"], Float[Tensor, "n head_dim"]]:
    """Cosines and sines of the rotary embedding, float32; both halves of the head share angles (BAGEL)."""
    inverse = theta ** (-torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32) / head_dim)
    angles = (position_ids.float()[:, None] * inverse).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(
    x: Float[Tensor, "n heads head_dim"], cos: Float[Tensor, "n head_dim"], sin: Float[Tensor, "n head_dim"]
) -> Float[Tensor, "n heads head_dim"]:
    """Turns each half-split pair of `x` by its angle (BAGEL)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None].to(x.dtype) + torch.cat((-second, first), dim=-1) * sin[:, None].to(x.dtype)


class Expert(nn.Module):
    """One expert's weights of one layer: norms, projections and MLP (names as in the Qwen2 family)."""

    def __init__(self, *, hidden: int, intermediate: int, num_heads: int, num_kv_heads: int, eps: float) -> None:
        super().__init__()
        self.head_dim = hidden // num_heads
        self.input_norm = RMSNorm(hidden, eps)
        self.q_proj = nn.Linear(hidden, num_heads * self.head_dim)
        self.k_proj = nn.Linear(hidden, num_kv_heads * self.head_dim)
        self.v_proj = nn.Linear(hidden, num_kv_heads * self.head_dim)
        self.q_norm = RMSNorm(self.head_dim, eps)
        self.k_norm = RMSNorm(self.head_dim, eps)
        self.o_proj = nn.Linear(num_heads * self.head_dim, hidden, bias=False)
        self.post_norm = RMSNorm(hidden, eps)
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def queries_keys_values(self, x: Float[Tensor, "n hidden"]) -> tuple[Tensor, Tensor, Tensor]:
        """Projections split into heads (n, heads, head_dim); queries and keys are normed, not yet rotated."""
        x = self.input_norm(x)
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # fmt: skip
        return self.q_norm(q), self.k_norm(k), v

    def mlp(self, x: Float[Tensor, "n hidden"]) -> Float[Tensor, "n hidden"]:
        """down(silu(gate) * up) of the normed input (BAGEL)."""
        x = self.post_norm(x)
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of the class, not of an instance, so that a copied model computes with its own weights."""
    return torch.compile(function, dynamic=True)


class DecoderLayer(nn.Module):
    """x += o(attention(qkv(norm x))); x += mlp(norm x), each token with its own expert's weights.

    Attributes:
        compiled: what is dense (norms, projections, MLPs) is compiled; attention has kernels of its own.
    """

    def __init__(self, **sizes) -> None:
        super().__init__()
        self.compiled = False
        self.understand = Expert(**sizes)
        self.generate = Expert(**sizes)

    def forward(
        self,
        x: Float[Tensor, "n hidden"],
        num_understand: int,
        rotary: tuple[Float[Tensor, "n head_dim"], Float[Tensor, "n head_dim"]],
        attend: Attend,
    ) -> Float[Tensor, "n hidden"]:
        """One layer.

        Args:
            x: hidden states, the `num_understand` tokens of the understanding expert first.
            rotary: cosines and sines of the tokens' positions.
            attend: one softmax over everything each token may see.
        """
        parts = ((self.understand, x[:num_understand]), (self.generate, x[num_understand:]))
        if not torch.is_grad_enabled():  # in training an idle expert's gradients are zeros, not missing
            parts = tuple((expert, part) for expert, part in parts if len(part))
        project, mlp = Expert.queries_keys_values, Expert.mlp
        if self.compiled:
            project, mlp = _compiled(project), _compiled(mlp)
        q, k, v = (
            torch.cat(of_experts) for of_experts in zip(*(project(expert, part) for expert, part in parts), strict=True)
        )
        attended = attend(rotate(q, *rotary), rotate(k, *rotary), v).flatten(1)  # (n, heads * head_dim)
        outputs = []
        for (expert, part), context in zip(parts, attended.split([len(part) for _, part in parts]), strict=True):
            part = part + expert.o_proj(context)
            outputs.append(part + mlp(expert, part))
        return torch.cat(outputs)


class TimeEmbedder(nn.Module):
    """Flow time in [0, 1] to a hidden vector: 256 cosines and sines, then a two-layer MLP (BAGEL).

    The time is not multiplied by 1000, and cosines come first.
    """

    frequencies = 128

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * self.frequencies, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, timesteps: Float[Tensor, " n"]) -> Float[Tensor, "n hidden"]:
        """One vector a timestep."""
        exponents = torch.arange(self.frequencies, device=timesteps.device, dtype=torch.float32) / self.frequencies
        angles = timesteps.float()[:, None] * 10000.0**-exponents
        weights = next(self.mlp.parameters())
        return self.mlp(torch.cat((angles.cos(), angles.sin()), dim=-1).to(weights.dtype))


def sincos_table(side: int, dim: int) -> Float[Tensor, "cells dim"]:
    """Fixed 2-D position table: the first half of the channels encodes the column, the second the row (BAGEL)."""
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat((angles.sin(), angles.cos()), dim=-1)  # (side, dim / 2)
    column, row = axis.repeat(side, 1), axis.repeat_interleave(side, dim=0)
    return torch.cat((column, row), dim=-1).float()
