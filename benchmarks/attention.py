"""Training steps of a model of 75 M parameters, attention carried out in each of the ways, in two precisions.

One pack of 2,020 tokens: texts, images to look at, clean and noised latents. The dense mask is the baseline. On a CPU
FlexAttention has no backward pass, so the forward passes are compared by themselves. The last table is about the two
experts: tokens ordered expert-major once, or gathered and scattered in every layer as the official code does.

    python benchmarks/attention.py
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _measure import alternate, options, peak_memory, show, write
from torch import Tensor
from torch.nn import functional as F

from brushwork.flow.kernels import Attend, Lowering, Pattern, flex, segmented, varlen, varlen_reference
from brushwork.flow.layers import DecoderLayer
from brushwork.flow.loss import cross_entropy, flow_error
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.flow.vision import VisionConfig
from brushwork.tokens.attention import Kind, dense_mask, token_layout
from brushwork.tokens.packing import CLEAN, PackedBatch, pack
from brushwork.tokens.segments import Segment
from brushwork.tokens.vocabulary import WordVocabulary

VISION = VisionConfig(hidden_size=384, intermediate_size=1536, num_layers=6, num_heads=6, patch_size=14, image_size=224)
CONFIG = ModelConfig(
    vocab_size=12288, hidden_size=512, intermediate_size=1536, num_layers=8, num_heads=8, num_kv_heads=4,
    latent_channels=16, latent_downsample=8, latent_patch_size=2, max_latent_size=16, vision=VISION,
)  # fmt: skip
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def dense(pattern: Pattern) -> Attend:
    """One call over the whole pack with the rule as a matrix: what a lowering has to beat."""
    order = torch.from_numpy(pattern.query_rows.argsort())
    mask = dense_mask(token_layout(pattern.spans)[order])

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)

    return attend


LOWERINGS: dict[str, Lowering] = {
    "dense": dense,
    "segmented": segmented,
    "varlen (reference kernel)": partial(varlen, kernel=varlen_reference),
    "flex": flex,
}


def packed() -> PackedBatch:
    """A sample of two rounds and a text-to-image one."""
    drawing = (("text", 60), "noised", "clean", "vision", ("text", 50))
    samples = [[("text", 50), *drawing, *drawing], [("text", 64), "noised"]]
    grids = {"noised": (16, 16), "clean": (16, 16), "vision": (14, 14)}
    made = []
    for sample in samples:
        segments: list[Segment] = []
        for item in sample:
            position = segments[-1].next_position if segments else 0
            if isinstance(item, tuple):
                learnt = len(segments) > 0
                segments.append(Segment(kind=Kind.TEXT, position=position, ids=tuple(range(item[1])), loss=learnt))
            else:
                segments.append(Segment(kind=Kind[item.upper()], position=position, grid=grids[item]))
        made.append(segments)
    return pack(made, WordVocabulary(["a"]).control)


def inputs(batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, timesteps and pixels."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn((len(batch.patch_index), CONFIG.patch_dim), generator=generator)
    pixels = torch.randn((len(batch.vision_index), VISION.patch_dim), generator=generator)
    return patches, torch.where(batch.patch_draw == CLEAN, 0.0, 0.5), pixels


def step(name: str, precision: str, *, backward: bool = True, checkpointing: bool = False) -> Callable[[], Any]:
    """A training step (forward, backward, AdamW), or a forward pass."""
    torch.manual_seed(0)
    model = UnifiedModel(CONFIG, lowering=LOWERINGS[name]).train()
    model.checkpoint_activations(checkpointing)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch, dtype = packed(), PRECISIONS[precision]
    given = inputs(batch)

    def run() -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32), torch.set_grad_enabled(backward):
            prediction = model(batch, *given)
            loss = flow_error(prediction.velocity, torch.zeros_like(prediction.velocity)).mean
            loss = loss + cross_entropy(prediction.text_logits, batch.text_labels).mean
        if backward:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


class Scattered(DecoderLayer):
    """The same layer over tokens in the order of the sequence, gathered for each expert part and scattered back."""

    def forward(self, x: Tensor, index: tuple[Tensor, Tensor], rotary: Any, attend: Attend) -> Tensor:
        """As the official code goes about it: one gather and scatter a projection."""
        from brushwork.flow.layers import rotate

        experts = (self.understand, self.generate)
        heads = [
            x.new_zeros(len(x), projection.out_features).unflatten(-1, (-1, self.understand.head_dim))
            for projection in (self.understand.q_proj, self.understand.k_proj, self.understand.v_proj)
        ]
        for expert, rows in zip(experts, index, strict=True):
            parts = expert.queries_keys_values(x[rows])
            heads = [whole.index_copy(0, rows, part) for whole, part in zip(heads, parts, strict=True)]
        q, k, v = heads
        attended = attend(rotate(q, *rotary), rotate(k, *rotary), v).flatten(1)
        out = x
        for expert, rows in zip(experts, index, strict=True):
            out = out.index_copy(0, rows, x[rows] + expert.o_proj(attended[rows]))
        mlp = torch.zeros_like(x)
        for expert, rows in zip(experts, index, strict=True):
            mlp = mlp.index_copy(0, rows, expert.mlp(out[rows]))
        return out + mlp


def experts(kind: type[DecoderLayer]) -> Callable[[], Any]:
    """Forward and backward of one decoder layer without its attention."""
    torch.manual_seed(0)
    sizes = dict(hidden=512, intermediate=1536, num_heads=8, num_kv_heads=8, eps=1e-6)
    layer, batch = kind(**sizes), packed()
    model = UnifiedModel(CONFIG)
    plan = model.plan(batch)
    x = torch.randn(batch.num_tokens, 512, requires_grad=True)
    index: Any = plan.num_understand
    if kind is Scattered:
        index = plan.order[: plan.num_understand], plan.order[plan.num_understand :]

    def run() -> None:
        layer(x, index, plan.rotary, lambda q, k, v: v).sum().backward()

    return run


def main() -> None:
    """Measures, prints tables and writes JSON."""
    chosen = options(__doc__, "attention", 5)
    size, batch = sum(p.numel() for p in UnifiedModel(CONFIG).parameters()), packed()
    print(f"{size / 1e6:.1f} M parameters, {batch.num_tokens} tokens, {chosen.threads} threads")
    variants = {
        f"{name}, {precision}": partial(step, name, precision)
        for name in LOWERINGS
        if name != "flex"
        for precision in PRECISIONS
    }
    variants["segmented, fp32, activations computed again"] = partial(step, "segmented", "fp32", checkpointing=True)
    steps = rows("training step", variants, "dense, fp32", chosen.repeats, chosen.threads)
    show("whole training steps", steps)
    variants = {name: partial(step, name, "fp32", backward=False) for name in LOWERINGS}
    forwards = rows("forward pass", variants, "dense", chosen.repeats, chosen.threads)
    show("forward passes, fp32", forwards)
    variants = {"expert-major": partial(experts, DecoderLayer), "gather and scatter": partial(experts, Scattered)}
    orders = rows("experts", variants, "gather and scatter", 4 * chosen.repeats, chosen.threads)
    show("one decoder layer without attention, forward and backward", orders)
    write(chosen.out, {"parameters": size, "steps": steps, "forwards": forwards, "experts": orders})


def rows(
    title: str, variants: dict[str, Callable[[], Callable[[], Any]]], base: str, repeats: int, threads: int
) -> list[dict[str, Any]]:
    """Seconds, the ratio to the baseline, and memory of each variant."""
    times = alternate({name: prepare() for name, prepare in variants.items()}, repeats)
    return [
        {
            title: name,
            "seconds": seconds,
            f"{base} / this": times[base] / seconds,
            "peak MiB": peak_memory(variants[name], threads=threads),
        }
        for name, seconds in times.items()
    ]


if __name__ == "__main__":
    main()
