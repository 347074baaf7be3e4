"""Tiny random pipelines that edit pictures."""

import string
from pathlib import Path

import pytest
import torch

WORDS = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)


def letters():
    from transformers import CLIPTokenizer

    pieces = ["!", "<|startoftext|>", "<|endoftext|>", *string.ascii_lowercase]
    pieces += [f"{letter}</w>" for letter in string.ascii_lowercase]
    return CLIPTokenizer(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[], model_max_length=77)


def clip_text():
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(vocab_size=55, bos_token_id=1, eos_token_id=2, pad_token_id=2, **WORDS))


def autoencoder(**options):
    from diffusers import AutoencoderKL

    blocks = dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
    return AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, **blocks, **options)


@pytest.fixture(scope="session")
def kontext(tmp_path_factory) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    torch.manual_seed(0)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((one, -1.0) for one in "▁" + string.ascii_lowercase)]
    t5 = T5Config(vocab_size=len(pieces), d_model=16, d_ff=24, d_kv=8, num_layers=1, num_heads=2)
    transformer = FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    pipeline = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(latent_channels=1, scaling_factor=0.36, shift_factor=0.12),
        text_encoder=clip_text(),
        tokenizer=letters(),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=T5Tokenizer(vocab=pieces, extra_ids=0),
        transformer=transformer,
    )
    folder = tmp_path_factory.mktemp("kontext")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def instruct(tmp_path_factory) -> Path:
    """InstructPix2Pix takes no height and width: it draws in the size of the picture."""
    from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=8, out_channels=4, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=2,
    )  # fmt: skip
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=autoencoder(latent_channels=4), text_encoder=clip_text(), tokenizer=letters(), unet=unet,
        scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("instruct")
    pipeline.save_pretrained(folder)
    return folder
