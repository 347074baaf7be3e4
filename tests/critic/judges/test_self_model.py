"""The model as a judge: a stand-in that says what it is told to, and a tiny real model in a folder."""

import pickle
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest

from brushwork.critic.judges.self_model import PictureInspector, SelfJudge, at_once
from brushwork.critic.verdict import Judge, JudgeFailure, Verdict
from brushwork.tokens.trajectory import Inspection, Plan
from brushwork.tokens.vocabulary import WordVocabulary

WORDS = WordVocabulary("a red blue circle make it the is".split())
NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
REFUSED = Inspection(draft_check="the circle is blue", refine="make it red")


@dataclass
class StandIn:
    """Says the same of every picture, and remembers what it was asked."""

    said: tuple[Inspection, float] = (REFUSED, 0.25)
    asked: list[Any] = field(default_factory=list)
    vocabulary: WordVocabulary = WORDS

    def __call__(self, prompts, plans, images):
        self.asked.append((prompts, plans, images))
        return [self.said] * len(prompts)


def judge(inspector: StandIn | None = None, **settings) -> SelfJudge:
    inspector = inspector or StandIn()
    return SelfJudge(**{"model": "outputs/fit/model", "load": lambda folder: inspector, **settings})


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ((REFUSED, 0.25), (False, 0.25, "the circle is blue: make it red")),
        ((Inspection(draft_check="it is red"), 0.75), (True, 0.75, "it is red")),
        ((Inspection(), 0.4), (True, 0.4, "")),
        ((Inspection(plan_check="the plan fits", draft_check="red"), 1.0), (True, 1.0, "the plan fits: red")),
    ],
)
def test_the_verdict_is_the_inspection(said, verdict):
    passed, score, reason = verdict
    expected = Verdict(passed=passed, score=score, reason=reason, judge="self/1:fit/model")
    assert judge(StandIn(said))("a red circle", NOISE) == expected


def test_the_prompt_is_the_plan_unless_another_is_given():
    inspector = StandIn()
    assert isinstance(inspector, PictureInspector) and isinstance(judge(), Judge)
    judge(inspector)("a red circle", NOISE)
    by_words = tuple(Plan(instruction=word, description="a circle") for word in ("red", "circle"))
    judge(inspector, plan=lambda prompt: by_words)("a red circle", NOISE)
    assert [plans for _, plans, _ in inspector.asked] == [[at_once("a red circle")], [by_words]]
    assert at_once("a red circle") == (Plan(instruction="a red circle", description="a red circle"),)
    (prompts, _, (image,)), _ = inspector.asked
    assert prompts == ["a red circle"] and image is NOISE


def refuse(prompt: str) -> tuple[Plan, ...]:
    raise ValueError(f"no plan for {prompt!r}")


@pytest.mark.parametrize(
    ("prompt", "plan", "reason"),
    [
        (" ", at_once, "is empty"),
        ("a banana", at_once, "'banana'"),
        ("a <refine> circle", at_once, "control token"),
        ("a banana", lambda prompt: at_once("a circle"), "'banana'"),
        ("a circle", lambda prompt: at_once("a triangle"), "'triangle'"),
        ("a circle", refuse, "no plan for 'a circle'"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_a_failure(prompt, plan, reason):
    answer = judge(plan=plan)(prompt, NOISE)
    assert isinstance(answer, JudgeFailure) and answer.judge == "self/1:fit/model"
    assert reason in answer.reason


@pytest.mark.parametrize(
    ("model", "name"),
    [("outputs/a/model", "self/1:a/model"), ("model", "self/1:model"), ("owner/name", "self/1:owner/name")],
)
def test_models_can_be_told_apart_by_name(model, name):
    assert judge(model=model).name == name


# -- a real model -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> SelfJudge:
    import torch

    from brushwork.flow.autoencoder import PixelAutoencoder
    from brushwork.flow.checkpoint import Bundle, save_pretrained
    from brushwork.flow.model import ModelConfig, UnifiedModel
    from brushwork.flow.self_inspection import load_inspector

    torch.manual_seed(0)
    model = UnifiedModel(ModelConfig(vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_layers=2))
    bundle = Bundle(model=model, vocabulary=WORDS, autoencoder=PixelAutoencoder())
    folder = save_pretrained(bundle, tmp_path_factory.mktemp("run") / "model")
    return SelfJudge(model=str(folder), load=partial(load_inspector, max_text=4))


def test_a_real_pass(real):
    answer = real("a red circle", NOISE)
    assert isinstance(answer, Verdict) and 0 < answer.score < 1
    assert real("a red circle", NOISE) == answer, "no chance is in it"
    ((said, acceptance),) = real.load(real.model)(["a red circle"], [at_once("a red circle")], [NOISE])
    assert (said.accepts, acceptance) == (answer.passed, answer.score)


def test_a_size_that_the_model_does_not_take_is_the_callers_error(real):
    with pytest.raises(ValueError, match="tokens of 8 pixels"):
        real("a red circle", NOISE[:12])


def test_a_folder_without_a_model_is_named(real):
    with pytest.raises(FileNotFoundError, match="absent"):
        SelfJudge(model="absent", load=real.load)("a red circle", NOISE)


def test_it_travels_without_its_model(real):
    answer = real("a circle", NOISE)
    travelled = pickle.loads(pickle.dumps(real))  # noqa: S301 our own bytes
    assert len(pickle.dumps(real)) < 1000 and travelled("a circle", NOISE) == answer
    assert travelled.load(real.model) is real.load(real.model), "read once a process"
