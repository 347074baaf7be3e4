"""The unified model: one class for the mini twin and for BAGEL-7B, told apart by numbers alone.

token ids ─► embedding ─┐                                   ┌─► lm_head at text and switch positions ─► logits
                        ├─► decoder layers (two experts) ───┤
noisy or clean patches ─┘                                   └─► llm2vae at noised patches ────────────► velocity
  vae2llm + time embedding + position table
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from brushwork.flow.cache import KVCache
from brushwork.flow.kernels import attend, pad_rows, plan_packed
from brushwork.flow.layers import Attend, DecoderLayer, RMSNorm, TimeEmbedder, rotary_angles, sincos_table
from brushwork.flow.path import velocity_from_data
from brushwork.tokens.packing import CLEAN, PackedBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes and switches of a unified model.

    Attributes:
        vocab_size: embedding rows.
        hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads: the decoder; both experts alike.
        rope_theta: base of the rotary frequencies.
        rms_norm_eps: added to the mean square in every norm.
        latent_channels: channels of the autoencoder's latents.
        latent_downsample: pixels a side of one latent cell.
        latent_patch_size: latent cells a side of one image token.
        max_latent_size: most image tokens a side; side of the position table.
        prediction: what `llm2vae` outputs: the velocity (BAGEL) or the data, from which the velocity follows.
    """

    vocab_size: int
    hidden_size: int = 128
    intermediate_size: int = 384
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 4
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    latent_channels: int = 3
    latent_downsample: int = 1
    latent_patch_size: int = 8
    max_latent_size: int = 8
    prediction: Literal["velocity", "data"] = "velocity"

    def __post_init__(self) -> None:
        """Raises ValueError where sizes do not divide."""
        for name, whole, part in (
            ("hidden_size by num_heads", self.hidden_size, self.num_heads),
            ("num_heads by num_kv_heads", self.num_heads, self.num_kv_heads),
            ("hidden_size by 4 (position table)", self.hidden_size, 4),
        ):
            if whole % part:
                raise ValueError(f"cannot divide {name}: {whole} is no multiple of {part}")

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Numbers in one image token."""
        return self.latent_patch_size**2 * self.latent_channels

    @property
    def stride(self) -> int:
        """Pixels a side of one image token."""
        return self.latent_downsample * self.latent_patch_size

    def to_dict(self) -> dict:
        """Plain numbers and strings, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the model says about a batch.

    Attributes:
        text_logits, switch_logits: at the batch's `text_index` and `switch_index`.
        velocity: at the noised patches, in the order of the sequence.
    """

    text_logits: Float[Tensor, "texts vocab"]
    switch_logits: Float[Tensor, "switches vocab"]
    velocity: Float[Tensor, "noised dim"]


class UnifiedModel(nn.Module):
    """Reads and writes text, and predicts the velocity of images, in one sequence.

    Deterministic: noise and timesteps come in from outside, and no loss is computed here.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.vae2llm = nn.Linear(config.patch_dim, config.hidden_size)
        self.time_embedder = TimeEmbedder(config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(
                hidden=config.hidden_size,
                intermediate=config.intermediate_size,
                num_heads=config.num_heads,
                num_kv_heads=config.num_kv_heads,
                eps=config.rms_norm_eps,
            )
            for _ in range(config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_generate = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.llm2vae = nn.Linear(config.hidden_size, config.patch_dim)
        table = sincos_table(config.max_latent_size, config.hidden_size)
        self.register_buffer("latent_positions", table, persistent=False)  # fixed (BAGEL)
        self.latent_positions: Tensor
        self._initialise()

    def _initialise(self) -> None:
        """Normal weights of 0.02, smaller where they write into the residual stream, and a zero llm2vae (BAGEL)."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * self.config.num_layers) ** (0.5 * into_residual))
        nn.init.zeros_(self.llm2vae.weight)

    def forward(
        self,
        batch: PackedBatch,
        patches: Float[Tensor, "patches dim"],
        timesteps: Float[Tensor, " patches"],
        cache: KVCache | None = None,
        visible: Int[Tensor, " tokens"] | None = None,
    ) -> Prediction:
        """Evaluates a pack of whole samples, or, with a cache, of what follows the cached tokens of each row.

        Args:
            batch: the sequence; with a cache, sample r continues row r.
            patches: image tokens in the order of `batch.patch_index`: x_t at noised ones, data at clean ones.
            timesteps: the time of each patch; 0 at clean ones.
            cache: memory to read and write; the caller commits.
            visible: see `KVCache.place`.
        """
        num_tokens = batch.num_tokens
        is_patch = torch.zeros(num_tokens, dtype=torch.bool, device=batch.token_ids.device)
        is_patch[batch.patch_index] = True
        understand = (~is_patch).nonzero().squeeze(-1)
        order = torch.cat((understand, batch.patch_index))  # expert-major
        place = torch.empty_like(order).index_copy(0, order, torch.arange(num_tokens, device=order.device))

        x = torch.cat((self.embed_tokens(batch.token_ids[understand]), self._embed_patches(batch, patches, timesteps)))
        rotary = rotary_angles(batch.position_ids[order], self.config.head_dim, self.config.rope_theta)
        attention = self._attention(batch, order, cache, visible)
        for layer, attend_layer in zip(self.layers, attention, strict=True):
            x = layer(x, len(understand), rotary, attend_layer)

        noised = (batch.patch_draw != CLEAN).nonzero().squeeze(-1)
        drawn = self.llm2vae(self.norm_generate(x[len(understand) + noised]))
        return Prediction(
            text_logits=self.lm_head(self.norm(x[place[batch.text_index]])),
            switch_logits=self.lm_head(self.norm(x[place[batch.switch_index]])),
            velocity=self._velocity(drawn, patches[noised], timesteps[noised]),
        )

    def _embed_patches(self, batch: PackedBatch, patches: Tensor, timesteps: Tensor) -> Tensor:
        side = self.config.max_latent_size
        if len(batch.patch_grid) and int(batch.patch_grid.max()) >= side:  # an index would alias into another row
            rows, columns = (batch.patch_grid.max(0).values + 1).tolist()
            raise ValueError(
                f"{rows}x{columns} image tokens exceed the position table of side {side}; shrink the image"
            )
        position = self.latent_positions[batch.patch_grid[:, 0] * side + batch.patch_grid[:, 1]]
        times, index = timesteps.unique(return_inverse=True)
        return self.vae2llm(patches.to(self.vae2llm.weight.dtype)) + self.time_embedder(times)[index] + position

    def _attention(
        self, batch: PackedBatch, order: Tensor, cache: KVCache | None, visible: Tensor | None
    ) -> list[Attend]:
        """One attention function a layer, for tokens in expert-major order."""
        if cache is None:
            plan = plan_packed(batch.layout, batch.lengths)
            plan = dataclasses.replace(plan, slots=plan.slots[order])
            return [lambda q, k, v: attend(q, pad_rows(k, plan), pad_rows(v, plan), plan)] * len(self.layers)
        plan, slots, used = cache.place(batch, visible)
        plan, slots = dataclasses.replace(plan, slots=plan.slots[order]), slots[order]

        def cached(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = cache.write(layer, slots, k, v, used)
            return attend(q, keys.to(q.dtype), values.to(q.dtype), plan)

        return [partial(cached, layer) for layer in range(len(self.layers))]

    def _velocity(self, drawn: Tensor, x_t: Tensor, timesteps: Tensor) -> Tensor:
        if self.config.prediction == "velocity":
            return drawn
        return velocity_from_data(drawn.float(), x_t, timesteps)

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty memory for `rows` sequences of at most `capacity` tokens, on the model's device."""
        return KVCache(
            rows=rows,
            capacity=capacity,
            num_layers=self.config.num_layers,
            num_kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
            dtype=self.lm_head.weight.dtype,
            device=self.lm_head.weight.device,
        )
