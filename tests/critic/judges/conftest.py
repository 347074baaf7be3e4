"""Tiny random models of the published kinds, saved as they would come from the hub."""

import string
from pathlib import Path

import pytest
import torch

SMALL = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)


@pytest.fixture(scope="session")
def letters():
    """CLIP's tokenizer that knows letters alone: a token each, and one at either end; OWL takes token 0 for padding."""
    from transformers import CLIPTokenizer

    pieces = ["!", "<|startoftext|>", "<|endoftext|>", *string.ascii_lowercase]
    pieces += [f"{letter}</w>" for letter in string.ascii_lowercase]
    return CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory, letters) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    return saved(
        tmp_path_factory.mktemp("models") / "tiny-clip",
        CLIPModel, CLIPConfig(**sizes(letters, image_size=16), projection_dim=8),
        CLIPProcessor(CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16), letters),
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_owl(tmp_path_factory, letters) -> Path:
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil, Owlv2Processor

    return saved(
        tmp_path_factory.mktemp("models") / "tiny-owl",
        Owlv2ForObjectDetection, Owlv2Config(**sizes(letters, image_size=32), projection_dim=16),
        Owlv2Processor(Owlv2ImageProcessorPil(size={"height": 32, "width": 32}), letters),
    )  # fmt: skip


def sizes(tokenizer, image_size: int) -> dict:
    words = dict(vocab_size=len(tokenizer), max_position_embeddings=20, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    return dict(text_config=SMALL | words, vision_config=SMALL | dict(image_size=image_size, patch_size=8))


def saved(folder: Path, model_class, config, processor) -> Path:
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
