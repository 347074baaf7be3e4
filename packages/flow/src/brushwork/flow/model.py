"""The unified model: one class for the mini twin and for BAGEL-7B, told apart by numbers alone.

token ids ──────────────► embedding ───────────┐                                   ┌─► lm_head at text and switch
pixels ─► vision encoder ─► connector + table ─┼─► decoder layers (two experts) ───┤     positions ──────────► logits
noisy or clean patches ─► vae2llm + time ──────┘                                   └─► llm2vae at noised
                          embedder + table                                               patches ──────────► velocity
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from brushwork.flow.cache import Context, KVCache
from brushwork.flow.kernels import Attend, Lowering, Pattern, segmented
from brushwork.flow.layers import DecoderLayer, Expert, RMSNorm, TimeEmbedder, rotary_angles, sincos_table
from brushwork.flow.path import velocity_from_data
from brushwork.flow.vision import Connector, VisionConfig, VisionEncoder
from brushwork.tokens.attention import Kind, Span
from brushwork.tokens.images import interpolated_index, patch_grid, table_index
from brushwork.tokens.packing import PackedBatch, expert_major


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
        vision: the vision encoder; None for a model without one.
        interpolate_positions: stretch an image's patches over the whole of the position tables (BAGEL: off).
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
    vision: VisionConfig | None = None
    interpolate_positions: bool = False
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

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens of an image.

        Raises:
            ValueError: sides in pixels that the stride does not divide, or beyond the position table.
        """
        largest = None if self.interpolate_positions else self.max_latent_size * self.stride
        return patch_grid(height, width, self.stride, largest)

    def to_dict(self) -> dict:
        """Plain numbers, strings and dictionaries, for JSON."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """What a batch continues.

    Attributes:
        cache: holds keys and values.
        contexts: of each sample of the batch, what stands in front of it.
        keep: the contexts hold the batch from now on; otherwise it leaves no trace (a noised image).
    """

    cache: KVCache
    contexts: Sequence[Context]
    keep: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """All of an evaluation that depends neither on latents nor on weights; the steps of a denoising loop share one.

    Attributes:
        order: places in the sequence, each expert's together (see `packing.expert_major`).
        num_understand: how many of them belong to the understanding expert.
        place: inverse of `order`.
        rotary: cosines and sines in that order, float32.
        attention: of each decoder layer.
        vision_attention: of the vision encoder's layers.
        latent_rows, vision_rows: of the position tables.
        image_of: of each latent patch, which image it belongs to.
        first_patch: of each of those images.
        noised: which patches are noised.
    """

    order: Int[Tensor, " tokens"]
    num_understand: int
    place: Int[Tensor, " tokens"]
    rotary: tuple[Float[Tensor, "tokens dim"], Float[Tensor, "tokens dim"]]
    attention: list[Attend]
    vision_attention: Attend | None
    latent_rows: Int[Tensor, " patches"]
    vision_rows: Int[Tensor, " vision"]
    image_of: Int[Tensor, " patches"]
    first_patch: Int[Tensor, " images"]
    noised: Int[Tensor, " noised"]


class UnifiedModel(nn.Module):
    """Reads and writes text, looks at images and predicts their velocity, in one sequence.

    Deterministic: noise and timesteps come in from outside, and no loss is computed here.

    Attributes:
        lowering: how attention is carried out, see `brushwork.flow.kernels`.
        activation_checkpointing: layers are computed again in the backward pass instead of being remembered.
    """

    def __init__(self, config: ModelConfig, *, lowering: Lowering = segmented) -> None:
        super().__init__()
        self.config, self.lowering = config, lowering
        self.activation_checkpointing = False
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
        self.latent_positions: Tensor  # fixed (BAGEL)
        self.register_buffer("latent_positions", sincos_table(config.max_latent_size, config.hidden_size))
        if config.vision is not None:
            self.vision = VisionEncoder(config.vision)
            self.connector = Connector(config.vision.hidden_size, config.hidden_size)
            self.vision_positions: Tensor
            self.register_buffer("vision_positions", sincos_table(config.vision.table_side, config.hidden_size))
        if not self.lm_head.weight.is_meta:
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

    # -- planning -----------------------------------------------------------------------------------------------------

    def plan(self, batch: PackedBatch, onto: Continuation | None = None) -> BatchPlan:
        """What can be settled before any compute.

        Args:
            batch: the sequence.
            onto: what its samples continue. Contexts that keep them grow here; their positions are the caller's.

        Raises:
            ValueError: an image exceeds the position tables, a context its capacity, or the model cannot see.
        """
        config, device = self.config, batch.token_ids.device
        if len(batch.vision_index) and config.vision is None:
            raise ValueError("the batch holds images for a vision encoder, which this model lacks; segment without")
        latent_rows = self._table_rows(batch, batch.patch_grid, config.max_latent_size, latent=True)
        side = config.vision.table_side if config.vision else 0
        vision_rows = self._table_rows(batch, batch.vision_grid, side, latent=False)
        host_order, num_understand = expert_major(batch.spans)
        rows = np.empty_like(host_order)
        rows[host_order] = np.arange(len(rows))
        order, place = (torch.from_numpy(array).to(device) for array in (host_order, rows))
        sizes = np.array([s.length - 2 for s in batch.spans if s.kind.is_latent], dtype=np.int64)
        kinds = np.array([s.kind is Kind.NOISED for s in batch.spans if s.kind.is_latent], dtype=bool)
        image_of = np.repeat(np.arange(len(sizes)), sizes)
        return BatchPlan(
            order=order,
            num_understand=num_understand,
            place=place,
            rotary=rotary_angles(batch.position_ids[order], config.head_dim, config.rope_theta),
            attention=self._attention(batch, rows, onto),
            vision_attention=_vision_attention(batch.spans, device) if len(batch.vision_index) else None,
            latent_rows=latent_rows,
            vision_rows=vision_rows,
            image_of=torch.from_numpy(image_of).to(device),
            first_patch=torch.from_numpy(np.cumsum(sizes) - sizes).to(device),
            noised=torch.from_numpy(np.flatnonzero(kinds[image_of])).to(device),
        )

    def _table_rows(self, batch: PackedBatch, cells: Tensor, side: int, *, latent: bool) -> Tensor:
        if not self.config.interpolate_positions or not len(cells):
            return table_index(cells, side)
        counts = [s.length - 2 for s in batch.spans if s.kind is not Kind.TEXT and s.kind.is_latent is latent]
        last = cells[torch.tensor(counts).cumsum(0) - 1].tolist()  # of each image, its lower right patch
        return torch.cat([interpolated_index((r + 1, c + 1), side) for r, c in last]).to(cells.device)

    def _attention(self, batch: PackedBatch, rows: np.ndarray, onto: Continuation | None) -> list[Attend]:
        """One attention function a layer, for tokens in expert-major order."""
        pattern = Pattern(spans=batch.spans, query_rows=rows, key_slots=rows, device=batch.token_ids.device)
        if onto is None:
            return [self.lowering(pattern)] * len(self.layers)
        assert not onto.keep or not batch.num_draws, "a noised image must not be seen by what follows"
        past = tuple(context.slots() for context in onto.contexts)
        slots = onto.cache.place(batch.lengths, onto.contexts, keep=onto.keep)
        attend = self.lowering(dataclasses.replace(pattern, key_slots=slots, past=past))
        written = np.empty_like(slots)
        written[rows] = slots
        index = torch.from_numpy(written).to(pattern.device)

        def cached(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend(q, *onto.cache.write(layer, index, k, v))

        return [partial(cached, layer) for layer in range(len(self.layers))]

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def forward(
        self,
        batch: PackedBatch,
        patches: Float[Tensor, "patches dim"],
        timesteps: Float[Tensor, " patches"],
        pixels: Float[Tensor, "vision vision_dim"] | None = None,
        plan: BatchPlan | None = None,
    ) -> Prediction:
        """Evaluates a pack.

        Args:
            batch: the sequence.
            patches: latent tokens in the order of `batch.patch_index`: x_t at noised ones, data at clean ones.
            timesteps: the time of each patch, one for all of an image; 0 at clean ones.
            pixels: in the order of `batch.vision_index`, see `images.vision_patches`; None where nothing is seen.
            plan: what `plan` made of the batch; by default it is planned as a pack of whole samples.
        """
        plan = plan or self.plan(batch)
        x = self.embed(batch, patches, timesteps, pixels, plan)
        for layer, attend in zip(self.layers, plan.attention, strict=True):
            if self.activation_checkpointing and self.training:
                x = checkpoint(layer, x, plan.num_understand, plan.rotary, attend, use_reentrant=False)
            else:
                x = layer(x, plan.num_understand, plan.rotary, attend)
        drawn = self.llm2vae(self.norm_generate(x[plan.num_understand + plan.noised]))
        return Prediction(
            text_logits=self.lm_head(self.norm(x[plan.place[batch.text_index]])),
            switch_logits=self.lm_head(self.norm(x[plan.place[batch.switch_index]])),
            velocity=self._velocity(drawn, patches[plan.noised], timesteps[plan.noised]),
        )

    def embed(
        self, batch: PackedBatch, patches: Tensor, timesteps: Tensor, pixels: Tensor | None, plan: BatchPlan
    ) -> Float[Tensor, "tokens hidden"]:
        """The decoder's input, in the plan's order."""
        num_words = plan.num_understand - len(batch.vision_index)
        words = self.embed_tokens(batch.token_ids[plan.order[:num_words]])
        times = self.time_embedder(timesteps[plan.first_patch])  # an image has one time
        latents = self.vae2llm(patches.to(self.vae2llm.weight.dtype)) + times[plan.image_of]
        return torch.cat((words, *self._look(pixels, plan), latents + self.latent_positions[plan.latent_rows]))

    def _look(self, pixels: Tensor | None, plan: BatchPlan) -> list[Tensor]:
        """The decoder's input for what the vision encoder sees.

        In training an encoder without anything to see still takes part, so that its gradients are zeros, not missing.
        """
        if self.config.vision is None or not (len(plan.vision_rows) or torch.is_grad_enabled()):
            return []
        if pixels is None:
            pixels = self.embed_tokens.weight.new_zeros((0, self.config.vision.patch_dim))
        if len(pixels) != len(plan.vision_rows):
            raise ValueError(f"the batch holds {len(plan.vision_rows)} vision patches, the pixels are {len(pixels)}")
        attend = plan.vision_attention or (lambda q, k, v: v)
        seen = self.connector(self.vision(pixels, plan.vision_rows, attend))
        return [seen + self.vision_positions[plan.vision_rows]]

    def _velocity(self, drawn: Tensor, x_t: Tensor, timesteps: Tensor) -> Tensor:
        if self.config.prediction == "velocity":
            return drawn
        return velocity_from_data(drawn.float(), x_t, timesteps)

    # -- switches -----------------------------------------------------------------------------------------------------

    def checkpoint_activations(self, on: bool = True) -> None:
        """Trades a second forward pass in the backward pass for the memory of activations, layer by layer."""
        self.activation_checkpointing = on
        if self.config.vision is not None:
            self.vision.activation_checkpointing = on

    def compile_experts(self, on: bool = True) -> None:
        """Compiles what is dense in each decoder layer (norms, projections, MLPs); attention has kernels of its own."""
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            layer.compiled = on

    def experts(self) -> Iterator[Expert]:
        """Both experts of every layer."""
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            yield from (layer.understand, layer.generate)

    def new_cache(self, num_slots: int, scratch: int = 0) -> KVCache:
        """An empty memory of `num_slots` tokens, and `scratch` that are forgotten at once, on the model's device."""
        return KVCache(
            num_slots=num_slots,
            scratch=scratch,
            num_layers=self.config.num_layers,
            num_kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
            dtype=self.embed_tokens.weight.dtype,
            device=self.embed_tokens.weight.device,
        )


def _vision_attention(spans: Sequence[Span], device: torch.device) -> Attend:
    """Each image sees itself alone: nothing is masked, whatever lowering the decoder has."""
    images, start = [], 0
    for span in spans:
        if span.kind is Kind.VISION:
            images.append(Span(kind=span.kind, sample=len(images), start=start, length=span.length - 2))
            start += span.length - 2
    rows = np.arange(start)
    return segmented(Pattern(spans=tuple(images), query_rows=rows, key_slots=rows, device=device))
