"""Contexts share memory, grow, show themselves as they were, and go back; cached evaluation is packed evaluation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brushwork.flow import kernels
from brushwork.flow.cache import KVCache
from brushwork.flow.model import Memory
from brushwork.tokens.attention import Kind
from brushwork.tokens.packing import CLEAN, pack
from brushwork.tokens.segments import Segment


def cache(num_slots: int = 20, scratch: int = 5) -> KVCache:
    sizes = dict(num_layers=1, num_kv_heads=1, head_dim=2, dtype=torch.float32, device="cpu")
    return KVCache(num_slots=num_slots, scratch=scratch, **sizes)


def test_contexts_grow_in_their_own_room():
    memory = cache()
    one, two = memory.context(10), memory.context(6)
    assert memory.place([3, 2], [one, two], keep=True).tolist() == [0, 1, 2, 10, 11]
    assert memory.place([1, 1], [one, two], keep=True).tolist() == [3, 12]
    assert one.stretches == [(0, 4)] and two.slots().tolist() == [10, 11, 12]


def test_what_is_not_kept_goes_to_the_scratch():
    memory = cache()
    one = memory.context(10)
    assert memory.place([2, 3], [one, one], keep=False).tolist() == [20, 21, 22, 23, 24]
    assert len(one) == 0
    with pytest.raises(ValueError, match="the scratch"):
        memory.place([6], [one], keep=False)


def test_a_branch_shares_slots_and_goes_its_own_way():
    memory = cache()
    main = memory.context(10)
    memory.place([4], [main], keep=True)
    main.position = 4
    branch = memory.context(5, shared=main)
    memory.place([2, 3], [main, branch], keep=True)
    assert main.stretches == [(0, 6)]
    assert branch.stretches == [(0, 4), (10, 13)] and branch.position == 4
    assert main.view((3, 3)).slots().tolist() == [0, 1, 2]
    assert branch.view((5, 5)).slots().tolist() == [0, 1, 2, 3, 10]


def test_rollback_frees_the_last_slots():
    memory = cache()
    main = memory.context(10)
    memory.place([4], [main], keep=True)
    mark = main.mark
    memory.place([5], [main], keep=True)
    main.rollback(mark)
    assert memory.place([2], [main], keep=True).tolist() == [4, 5]


def test_full_memories_say_so():
    memory = cache(num_slots=8)
    one = memory.context(6)
    with pytest.raises(ValueError, match="exceed a memory of 8"):
        memory.context(3)
    with pytest.raises(ValueError, match="capacity of a context"):
        memory.place([7], [one], keep=True)


SEQUENCES = st.lists(
    st.lists(st.tuples(st.sampled_from(list(Kind)), st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=6),
    min_size=1,
    max_size=3,
)


def segments(items) -> list[Segment]:
    made, position = [], 0
    for kind, one, other in items:
        shape = {"ids": tuple(range(one + 1))} if kind is Kind.TEXT else {"grid": (one, other)}
        made.append(Segment(kind=kind, position=position, switch=0, **shape))
        position = made[-1].next_position
    return made


@given(sequences=SEQUENCES, data=st.data())
@settings(max_examples=30, deadline=None)
def test_cached_equals_packed_on_any_interleaving(seeing_model, vocabulary, sequences, data):
    """Sequences of any segments, fed in pieces that are cut anywhere, alone or together, with noised images in between.

    Texts may be cut inside; images are fed whole, as they look at themselves.
    """
    model, control = seeing_model, vocabulary.control
    samples = [segments(items) for items in sequences]
    whole = pack(samples, control)
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn((len(whole.patch_index), model.config.patch_dim), generator=generator)
    pixels = torch.randn((len(whole.vision_index), model.config.vision.patch_dim), generator=generator)
    timesteps = torch.where(whole.patch_draw == CLEAN, 0.0, 0.7)
    short = data.draw(st.sampled_from([0, kernels.SHORT]))
    before, kernels.SHORT = kernels.SHORT, short
    try:
        with torch.no_grad():
            expected = model(whole, patches, timesteps, pixels if len(pixels) else None)
            found = [
                _fed(model, sample, i, samples, patches, pixels, control, data) for i, sample in enumerate(samples)
            ]
    finally:
        kernels.SHORT = before
    for name in ("switch_logits", "velocity"):
        parts = torch.cat([getattr(prediction, name) for sample in found for prediction in sample])
        torch.testing.assert_close(parts, getattr(expected, name), atol=1e-4, rtol=1e-4)


def _fed(model, sample, number, samples, patches, pixels, control, data):
    """The predictions of one sample's pieces, each behind what was kept of those before."""

    def count(kinds, of):
        return sum(len(s) - 2 for s in of if s.kind in kinds)

    latent = (Kind.CLEAN, Kind.NOISED)
    earlier = [segment for other in samples[:number] for segment in other]
    at, seen = count(latent, earlier), count((Kind.VISION,), earlier)
    memory = model.new_cache(200, scratch=50)
    context = memory.context(200)
    predictions = []
    for segment in sample:
        pieces = [segment]
        if segment.kind is Kind.TEXT and data.draw(st.booleans()):
            first = Segment(kind=Kind.TEXT, position=segment.position, ids=segment.ids[:1])
            pieces = [first, Segment(kind=Kind.TEXT, position=segment.position + 1, ids=segment.ids[1:], switch=0)]
        for piece in pieces:
            batch = pack([[piece]], control)
            plan = model.plan(batch, Memory(cache=memory, contexts=[context], keep=piece.kind is not Kind.NOISED))
            latents = patches[at : at + len(batch.patch_index)]
            looks = pixels[seen : seen + len(batch.vision_index)]
            times = torch.where(batch.patch_draw == CLEAN, 0.0, 0.7)
            predictions.append(model(batch, latents, times, looks if len(looks) else None, plan))
            at, seen = at + len(latents), seen + len(looks)
    return predictions


def test_sequences_in_one_memory_do_not_meet(model, vocabulary):
    """Two contexts fed together give what each gives alone."""
    texts = [Segment(kind=Kind.TEXT, position=0, ids=ids, switch=0) for ids in ((0, 11, 12, 1), (0, 13, 1))]
    memory = model.new_cache(20)
    contexts = [memory.context(10), memory.context(10)]
    empty = torch.zeros((0, model.config.patch_dim)), torch.zeros(0)
    batch = pack([[text] for text in texts], vocabulary.control)
    together = model(batch, *empty, plan=model.plan(batch, Memory(cache=memory, contexts=contexts)))
    alone = [model(pack([[text]], vocabulary.control), *empty).switch_logits for text in texts]
    torch.testing.assert_close(together.switch_logits, torch.cat(alone), atol=1e-5, rtol=1e-4)
    assert np.array_equal(contexts[1].slots(), np.arange(10, 13))
