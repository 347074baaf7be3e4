"""CLIP as a judge, by a tiny random model: scores, thresholds, and prompts that it cannot read."""

import pickle
import sys

import numpy as np
import pytest
import torch

from brushwork.critic.judges.clip import ClipJudge
from brushwork.critic.verdict import JudgeFailure, Verdict

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
WORDS = ("dog", "cat", "red ring", "blue square")


@pytest.fixture
def judge(tiny_clip) -> ClipJudge:
    return ClipJudge(model=str(tiny_clip), threshold=0.0)


def cosine(folder, prompt: str, image) -> float:
    """By the two towers apart, unpadded."""
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    with torch.inference_mode():
        text = model.get_text_features(**processor.tokenizer(prompt, return_tensors="pt")).pooler_output
        pixels = processor.image_processor(image, return_tensors="pt")
        return float(torch.cosine_similarity(text, model.get_image_features(**pixels).pooler_output))


def test_the_score_is_the_cosine_or_zero(judge, tiny_clip):
    exact = {word: cosine(tiny_clip, word, NOISE) for word in WORDS}
    scores = {word: judge(word, NOISE).score for word in WORDS}
    assert scores == {word: pytest.approx(max(value, 0), abs=1e-5) for word, value in exact.items()}
    assert min(exact.values()) < 0 < max(exact.values()), "both cases are tested"
    assert len(set(exact.values())) == len(WORDS), "the prompt matters"
    assert judge(WORDS[0], 255 - NOISE).reason != judge(WORDS[0], NOISE).reason, "the picture matters"


def test_passed_from_the_threshold_on(judge, tiny_clip):
    best = max(WORDS, key=lambda word: judge(word, NOISE).score)
    score = judge(best, NOISE).score
    assert judge(best, NOISE) == Verdict(
        passed=True, score=score, judge="clip/1:tiny-clip",
        reason=f"prompt and picture have cosine {score:.3f}, 0 or more is asked",
    )  # fmt: skip
    assert ClipJudge(model=str(tiny_clip), threshold=score)(best, NOISE).passed
    assert not ClipJudge(model=str(tiny_clip), threshold=score + 1e-6)(best, NOISE).passed


@pytest.mark.parametrize(
    ("prompt", "reason"), [(" ", "is empty"), ("ring " * 5, "has 22 tokens, of which the model reads 20")]
)
def test_a_prompt_that_cannot_be_read_is_a_failure(judge, prompt, reason):
    answer = judge(prompt, NOISE)
    assert isinstance(answer, JudgeFailure) and answer.judge == "clip/1:tiny-clip"
    assert reason in answer.reason


def test_a_judge_travels_without_its_model(judge):
    judge("dog", NOISE)
    assert len(pickle.dumps(judge)) < 1000 and pickle.loads(pickle.dumps(judge)) == judge  # noqa: S301 our own bytes


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_folder_without_a_model_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"{name}.*expected a folder that holds config.json"):
        ClipJudge(model=str(tmp_path / name), threshold=0.2)("dog", NOISE)


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"brushwork-critic\[clip\]"):
        ClipJudge(model="not loaded before", threshold=0.2)("dog", NOISE)
