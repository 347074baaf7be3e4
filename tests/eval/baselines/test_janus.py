"""A tiny random Janus, written and read by transformers: pictures, seeds, counts, and that its tokens are samples."""

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from brushwork.eval.baselines.janus import JanusSampler, SeededTokens
from brushwork.eval.sampler import Sampler

CONFIG = Path(__file__).parents[3] / "configs" / "sampler" / "janus_pro_7b.yaml"
TOKENS = 16  # of a picture
TALK = (
    "{% for message in messages %}<|User|>: {% for part in message['content'] %}{{ part['text'] }}{% endfor %}\n\n"
    "{% endfor %}{% if add_generation_prompt %}<|Assistant|>:{% endif %}"
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        GenerationConfig,
        JanusConfig,
        JanusForConditionalGeneration,
        JanusImageProcessorPil,
        JanusProcessor,
        Qwen2Tokenizer,
    )

    torch.manual_seed(0)
    names = dict(image_token="<image>", boi_token="<begin>", eoi_token="<finish>")
    tokenizer = Qwen2Tokenizer(
        vocab={letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))},
        merges=[], bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", extra_special_tokens=names,
    )  # fmt: skip
    numbers = {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    words = dict(
        model_type="llama", vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    eyes = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=2, projection_dim=16,
        num_image_tokens=TOKENS,
    )  # fmt: skip
    tokens = dict(
        embed_dim=8, num_embeddings=32, latent_channels=32, base_channels=32, channel_multiplier=[1, 1],
        num_res_blocks=1, projection_dim=16, image_token_embed_dim=16,
    )  # fmt: skip
    config = JanusConfig(text_config=words, vision_config=eyes, vq_config=tokens, image_token_id=numbers["image_token"])
    model = JanusForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        generation_kwargs={"boi_token_id": numbers["boi_token"]},
    )  # fmt: skip
    made = tmp_path_factory.mktemp("janus")
    model.save_pretrained(made)
    pictures = JanusImageProcessorPil(size={"height": 8, "width": 8})
    JanusProcessor(pictures, tokenizer, chat_template=TALK, num_image_tokens=TOKENS).save_pretrained(made)
    return made


@pytest.fixture
def sampler(folder) -> JanusSampler:
    """The config's, with the tiny model."""
    settings = yaml.safe_load(CONFIG.read_text())
    assert settings.pop("_target_") == "brushwork.eval.baselines.janus.JanusSampler"
    return JanusSampler(**{**settings, "model": str(folder), "device": "cpu", "dtype": "float32", "max_batch": 2})


def test_it_is_drawn_and_judged(sampler, predict_and_score):
    assert isinstance(sampler, Sampler) and (sampler.guidance_scale, sampler.temperature) == (5.0, 1.0)
    rows = predict_and_score(sampler)
    assert [row.passed for row in rows] == [True] * 3 and len({row.score for row in rows}) == 3
    for row in rows:
        cost = dict(row.cost)
        assert cost.pop("seconds") > 0
        cost.pop("peak_memory_mib", None)
        assert cost == dict(denoise_steps=0, model_forwards=2 * TOKENS, text_tokens=0, images=1, external_calls=0)


def test_a_seed_gives_its_picture_in_any_batch(sampler):
    prompts, seeds = ["a cat", "two blue squares on a long table", "a dog", "a cat"], [1, 2, 1, 3]
    together = replace(sampler, max_batch=4)(prompts, seeds)
    torch.manual_seed(5)  # the seeds are the only randomness
    alone = [sampler([prompt], [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert one.final_image.shape == (8, 8, 3) and one.final_image.dtype == np.uint8
        assert np.abs(one.final_image.astype(int) - other.final_image).max() <= 1
    assert len({one.final_image.tobytes() for one in alone}) == 4, "seed and words decide"


def test_tokens_are_samples_of_the_guided_distribution():
    """The first draws of four thousand seeds against the softmax of the logits that classifier-free guidance gives."""
    conditional, unconditional = torch.tensor([0.0, 1.0, -1.0, 0.5]), torch.tensor([0.3, 0.1, -0.2, 0.5])
    seeds = range(4000)
    scores = torch.cat([conditional.expand(len(seeds), -1), unconditional.expand(len(seeds), -1)])
    noisy = SeededTokens(seeds, guidance_scale=3.0, temperature=2.0)(
        torch.zeros(len(seeds), 1, dtype=torch.long), scores
    )
    expected = ((unconditional + 3.0 * (conditional - unconditional)) / 2.0).softmax(-1)
    seen = noisy.argmax(-1).bincount(minlength=4) / len(seeds)
    assert (seen - expected).abs().max() < 0.03, "four standard errors"


def test_without_guidance_the_empty_prompt_does_not_count():
    draws = [SeededTokens([7], guidance_scale=1.0, temperature=1.0) for _ in range(2)]
    conditional = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(1, 1, dtype=torch.long)
    one, other = (
        draw(ids, torch.cat([conditional, rest]))
        for draw, rest in zip(draws, (torch.zeros(1, 8), -conditional), strict=True)
    )
    assert torch.allclose(one, other)


def test_settings_are_told_and_travel(sampler):
    sampler(["a cat"], [0])
    told = json.loads(json.dumps(sampler.describe()))
    assert told == dict(model=sampler.model, guidance_scale=5.0, temperature=1.0, dtype="float32")
    assert pickle.loads(pickle.dumps(sampler)) == sampler  # noqa: S301 our own bytes
    assert replace(sampler, device="cuda", max_batch=9).fingerprint == sampler.fingerprint
    assert replace(sampler, temperature=0.5).fingerprint != sampler.fingerprint


@pytest.mark.parametrize("changed", [{"dtype": "half-ish"}, {"temperature": 0.0}, {"max_batch": 0}])
def test_settings_are_checked(sampler, changed):
    with pytest.raises(ValueError, match=f"{next(iter(changed))}.*expected"):
        replace(sampler, **changed)


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_missing_model_is_named(tmp_path, sampler, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"{name}.*expected a folder with config.json"):
        replace(sampler, model=str(tmp_path / name))(["a cat"], [0])


def test_without_transformers_the_extra_is_named(monkeypatch, sampler):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"brushwork-eval\[janus\]"):
        replace(sampler, model="not loaded before")(["a cat"], [0])
