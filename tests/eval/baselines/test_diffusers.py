"""Real pipelines, tiny and random: each kind is drawn and judged, seeds hold in any batch, calls are counted."""

import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from brushwork.eval.baselines.diffusers import DiffusersSampler
from brushwork.eval.sampler import Sampler, predict

CONFIGS = Path(__file__).parents[3] / "configs" / "sampler"
BRANCHES = {"flux_1_dev": 1, "sdxl": 2, "sd3_medium": 2, "sd_2_1": 2, "pixart_alpha": 2}
"""Forwards a step: FLUX.1 [dev] has learnt guidance, the others compute a second branch."""


@pytest.fixture
def sampler_of(pipeline_of) -> Callable[..., DiffusersSampler]:
    """A config's sampler with a tiny pipeline of its kind, two steps and small pictures."""

    def make(name: str, **changed) -> DiffusersSampler:
        settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        assert settings.pop("_target_") == "brushwork.eval.baselines.diffusers.DiffusersSampler"
        tiny = dict(
            model=str(pipeline_of(name)), num_steps=2, size=[32, 48], device="cpu", dtype="float32", variant=None
        )
        if name == "pixart_alpha":
            tiny["options"] = {**settings["options"], "use_resolution_binning": False}  # bins are of a megapixel
        return DiffusersSampler(**{**settings, **tiny, **changed})

    return make


@pytest.mark.parametrize("name", BRANCHES)
def test_each_kind_is_drawn_and_judged(sampler_of, predict_and_score, name):
    sampler = sampler_of(name, max_batch=2)
    assert isinstance(sampler, Sampler)
    rows = predict_and_score(sampler)
    assert [row.passed for row in rows] == [True] * 3
    assert len({row.score for row in rows}) == 3, "three pictures"
    for row in rows:
        cost = dict(row.cost)
        assert cost.pop("seconds") > 0
        cost.pop("peak_memory_mib", None)
        forwards = BRANCHES[name] * 2
        assert cost == dict(denoise_steps=2, model_forwards=forwards, text_tokens=0, images=1, external_calls=0)


@pytest.mark.parametrize("name", BRANCHES)
def test_a_seed_gives_its_picture_in_any_batch(sampler_of, name):
    prompts, seeds = ["a red circle", "a cat on a mat", "a cat"], [3, 4, 3]
    together = sampler_of(name, max_batch=3)(prompts, seeds)
    torch.manual_seed(5)  # the seeds are the only randomness
    alone = [sampler_of(name, max_batch=1)([prompt], [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert one.final_image.shape == (32, 48, 3) and one.final_image.dtype == np.uint8
        assert np.abs(one.final_image.astype(int) - other.final_image).max() <= 2, "other products, other rounding"
    pictures = {one.final_image.tobytes() for one in alone}
    assert len(pictures) == 3, "seed and words decide"


def test_guidance_is_counted_where_it_is_computed(sampler_of):
    (without,) = sampler_of("sd_2_1", guidance_scale=1.0)(["a cat"], [0])
    (guided,) = sampler_of("sd_2_1", guidance_scale=5.0)(["a cat"], [0])
    assert [one.meta["cost"]["model_forwards"] for one in (without, guided)] == [2, 4]


def test_a_scheduler_may_be_named(sampler_of):
    own, named = sampler_of("sd_2_1", scheduler=None), sampler_of("sd_2_1", scheduler="HeunDiscreteScheduler")
    assert own.fingerprint != named.fingerprint
    (first,), (second,) = own(["a cat"], [0]), named(["a cat"], [0])
    assert first.meta["cost"]["denoise_steps"] == 2 and second.meta["cost"]["denoise_steps"] == 3, "2 x 2 - 1"
    assert (first.final_image != second.final_image).any()
    with pytest.raises(ImportError, match="no scheduler 'Magic'"):
        sampler_of("sd_2_1", scheduler="Magic")(["a cat"], [0])


def test_a_blanked_picture_is_no_answer(sampler_of, blank_checker):
    sampler = sampler_of("sd_2_1", model=str(blank_checker))
    with pytest.raises(ValueError, match=r"safety checker .* blanked the picture of 'a cat'"):
        sampler(["a cat"], [0])


@pytest.fixture
def blank_checker(tmp_path, pipeline_of) -> Path:
    """A pipeline whose safety checker finds everything unsafe."""
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessorPil

    vision = dict(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
    checker.concept_embeds_weights.data.fill_(-2.0)  # a similarity is above -1: every concept is found
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_of("sd_2_1"))
    pipeline.register_modules(
        safety_checker=checker,
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    )
    pipeline.save_pretrained(tmp_path / "checked")
    return tmp_path / "checked"


def test_sdxl_is_not_watermarked(sampler_of):
    from brushwork.eval.baselines import diffusers

    sampler = sampler_of("sdxl")
    sampler(["a cat"], [0])
    loaded = diffusers._load(sampler.model, sampler.scheduler, sampler.variant, sampler.device, sampler.dtype)
    assert loaded.watermark is None


def test_settings_are_told_and_travel(sampler_of):
    sampler = sampler_of("sd_2_1")
    sampler(["a cat"], [0])
    told = json.loads(json.dumps(sampler.describe()))
    assert told["model"] == sampler.model and told["steps"] == 2 and told["size"] == [32, 48]
    assert len(data := pickle.dumps(sampler)) < 2000 and pickle.loads(data) == sampler  # noqa: S301 our own bytes
    assert replace(sampler, device="cuda", max_batch=9).fingerprint == sampler.fingerprint
    assert replace(sampler, guidance_scale=1.5).fingerprint != sampler.fingerprint


@pytest.mark.parametrize("changed", [{"dtype": "half-ish"}, {"size": [32]}, {"num_steps": 0}, {"max_batch": 0}])
def test_settings_are_checked(sampler_of, changed):
    with pytest.raises(ValueError, match=f"{next(iter(changed))}.*expected"):
        sampler_of("sd_2_1", **changed)


def test_a_variant_is_read_where_it_is_named(tmp_path, sampler_of, pipeline_of):
    from diffusers import StableDiffusionPipeline

    StableDiffusionPipeline.from_pretrained(pipeline_of("sd_2_1")).save_pretrained(tmp_path / "other", variant="fp16")
    other = sampler_of("sd_2_1", model=str(tmp_path / "other"), variant="fp16", dtype="bfloat16")
    (drawn,) = other(["a cat"], [0])
    assert drawn.final_image.shape == (32, 48, 3) and drawn.final_image.std() > 0
    with pytest.raises(FileNotFoundError, match="other"):
        replace(other, variant=None)(["a cat"], [0])


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_missing_model_ends_the_run(tmp_path, sampler_of, name, benchmark):
    (tmp_path / "empty").mkdir()
    sampler = sampler_of("sd_2_1", model=str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match=rf"{name}.*expected a folder that holds model_index.json"):
        predict(sampler, tmp_path / "run", benchmark=benchmark())


def test_weights_are_safetensors_alone(tmp_path, sampler_of, pipeline_of):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_of("sd_2_1"))
    pipeline.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(FileNotFoundError, match="safetensors"):
        sampler_of("sd_2_1", model=str(tmp_path / "pickled"))(["a cat"], [0])


def test_a_pipeline_without_words_is_refused(tmp_path, sampler_of):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="DDPMPipeline, which takes no prompt="):
        sampler_of("sd_2_1", model=str(tmp_path))(["a cat"], [0])


def test_without_diffusers_the_extra_is_named(monkeypatch):
    sampler = DiffusersSampler(model="not loaded before", size=[32, 48], num_steps=1, guidance_scale=1.0)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"brushwork-eval\[diffusers\]"):
        sampler(["a cat"], [0])
