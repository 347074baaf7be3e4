"""The published BAGEL layout: its names for our parameters, and its configuration files read and written.

Nothing here touches a file. Our modules are grouped by expert; the published ones are grouped by layer part, the
generating expert's carrying the suffix `_moe_gen`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from brushwork.flow.autoencoder import FluxConfig
from brushwork.flow.model import ModelConfig
from brushwork.flow.vision import VisionConfig

Shapes = Mapping[str, tuple[int, ...]]

_EXPERT = re.compile(r"layers\.(\d+)\.(understand|generate)\.(\w+)\.(weight|bias)")
_VISION = re.compile(r"vision\.layers\.(\d+)\.(\w+)\.(weight|bias)")
_EXPERT_PARTS = {
    "input_norm": "input_layernorm{}",
    "post_norm": "post_attention_layernorm{}",
    **{part: f"self_attn.{part}{{}}" for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")},
    **{part: f"mlp{{}}.{part}" for part in ("gate_proj", "up_proj", "down_proj")},
}
_VISION_PARTS = {
    **{part: f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")},
    **{part: f"mlp.{part}" for part in ("fc1", "fc2")},
    **{part: part for part in ("layer_norm1", "layer_norm2")},
}
_REST = {
    "embed_tokens.weight": "language_model.model.embed_tokens.weight",
    "lm_head.weight": "language_model.lm_head.weight",
    "norm.weight": "language_model.model.norm.weight",
    "norm_generate.weight": "language_model.model.norm_moe_gen.weight",
    "latent_positions": "latent_pos_embed.pos_embed",
    "vision_positions": "vit_pos_embed.pos_embed",
    "vision.patch_embedding.weight": "vit_model.vision_model.embeddings.patch_embedding.weight",
    "vision.patch_embedding.bias": "vit_model.vision_model.embeddings.patch_embedding.bias",
    "vision.position_embedding.weight": "vit_model.vision_model.embeddings.position_embedding.weight",
    "vision.post_layernorm.weight": "vit_model.vision_model.post_layernorm.weight",
    "vision.post_layernorm.bias": "vit_model.vision_model.post_layernorm.bias",
}
PATCH_EMBEDDING = _REST["vision.patch_embedding.weight"]
"""A matrix here and in BAGEL's file, a convolution in SigLIP's own."""

BAGEL_7B = ModelConfig(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    rope_theta=1e6,
    latent_channels=16,
    latent_downsample=8,
    latent_patch_size=2,
    max_latent_size=64,
    vision=VisionConfig(hidden_size=1152, intermediate_size=4304, num_layers=26, num_heads=16),
)
"""BAGEL-7B-MoT: 14,607,260,128 numbers in its `ema.safetensors`."""


def published_name(name: str) -> str:
    """The published name of one of our parameters or tables; those that are not listed are called the same."""
    if match := _EXPERT.fullmatch(name):
        layer, expert, part, kind = match.groups()
        suffix = "_moe_gen" if expert == "generate" else ""
        return f"language_model.model.layers.{layer}.{_EXPERT_PARTS[part].format(suffix)}.{kind}"
    if match := _VISION.fullmatch(name):
        layer, part, kind = match.groups()
        return f"vit_model.vision_model.encoder.layers.{layer}.{_VISION_PARTS[part]}.{kind}"
    return _REST.get(name, name)


def model_config(
    llm: Mapping[str, Any], vit: Mapping[str, Any] | None, shapes: Shapes, autoencoder: FluxConfig
) -> ModelConfig:
    """The model behind a published folder. What its JSON files do not say is read off the shapes of its tensors.

    Args:
        llm, vit: contents of `llm_config.json` and `vit_config.json`; None without a vision encoder.
        shapes: of `ema.safetensors`, by published name.
        autoencoder: of `ae.safetensors`.

    Raises:
        ValueError: a tensor that tells a size is missing, or the autoencoder is another model's.
    """
    for name in ("vae2llm.weight", "latent_pos_embed.pos_embed", *(("vit_pos_embed.pos_embed",) if vit else ())):
        if name not in shapes:
            raise ValueError(f"the weights hold no {name}, from which a size is read; is this BAGEL's ema.safetensors?")
    patch_dim = shapes["vae2llm.weight"][1]
    patch = math.isqrt(patch_dim // autoencoder.channels)
    if patch**2 * autoencoder.channels != patch_dim:
        raise ValueError(
            f"the autoencoder has {autoencoder.channels} latent channels, but the model reads patches of {patch_dim} "
            "numbers, which is no square multiple; ae.safetensors belongs to another model"
        )
    return ModelConfig(
        vocab_size=llm["vocab_size"],
        hidden_size=llm["hidden_size"],
        intermediate_size=llm["intermediate_size"],
        num_layers=llm["num_hidden_layers"],
        num_heads=llm["num_attention_heads"],
        num_kv_heads=llm["num_key_value_heads"],
        rope_theta=llm.get("rope_theta", 10000.0),  # the default of Qwen2's configuration class
        rms_norm_eps=llm.get("rms_norm_eps", 1e-6),
        latent_channels=autoencoder.channels,
        latent_downsample=2 ** (len(autoencoder.multipliers) - 1),
        latent_patch_size=patch,
        max_latent_size=math.isqrt(shapes["latent_pos_embed.pos_embed"][0]),
        vision=vision_config(vit) if vit else None,
    )


def vision_config(vit: Mapping[str, Any]) -> VisionConfig:
    """The vision encoder behind a `vit_config.json`, which names one layer more than BAGEL builds."""
    return VisionConfig(
        hidden_size=vit["hidden_size"],
        intermediate_size=vit["intermediate_size"],
        num_layers=vit["num_hidden_layers"] - 1,
        num_heads=vit["num_attention_heads"],
        patch_size=vit["patch_size"],
        image_size=vit["image_size"],
        layer_norm_eps=vit.get("layer_norm_eps", 1e-6),
    )


def flux_config(shapes: Shapes) -> FluxConfig:
    """The autoencoder behind an `ae.safetensors`, read off the shapes of its tensors.

    Scale and shift stand in no file; they are FLUX's.

    Raises:
        ValueError: these are no tensors of a FLUX autoencoder.
    """
    try:
        width = shapes["encoder.conv_in.weight"][0]
        levels = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.down."))
        blocks = {name.split(".")[4] for name in shapes if name.startswith("encoder.down.0.block.")}
        outputs = [shapes[f"encoder.down.{level}.block.0.conv2.weight"][0] for level in range(levels)]
        channels = shapes["encoder.conv_out.weight"][0] // 2
    except (KeyError, ValueError) as error:
        raise ValueError(f"the tensors are not a FLUX autoencoder's ({error}); expected ae.safetensors") from error
    multipliers = tuple(output // width for output in outputs)
    return FluxConfig(width=width, multipliers=multipliers, num_blocks=len(blocks), channels=channels)


def llm_json(config: ModelConfig) -> dict[str, Any]:
    """`llm_config.json` for a model."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": False,
        "qk_norm": True,
        "layer_module": "Qwen2MoTDecoderLayer",
    }


def vit_json(config: VisionConfig) -> dict[str, Any]:
    """`vit_config.json` for a vision encoder."""
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers + 1,
        "num_attention_heads": config.num_heads,
        "num_channels": 3,
        "patch_size": config.patch_size,
        "image_size": config.image_size,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": config.layer_norm_eps,
    }
