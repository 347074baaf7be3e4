"""Every lowering against the rule written out as one matrix: outputs, gradients, and what is remembered."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brushwork.flow import kernels
from brushwork.flow.kernels import Pattern, fastest, flex, segmented, varlen, varlen_reference
from brushwork.tokens.attention import Kind, Span, dense_mask, token_layout, visible_spans
from brushwork.tokens.packing import expert_major

HEADS, KV_HEADS, DIM = 4, 2, 8
LAYOUTS = st.lists(
    st.lists(st.tuples(st.sampled_from(list(Kind)), st.integers(2, 7)), min_size=1, max_size=6), min_size=1, max_size=4
)


def spans_of(samples) -> tuple[Span, ...]:
    spans, start = [], 0
    for number, sample in enumerate(samples):
        for kind, length in sample:
            spans.append(Span(kind=kind, sample=number, start=start, length=length))
            start += length
    return tuple(spans)


def dense(q, k, v, mask):
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (k, v))
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1)


def random_inputs(queries: int, keys: int, seed: int = 0, **options):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((queries, HEADS, DIM), (keys, KV_HEADS, DIM), (keys, KV_HEADS, DIM))
    return [torch.randn(shape, generator=generator).requires_grad_(**options) for shape in shapes]


LOWERINGS = {"segmented": segmented, "varlen": partial(varlen, kernel=varlen_reference)}


@pytest.mark.parametrize("short", [0, kernels.SHORT], ids=["by segment", "by sample"])
@pytest.mark.parametrize("lowering", LOWERINGS.values(), ids=LOWERINGS)
@given(samples=LAYOUTS, seed=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_equal_to_the_dense_mask(lowering, short, samples, seed):
    """In expert-major order, forward and backward."""
    spans = spans_of(samples)
    order, _ = expert_major(spans)
    rows = np.argsort(order)
    q, k, v = random_inputs(len(order), len(order), seed)
    mask = dense_mask(token_layout(spans)[torch.from_numpy(order)])
    before, kernels.SHORT = kernels.SHORT, short
    try:
        out = lowering(Pattern(spans=spans, query_rows=rows, key_slots=rows))(q, k, v)
    finally:
        kernels.SHORT = before
    expected = dense(q, k, v, mask)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    gradients = [torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (out, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def remembering(samples, past, slots: int = 200, seed: int = 0):
    """A pattern with some slots in front of each sample, and the dense mask over all slots."""
    spans = spans_of(samples)
    total = sum(span.length for span in spans)
    shuffled = np.random.default_rng(seed).permutation(slots)
    own, rest = shuffled[:total], shuffled[total:]
    ends = np.cumsum(past)
    fronts = tuple(np.sort(rest[end - count : end]) for end, count in zip(ends, past, strict=True))
    pattern = Pattern(spans=spans, query_rows=np.arange(total), key_slots=own, past=fronts)
    mask = torch.zeros(total, slots, dtype=torch.bool)
    mask[:, own] = dense_mask(token_layout(spans))
    for span in spans:
        mask[span.start : span.start + span.length, fronts[span.sample]] = True
    return pattern, mask


@pytest.mark.parametrize("short", [0, kernels.SHORT], ids=["by segment", "by sample"])
@pytest.mark.parametrize("lowering", LOWERINGS.values(), ids=LOWERINGS)
@given(samples=LAYOUTS, data=st.data())
@settings(max_examples=25, deadline=None)
def test_what_is_remembered_is_seen_by_all(lowering, short, samples, data):
    past = data.draw(st.lists(st.integers(0, 9), min_size=len(samples), max_size=len(samples)))
    pattern, mask = remembering(samples, past)
    q, k, v = random_inputs(len(mask), 200, requires_grad=False)
    before, kernels.SHORT = kernels.SHORT, short
    try:
        out = lowering(pattern)(q, k, v)
    finally:
        kernels.SHORT = before
    torch.testing.assert_close(out, dense(q, k, v, mask), atol=1e-5, rtol=1e-5)


def test_even_rows_of_a_cache_are_views():
    """Decoding reads the cache where it lies, and equals the copying way."""
    spans = tuple(Span(kind=Kind.TEXT, sample=i, start=i, length=1) for i in range(3))
    past = tuple(np.arange(20 * i, 20 * i + count) for i, count in enumerate((4, 9, 6)))
    own = np.array([4, 29, 46])
    pattern = Pattern(spans=spans, query_rows=np.arange(3), key_slots=own, past=past)
    q, k, v = random_inputs(3, 60, requires_grad=False)
    viewed = segmented(pattern)(q, k, v)
    copied = segmented(pattern)(q.requires_grad_(), k.requires_grad_(), v.requires_grad_())
    torch.testing.assert_close(viewed, copied)
    take = kernels._taker(np.arange(60).reshape(3, 20), [20, 20, 20], torch.device("cpu"))
    assert take(v.detach()).data_ptr() == v.data_ptr()
    slots = np.stack((np.arange(20), np.arange(50, 70)))  # the second row, of 10 keys, ends with the cache
    past_the_end = kernels._taker(np.where(slots < 60, slots, 0), [20, 10], torch.device("cpu"))
    assert torch.equal(past_the_end(v.detach())[1, :10], v[50:])


def test_no_masked_out_work():
    """Segment by segment, the calls cover what the rule allows and, but for texts inside themselves, nothing more."""
    samples = [[(Kind.TEXT, 40), (Kind.NOISED, 30), (Kind.CLEAN, 30), (Kind.VISION, 20), (Kind.NOISED, 30)]]
    spans = spans_of(samples)
    units = kernels._segments(Pattern(spans=spans, query_rows=np.arange(150), key_slots=np.arange(150)), spans)
    allowed = int(dense_mask(token_layout(spans)).sum())
    assert sum(unit.area for unit in units) == allowed + 40 * 39 // 2
    assert visible_spans(spans) == [[0], [0, 1], [0, 2], [0, 2, 3], [0, 2, 3, 4]]


@pytest.mark.slow  # compiles
def test_flex_equals_the_dense_mask():
    kinds = [Kind.TEXT, Kind.NOISED, Kind.CLEAN, Kind.VISION, Kind.TEXT]
    pattern, mask = remembering([[(kind, 9) for kind in kinds]] * 2, [5, 0])
    q, k, v = random_inputs(len(mask), 200, requires_grad=False)
    torch.testing.assert_close(flex(pattern)(q, k, v), dense(q, k, v, mask), atol=1e-5, rtol=1e-5)


def test_flex_refuses_to_train_on_a_cpu():
    spans = spans_of([[(Kind.TEXT, 4)]])
    attend = flex(Pattern(spans=spans, query_rows=np.arange(4), key_slots=np.arange(4)))
    with pytest.raises(ValueError, match="no backward on a CPU"):
        attend(*random_inputs(4, 4))


def test_varlen_without_flash_attention_says_what_to_do():
    pytest.importorskip("torch")
    spans = spans_of([[(Kind.TEXT, 4)]])
    pattern = Pattern(spans=spans, query_rows=np.arange(4), key_slots=np.arange(4))
    try:
        import flash_attn  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="segmented or flex"):
            varlen(pattern)


def test_the_fastest_on_a_cpu_is_segmented_to_the_bit():
    """Forward and backward."""
    spans = spans_of([[(Kind.TEXT, 40), (Kind.NOISED, 30), (Kind.CLEAN, 30), (Kind.TEXT, 9)], [(Kind.VISION, 12)]])
    pattern = Pattern(spans=spans, query_rows=np.arange(121), key_slots=np.arange(121))
    results = []
    for lowering in (segmented, fastest):
        inputs = random_inputs(121, 121)
        out = lowering(pattern)(*inputs)
        results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize(("device", "half", "flash", "lowering"), [
    ("cuda", True, True, varlen), ("cuda", True, False, flex), ("cuda", False, True, flex),
    ("cpu", True, True, segmented), ("mps", False, False, segmented),
])  # fmt: skip
def test_the_fastest_is_chosen_once_by_device_precision_and_what_is_installed(
    device, half, flash, lowering, monkeypatch, caplog
):
    monkeypatch.setattr(kernels, "find_spec", lambda name: name if flash else None)
    kernels._fastest.cache_clear()
    with caplog.at_level("INFO", logger=kernels.__name__):
        chosen = [kernels._fastest(device, half) for _ in range(2)]
    kernels._fastest.cache_clear()
    assert chosen == [lowering, lowering]
    assert [record.getMessage() for record in caplog.records] == [f"attention on {device}: {lowering.__name__}"]


@pytest.mark.gpu
@pytest.mark.parametrize("lowering", [segmented, flex, varlen], ids=["segmented", "flex", "flash-attn"])
def test_on_a_gpu(lowering):
    """Half precision, forward and backward, against the dense mask in single precision."""
    if lowering is varlen:
        pytest.importorskip("flash_attn")
    spans = spans_of([[(kind, 150) for kind in (Kind.TEXT, Kind.NOISED, Kind.CLEAN, Kind.TEXT)]] * 2)
    rows, device = np.arange(1200), torch.device("cuda")
    inputs = [x.detach().to(device, torch.bfloat16).repeat(1, 1, 8).requires_grad_() for x in random_inputs(1200, 1200)]
    out = lowering(Pattern(spans=spans, query_rows=rows, key_slots=rows, device=device))(*inputs)
    exact = [x.detach().float().cpu().requires_grad_() for x in inputs]
    expected = dense(*exact, dense_mask(token_layout(spans)))
    torch.testing.assert_close(out.float().cpu(), expected, atol=2e-2, rtol=2e-2)
    out.float().square().sum().backward()
    expected.square().sum().backward()
    for one, other in zip(inputs, exact, strict=True):
        torch.testing.assert_close(one.grad.float().cpu(), other.grad, atol=5e-2, rtol=5e-2)
