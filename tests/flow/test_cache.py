"""Contexts share memory, grow, show themselves as they were, and go back; cached evaluation is packed evaluation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brushwork.flow import kernels
from brushwork.flow.cache import KVCache
from brushwork.flow.model import Continuation, Prediction
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


def test_rollback_never_touches_what_is_shared():
    memory = cache()
    main = memory.context(4)
    memory.place([4], [main], keep=True)  # full, so that the branch's own room lies right behind
    branch = memory.context(6, shared=main)
    memory.place([3], [branch], keep=True)
    branch.rollback((5, 5))
    assert branch.slots().tolist() == [0, 1, 2, 3, 4]
    assert memory.place([2], [branch], keep=True).tolist() == [5, 6]
    with pytest.raises(ValueError, match="the first 4 are another context's"):
        branch.rollback((2, 2))


def test_a_batch_that_does_not_fit_changes_nothing():
    memory = cache()
    one, two = memory.context(10), memory.context(2)
    with pytest.raises(ValueError, match="3 more tokens"):
        memory.place([2, 3], [one, two], keep=True)
    assert len(one) == 0 and one.free == (0, 10)


def test_full_memories_say_so():
    memory = cache(num_slots=8)
    one = memory.context(6)
    with pytest.raises(ValueError, match="exceed a cache of 8"):
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
@settings(max_examples=40, deadline=None)
def test_cached_equals_packed_on_any_interleaving(seeing_model, vocabulary, sequences, data):
    """Sequences of any segments in one cache, fed in pieces in any order, alone or several in one batch.

    Texts may be cut inside; images are fed whole, as they look at themselves. On the way any sequence may read
    something else and go back.
    """
    model, control = seeing_model, vocabulary.control
    samples = [segments(items) for items in sequences]
    whole = pack(samples, control)
    inputs = _inputs(model, whole)
    short = data.draw(st.sampled_from([0, kernels.SHORT]))
    before, kernels.SHORT = kernels.SHORT, short
    try:
        with torch.no_grad():
            expected = model(whole, *inputs)
            found = _fed(model, samples, inputs, control, data)
    finally:
        kernels.SHORT = before
    for name in ("switch_logits", "velocity"):
        parts = torch.cat([getattr(prediction, name) for sample in found for prediction in sample])
        torch.testing.assert_close(parts, getattr(expected, name), atol=1e-4, rtol=1e-4)


def _inputs(model, batch):
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn((len(batch.patch_index), model.config.patch_dim), generator=generator)
    pixels = torch.randn((len(batch.vision_index), model.config.vision.patch_dim), generator=generator)
    return patches, torch.where(batch.patch_draw == CLEAN, 0.0, 0.7), pixels


def _pieces(sample, data) -> list[Segment]:
    """The segments, some texts cut in two."""
    pieces = []
    for segment in sample:
        if segment.kind is Kind.TEXT and data.draw(st.booleans()):
            pieces.append(Segment(kind=Kind.TEXT, position=segment.position, ids=segment.ids[:1]))
            segment = Segment(kind=Kind.TEXT, position=segment.position + 1, ids=segment.ids[1:], switch=0)
        pieces.append(segment)
    return pieces


LATENT, VISION = (Kind.CLEAN, Kind.NOISED), (Kind.VISION,)


def _fed(model, samples, inputs, control, data):
    """The predictions of each sample's pieces; some of the samples take part in each evaluation."""

    def split(x, kinds):
        return list(x.split([sum(len(s) - 2 for s in sample if s.kind in kinds) for sample in samples]))

    stores = {LATENT: split(inputs[0], LATENT), VISION: split(inputs[2], VISION)}
    queues, found = [_pieces(sample, data) for sample in samples], [[] for _ in samples]
    memory = model.new_cache(200 * len(samples), scratch=100)
    contexts = [memory.context(200) for _ in samples]
    while any(queues):
        waiting = [i for i, queue in enumerate(queues) if queue]
        chosen = data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True))
        noised = queues[chosen[0]][0].kind is Kind.NOISED
        chosen = [i for i in chosen if (queues[i][0].kind is Kind.NOISED) is noised]
        if data.draw(st.booleans()):
            _digress(model, memory, contexts[chosen[0]], control)
        pieces = [queues[i].pop(0) for i in chosen]
        predictions = _evaluate(model, memory, pieces, chosen, contexts, stores, control)
        for i, prediction in zip(chosen, predictions, strict=True):
            found[i].append(prediction)
    return found


def _digress(model, memory, context, control) -> None:
    """Reads something and forgets it."""
    mark = context.mark
    batch = pack([[Segment(kind=Kind.TEXT, position=99, ids=(3, 4, 5))]], control)
    model(batch, *_inputs(model, batch), plan=model.plan(batch, Continuation(cache=memory, contexts=[context])))
    context.rollback(mark)


def _evaluate(model, memory, pieces, chosen, contexts, stores, control):
    """One evaluation of a piece of some samples; their predictions one by one."""
    batch = pack([[piece] for piece in pieces], control)
    keep = pieces[0].kind is not Kind.NOISED
    plan = model.plan(batch, Continuation(cache=memory, contexts=[contexts[i] for i in chosen], keep=keep))
    given = {LATENT: [], VISION: []}
    for kinds, store in stores.items():
        for i, piece in zip(chosen, pieces, strict=True):
            count = len(piece) - 2 if piece.kind in kinds else 0
            given[kinds].append(store[i][:count])
            store[i] = store[i][count:]
    times = torch.where(batch.patch_draw == CLEAN, 0.0, 0.7)
    prediction = model(batch, torch.cat(given[LATENT]), times, torch.cat(given[VISION]), plan)
    switches = iter(prediction.switch_logits)
    velocities = iter(prediction.velocity.split([len(part) * (not keep) for part in given[LATENT]]))
    return [
        Prediction(
            text_logits=prediction.text_logits[:0],
            switch_logits=next(switches)[None] if piece.switch == 0 else prediction.switch_logits[:0],
            velocity=next(velocities),
        )
        for piece in pieces
    ]


def test_sequences_in_one_memory_do_not_meet(model, vocabulary):
    """Two contexts fed together give what each gives alone."""
    texts = [Segment(kind=Kind.TEXT, position=0, ids=ids, switch=0) for ids in ((0, 11, 12, 1), (0, 13, 1))]
    memory = model.new_cache(20)
    contexts = [memory.context(10), memory.context(10)]
    empty = torch.zeros((0, model.config.patch_dim)), torch.zeros(0)
    batch = pack([[text] for text in texts], vocabulary.control)
    together = model(batch, *empty, plan=model.plan(batch, Continuation(cache=memory, contexts=contexts)))
    alone = [model(pack([[text]], vocabulary.control), *empty).switch_logits for text in texts]
    torch.testing.assert_close(together.switch_logits, torch.cat(alone), atol=1e-5, rtol=1e-4)
    assert np.array_equal(contexts[1].slots(), np.arange(10, 13))
