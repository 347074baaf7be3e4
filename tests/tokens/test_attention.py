import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brushwork.tokens.attention import Kind, TokenLayout, dense_mask
from brushwork.tokens.packing import pack
from brushwork.tokens.segments import Segment
from brushwork.tokens.vocabulary import WordVocabulary

# The matrix of the module's docstring: prompt (3), noised image (2), its clean copy (2), text (2).
GOLDEN = """
1 . . . . . . . .
1 1 . . . . . . .
1 1 1 . . . . . .
1 1 1 1 1 . . . .
1 1 1 1 1 . . . .
1 1 1 . . 1 1 . .
1 1 1 . . 1 1 . .
1 1 1 . . 1 1 1 .
1 1 1 . . 1 1 1 1
"""


def layout(*segments: tuple[int, int, bool, bool]) -> TokenLayout:
    """Segments as (tokens, sample, causal, noised)."""
    rows = [(sample, n, causal, noised) for n, (k, sample, causal, noised) in enumerate(segments) for _ in range(k)]
    sample, segment, causal, noised = (torch.tensor(column) for column in zip(*rows, strict=True))
    return TokenLayout(
        sample=sample, segment=segment, index=torch.arange(len(rows)), causal=causal.bool(), noised=noised.bool()
    )


def test_golden_matrix():
    mask = dense_mask(layout((3, 0, True, False), (2, 0, False, True), (2, 0, False, False), (2, 0, True, False)))
    expected = [[mark == "1" for mark in line.split()] for line in GOLDEN.strip().splitlines()]
    assert mask.tolist() == expected


def test_samples_do_not_see_each_other():
    mask = dense_mask(layout((2, 0, True, False), (2, 1, False, False)))
    assert not mask[:2, 2:].any()
    assert not mask[2:, :2].any()


SEGMENTS = st.lists(
    st.builds(
        lambda kind, size: (kind, size),
        st.sampled_from(list(Kind)),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=6,
)


@given(st.lists(SEGMENTS, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_rule_equals_the_definition_by_items(samples):
    """Against the wording of the facts sheet (5.3), item by item."""
    vocabulary = WordVocabulary(["a"])
    batch = pack([[_segment(*item) for item in sample] for sample in samples], vocabulary.control)
    mask = dense_mask(batch.layout)
    items = [
        (row, number, segment.kind)
        for row, sample in enumerate(samples)
        for number, segment in enumerate(_segment(*item) for item in sample)
        for _ in range(len(segment))
    ]
    for i, (row_i, item_i, kind_i) in enumerate(items):
        for j, (row_j, item_j, kind_j) in enumerate(items):
            inside = item_i == item_j and (kind_i is not Kind.TEXT or j <= i)
            earlier = item_j < item_i and kind_j is not Kind.NOISED
            assert mask[i, j] == (row_i == row_j and (inside or earlier)), (i, j)


def _segment(kind: Kind, size: int) -> Segment:
    if kind is Kind.TEXT:
        return Segment(kind=kind, position=0, ids=(0,) * size)
    return Segment(kind=kind, position=0, grid=(1, size))
