"""Tiny random models of every kind that the configs name, saved as their libraries save them."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import string
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from brushwork.critic.verdict import Verdict
from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.eval.sampler import predict
from brushwork.eval.score import score
from brushwork.eval.verdicts import ScoredTrajectory, read_verdicts

PROMPTS = ("a red circle", "two blue squares left of it", "a cat")


class Fixed:
    """A benchmark of three prompts."""

    def __init__(self, files: Sequence[str] = ("", "", "")):
        self.files = files

    def prompts(self) -> list[BenchmarkPrompt]:
        return [
            BenchmarkPrompt(key=f"p{number}", prompt=prompt, kind="any", seed=10 + number, file=file)
            for number, (prompt, file) in enumerate(zip(PROMPTS, self.files, strict=True))
        ]


def bright(prompt: str, image) -> Verdict:
    """A judge that looks at the pixels."""
    return Verdict(passed=bool(image.mean() > 0), score=float(image.mean() / 255), reason="", judge="bright")


@pytest.fixture
def benchmark() -> type[Fixed]:
    return Fixed


@pytest.fixture
def predict_and_score(tmp_path) -> Callable[..., list[ScoredTrajectory]]:
    """Three prompts through a sampler and a judge, by way of the disk."""

    def run(sampler, benchmark=None, out: Path = tmp_path / "run") -> list[ScoredTrajectory]:
        folder = predict(sampler, out, benchmark=benchmark or Fixed(), batch_size=2)
        return read_verdicts(score(folder, judge=bright, out=out))

    return run


# The parts of pipelines


def letters(size: int = 77):
    from transformers import CLIPTokenizer

    pieces = ["!", "<|startoftext|>", "<|endoftext|>", *string.ascii_lowercase]
    pieces += [f"{letter}</w>" for letter in string.ascii_lowercase]
    return CLIPTokenizer(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[], model_max_length=size)


def clip_text(projected: bool = False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=55, bos_token_id=1, eos_token_id=2, pad_token_id=2, hidden_size=16, intermediate_size=24,
        num_hidden_layers=1, num_attention_heads=2, projection_dim=16,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(width: int = 16):
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((one, -1.0) for one in "▁" + string.ascii_lowercase)]
    config = T5Config(vocab_size=len(pieces), d_model=width, d_ff=24, d_kv=8, num_layers=1, num_heads=2)
    return T5EncoderModel(config), T5Tokenizer(vocab=pieces, extra_ids=0)


def autoencoder(**options):
    from diffusers import AutoencoderKL

    blocks = dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
    return AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, **blocks, **options)


def unet(**options):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2, sample_size=8, **options,
    )  # fmt: skip


# The pipelines, by the names of the configs


def flux():
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    encoder, tokenizer = t5()
    transformer = FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), transformer=transformer, text_encoder=clip_text(),
        vae=autoencoder(latent_channels=1, scaling_factor=0.36, shift_factor=0.12), tokenizer=letters(),
        text_encoder_2=encoder, tokenizer_2=tokenizer,
    )  # fmt: skip


def sdxl():
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    size = dict(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=64)
    return StableDiffusionXLPipeline(
        vae=autoencoder(latent_channels=4), unet=unet(cross_attention_dim=32, **size), tokenizer=letters(),
        text_encoder=clip_text(), text_encoder_2=clip_text(projected=True), tokenizer_2=letters(),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1),
    )  # fmt: skip


def sd3():
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    encoder, tokenizer = t5(width=32)
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=32, pooled_projection_dim=32,
        pos_embed_max_size=64,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), tokenizer=letters(),
        vae=autoencoder(latent_channels=4, scaling_factor=1.53, shift_factor=0.06), tokenizer_2=letters(),
        text_encoder=clip_text(projected=True), text_encoder_2=clip_text(projected=True), text_encoder_3=encoder,
        tokenizer_3=tokenizer,
    )  # fmt: skip


def sd2():
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder(latent_channels=4), text_encoder=clip_text(), tokenizer=letters(),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        unet=unet(cross_attention_dim=16), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def pixart():
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    encoder, tokenizer = t5()
    transformer = PixArtTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=1, num_attention_heads=2,
        attention_head_dim=8, cross_attention_dim=16, caption_channels=16, use_additional_conditions=False,
    )  # fmt: skip
    return PixArtAlphaPipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=autoencoder(latent_channels=4), transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip


PIPELINES = {"flux_1_dev": flux, "sdxl": sdxl, "sd3_medium": sd3, "sd_2_1": sd2, "pixart_alpha": pixart}


@pytest.fixture(scope="session")
def pipeline_of(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a tiny pipeline of the kind that a config names."""
    import diffusers

    for kind in ("Flux", "PixArtAlpha", "StableDiffusion", "StableDiffusion3", "StableDiffusionXL"):
        getattr(diffusers, f"{kind}Pipeline")  # imports what it is made of, which takes seconds, once
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            torch.manual_seed(0)
            made[name] = tmp_path_factory.mktemp(name)
            PIPELINES[name]().save_pretrained(made[name])
        return made[name]

    return make
