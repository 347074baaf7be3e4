import numpy as np
import pytest
import torch

from brushwork.flow.kernels import attend, pad_rows, plan_packed
from brushwork.flow.model import ModelConfig
from brushwork.tokens.attention import dense_mask
from brushwork.tokens.packing import CLEAN, pack
from brushwork.tokens.segments import Kind, Segment


def inputs(batch, model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn((len(batch.patch_index), model.config.patch_dim), generator=generator)
    draws = torch.rand(max(batch.num_draws, 1), generator=generator)
    timesteps = torch.where(batch.patch_draw == CLEAN, 0.0, draws[batch.patch_draw.clamp(min=0)])
    return patches, timesteps


def test_padded_rows_equal_the_dense_mask(segmenter, trajectory, vocabulary):
    """The kernel against the rule written out as one matrix."""
    samples = [segmenter(trajectory, np.random.default_rng(0))] * 2
    batch = pack([samples[0], samples[1][:2]], vocabulary.control)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn((batch.num_tokens, 4, 8), generator=generator)
    k, v = torch.randn((2, batch.num_tokens, 2, 8), generator=generator)
    plan = plan_packed(batch.layout, batch.lengths)
    out = attend(q, pad_rows(k, plan), pad_rows(v, plan), plan)
    heads = [x.repeat_interleave(2, dim=1).transpose(0, 1) for x in (k, v)]
    dense = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(0, 1), *heads, attn_mask=dense_mask(batch.layout)
    ).transpose(0, 1)
    torch.testing.assert_close(out, dense, atol=1e-6, rtol=1e-5)


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


@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.CLEAN, Kind.NOISED])
def test_nothing_crashes_on_an_empty_set(model, vocabulary, kind):
    """Batches without an image, without a text, without a loss."""
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
        model(batch, *inputs(batch, model))
