"""A thought between prompt and image: written in plain words, and hidden from what guidance compares with (BAGEL)."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from brushwork.flow.checkpoint import from_pretrained
from brushwork.flow.engine import Engine
from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.flow.guidance import Guidance
from brushwork.flow.path import timestep_grid

SYSTEM, PROMPT = "Think first, between <think> and </think>.", "a red circle"
BOTH = Guidance(text_scale=4.0, image_scale=2.0, interval=(0.4, 1.0))
SETTINGS = dict(image_size=(32, 32), num_steps=3, timestep_shift=3.0, max_text=12, single_pass=True)


@pytest.fixture
def bundle(tiny_bagel):
    return from_pretrained(tiny_bagel)


def think(bundle, guidance=BOTH, temperature=1.0, prompts=(PROMPT,), seeds=(0,), **changes):
    sampling = Sampling(guidance=guidance, temperature=temperature, **{**SETTINGS, "think": SYSTEM, **changes})
    generator = TrajectoryGenerator(bundle.model, bundle.vocabulary, sampling, autoencoder=bundle.autoencoder)
    return generator(prompts, seeds)


def text(vocabulary, ids):
    return [vocabulary.control.bos, *ids, vocabulary.control.eos]


def reading(bundle, *texts):
    """An engine that has read some texts, and nothing else."""
    sizes = dict(rows=1, capacity=200, text_capacity=0, patches=64)
    engine = Engine(bundle.model, bundle.autoencoder, bundle.vocabulary.control, Guidance(), **sizes)
    for ids in texts:
        engine.read_text([text(bundle.vocabulary, ids)])
    return engine


def test_the_contexts_of_an_image_behind_a_thought(bundle):
    """Greedy: what is written, and what is drawn from, is what engines give that read the parts of it alone."""
    words, control = bundle.vocabulary.encode, bundle.vocabulary.control
    engine = reading(bundle, words(SYSTEM), words(PROMPT))
    plain = [token for token in range(len(bundle.vocabulary)) if token not in bundle.vocabulary.reserved]
    thought, token = [], control.bos
    while token != control.eos and len(thought) <= SETTINGS["max_text"]:
        thought.append(token)
        logits = engine.read_text([[token]])[0]
        token = max([*plain, control.eos], key=lambda token: float(logits[token]))
    thought = thought[1:]

    (trajectory,) = think(bundle, temperature=0.0)
    assert trajectory.meta["thought"] == bundle.vocabulary.decode(thought)
    cost = trajectory.meta["cost"]
    assert cost["text_tokens"] == len(thought) + 2
    assert cost["prefilled_tokens"] == len(words(SYSTEM)) + len(words(PROMPT)) + len(thought) + 6

    main = reading(bundle, words(SYSTEM), words(PROMPT), thought)
    without_text, without_thought = reading(bundle, words(SYSTEM)), reading(bundle, words(SYSTEM), words(PROMPT))
    grid = bundle.model.config.grid(32, 32)
    velocities = [one.velocity(one.views([0]), grid) for one in (main, without_text, without_thought)]
    shape = (grid[0] * grid[1], bundle.model.config.patch_dim)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))[None]
    for now, then in pairwise(timestep_grid(3, shift=3.0).tolist()):
        parts = [velocity(x, now) for velocity in velocities]
        x = x - (BOTH(*parts) if BOTH.active(now) else parts[0]) * (now - then)
    with torch.no_grad():
        (image,) = main.pictures(x, grid)
    assert np.abs(trajectory.final_image.astype(int) - image).max() <= 1
    assert [step.plan for step in trajectory.steps] == [None] and trajectory.meta["stopped"] == "end"


def test_thoughts_end_at_their_limit_and_do_not_meet(bundle):
    prompts, seeds = [PROMPT, "a", "two blue squares"], [0, 1, 2]
    together = think(bundle, temperature=20.0, prompts=prompts, seeds=seeds)
    thoughts = [trajectory.meta["thought"] for trajectory in together]
    assert len(set(thoughts)) == 3
    for number, trajectory in enumerate(together):
        assert 0 < trajectory.meta["cost"]["text_tokens"] <= SETTINGS["max_text"] + 2
        (alone,) = think(bundle, temperature=20.0, prompts=prompts[number:][:1], seeds=seeds[number:][:1])
        assert alone.meta["thought"] == thoughts[number]
        assert np.abs(alone.final_image.astype(int) - trajectory.final_image).max() <= 1
        assert alone.meta["cost"]["model_forwards"] == trajectory.meta["cost"]["model_forwards"]


def test_without_a_system_text_nothing_is_thought(bundle):
    (trajectory,) = think(bundle, think=None)
    assert "thought" not in trajectory.meta and trajectory.meta["cost"]["text_tokens"] == 0


def test_where_nobody_may_think(bundle, model, vocabulary):
    with pytest.raises(ValueError, match="single_pass=true"):
        Sampling(think=SYSTEM)
    sampling = Sampling(image_size=(16, 16), single_pass=True, think="a circle")
    with pytest.raises(ValueError, match="planner=null"):
        TrajectoryGenerator(model, vocabulary, sampling, planner=lambda prompt, steps: None)
    with pytest.raises(ValueError, match="'think'"):
        TrajectoryGenerator(model, vocabulary, Sampling(image_size=(16, 16), single_pass=True, think="think"))
    with pytest.raises(ValueError, match="control token"):
        think(bundle, think="write <|im_end|>")
