import subprocess
import sys

import numpy as np
import pytest
import torch

from brushwork.flow.model import ModelConfig
from brushwork.tokens.attention import Kind
from brushwork.tokens.packing import CLEAN, pack
from brushwork.tokens.segments import Segment


def inputs(batch, model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn((len(batch.patch_index), model.config.patch_dim), generator=generator)
    draws = torch.rand(max(batch.num_draws, 1), generator=generator)
    timesteps = torch.where(batch.patch_draw == CLEAN, 0.0, draws[batch.patch_draw.clamp(min=0)])
    return patches, timesteps


def test_neighbours_in_a_pack_change_nothing(model, segmenter, trajectory, vocabulary):
    segments = segmenter(trajectory, np.random.default_rng(0))
    alone = pack([segments], vocabulary.control)
    patches, timesteps = inputs(alone, model)
    single = model(alone, patches, timesteps)
    pair = pack([segments[:3], segments], vocabulary.control)
    first = sum(len(s) - 2 for s in segments[:3] if s.kind is not Kind.TEXT)
    noise, times = torch.randn((first, patches.shape[1])), torch.zeros(first)
    both = model(pair, torch.cat((noise, patches)), torch.cat((times, timesteps)))
    torch.testing.assert_close(both.text_logits[-len(single.text_logits) :], single.text_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both.velocity[-len(single.velocity) :], single.velocity, atol=1e-4, rtol=1e-4)


def test_noised_images_leave_no_trace(model, segmenter, trajectory, vocabulary):
    """Texts and switches do not depend on what the noised copies hold."""
    batch = pack([segmenter(trajectory, np.random.default_rng(0))], vocabulary.control)
    patches, timesteps = inputs(batch, model)
    noised = batch.patch_draw != CLEAN
    other = torch.where(noised[:, None], torch.randn_like(patches), patches)
    one, two = model(batch, patches, timesteps), model(batch, other, timesteps)
    torch.testing.assert_close(one.text_logits, two.text_logits)
    assert not torch.allclose(one.velocity, two.velocity)


@pytest.mark.parametrize("sees", [False, True])
@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.CLEAN, Kind.NOISED])
def test_nothing_crashes_on_an_empty_set(model, seeing_model, vocabulary, kind, sees):
    """Batches without an image, without a text, without anything to look at, without a loss."""
    model = seeing_model if sees else model
    if kind is Kind.TEXT:
        segment = Segment(kind=kind, position=0, ids=(0, 11, 1))
    else:
        segment = Segment(kind=kind, position=0, grid=(2, 2))
    batch = pack([[segment]], vocabulary.control)
    prediction = model(batch, *inputs(batch, model))
    assert len(prediction.velocity) == (4 if kind is Kind.NOISED else 0)
    assert len(prediction.text_logits) == 0
    prediction.velocity.sum().backward()


def test_data_prediction_is_the_velocity_of_the_same_path(make_model, vocabulary, segmenter, trajectory):
    batch = pack([segmenter(trajectory, np.random.default_rng(0))], vocabulary.control)
    velocity, data = (make_model(prediction=p) for p in ("velocity", "data"))
    patches, timesteps = inputs(batch, velocity)
    noised = batch.patch_draw != CLEAN
    raw = velocity(batch, patches, timesteps).velocity
    expected = (patches[noised] - raw) / timesteps[noised, None].clamp(min=0.05)
    torch.testing.assert_close(data(batch, patches, timesteps).velocity, expected)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="hidden_size by num_heads"):
        ModelConfig(vocab_size=10, hidden_size=130, num_heads=4)


def test_an_image_larger_than_the_position_table_is_refused(model, vocabulary):
    batch = pack([[Segment(kind=Kind.CLEAN, position=0, grid=(5, 1))]], vocabulary.control)
    with pytest.raises(ValueError, match="side 4"):
        model.plan(batch)  # before any compute


def test_images_to_look_at(model, seeing_model, vocabulary):
    """The vision encoder sees each image by itself, and says what it lacks."""
    look = Segment(kind=Kind.VISION, position=0, grid=(2, 3))
    text = Segment(kind=Kind.TEXT, position=1, ids=(0, 11, 1), switch=0)
    pixels = torch.randn((12, 48), generator=torch.Generator().manual_seed(0))
    empty = torch.zeros((0, seeing_model.config.patch_dim)), torch.zeros(0)
    both = seeing_model(pack([[look, text], [look, text]], vocabulary.control), *empty, pixels).switch_logits
    alone = [seeing_model(pack([[look, text]], vocabulary.control), *empty, part) for part in pixels.split(6)]
    torch.testing.assert_close(both, torch.cat([a.switch_logits for a in alone]), atol=1e-4, rtol=1e-4)
    batch = pack([[look, text]], vocabulary.control)
    with pytest.raises(ValueError, match="6 vision patches, the pixels are 0"):
        seeing_model(batch, *empty)
    with pytest.raises(ValueError, match="which this model lacks"):
        model.plan(batch)


def test_stretched_positions(make_model, vocabulary):
    """An image of half the table's side takes every other cell of it."""
    model = make_model(interpolate_positions=True)
    images = [Segment(kind=Kind.CLEAN, position=i, grid=grid) for i, grid in enumerate(((2, 2), (1, 4)))]
    batch = pack([images], vocabulary.control)
    assert model.plan(batch).latent_rows.tolist() == [0, 2, 8, 10, 0, 1, 2, 3]


def test_recomputed_activations_give_the_same_gradients(make_model, segmenter, trajectory, vocabulary):
    batch = pack([segmenter(trajectory, np.random.default_rng(0))], vocabulary.control)
    gradients = []
    for on in (False, True):
        model = make_model().train()
        model.checkpoint_activations(on)
        prediction = model(batch, *inputs(batch, model))
        (prediction.velocity.square().sum() + prediction.text_logits.square().sum()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


_COMPILED = """
import copy, torch
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.tokens.attention import Kind
from brushwork.tokens.packing import pack
from brushwork.tokens.segments import Segment
from brushwork.tokens.vocabulary import WordVocabulary

torch.manual_seed(0)
sizes = dict(hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2)
model = UnifiedModel(ModelConfig(vocab_size=20, **sizes))
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
names = model.state_dict().keys()
for rows in (2, 3, 4):
    text = Segment(kind=Kind.TEXT, position=0, ids=tuple(range(rows)))
    image = Segment(kind=Kind.NOISED, position=rows, grid=(rows, 2))
    batch = pack([[text, image]], WordVocabulary(["a"]).control)
    given = torch.randn(2 * rows, 192), torch.full((2 * rows,), 0.5)
    velocities = []
    for on in (False, True):
        model.compile_experts(on)
        velocities.append(model(batch, *given).velocity)
    torch.testing.assert_close(*velocities, atol=1e-4, rtol=1e-4)
    gradients = [torch.autograd.grad(v.square().sum(), model.vae2llm.weight)[0] for v in velocities]
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)
assert model.state_dict().keys() == names
copied = copy.deepcopy(model)  # as an average of weights is
for parameter in copied.parameters():
    parameter.data.zero_()
assert not copied(batch, *given).velocity.any(), "the copy computes with the weights of the original"
"""


@pytest.mark.slow
def test_compiled_experts_compute_the_same():
    """In a process of its own: the compiler cannot trace the type checks that tests run under."""
    subprocess.run([sys.executable, "-c", _COMPILED], check=True)
