from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brushwork.tokens.attention import Kind
from brushwork.tokens.images import ResizeRule
from brushwork.tokens.packing import CLEAN, best_fit_decreasing, expert_major, pack
from brushwork.tokens.segments import IGNORE_INDEX, Segmenter, drop_conditions
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import WordVocabulary

VOCABULARY = WordVocabulary("a red circle add make it fine".split())
C = VOCABULARY.control
IMAGE = np.arange(16 * 8 * 3, dtype=np.uint8).reshape(16, 8, 3)  # two tokens of 8 pixels, one above the other
PLAN = Plan(instruction="add a circle", description="a circle")
OTHER = IMAGE + 1
PROCESS = Trajectory(
    key="t",
    prompt="a red circle",
    steps=(
        Step(
            plan=PLAN,
            drafts=(
                Draft(image=IMAGE, inspection=Inspection(draft_check="fine", refine="make it red"), flawed=True),
                Draft(image=OTHER, inspection=Inspection(draft_check="fine")),
            ),
        ),
    ),
)


def segments(trajectory=PROCESS, **options):
    return Segmenter(vocabulary=VOCABULARY, stride=8, **options)(trajectory, np.random.default_rng(0))


def test_a_process_sample_written_out():
    """Kinds, positions, losses and switches of one sample, by hand."""
    found = [(s.kind.name, len(s), s.position, s.loss, s.switch) for s in segments()]
    assert found == [
        ("TEXT", 5, 0, False, C.bos),  # bos a red circle eos: the prompt, not learnt; text follows
        ("TEXT", 11, 5, True, C.vision_start),  # the plan: 2 + 4 tags + 5 words; an image follows
        ("CLEAN", 4, 16, False, C.bos),  # flawed: context only
        ("TEXT", 8, 17, True, C.vision_start),  # fine <refine> make it red </refine>; a corrected image follows
        ("NOISED", 4, 25, False, IGNORE_INDEX),  # noised images do not advance the counter
        ("CLEAN", 4, 25, False, C.bos),
        ("TEXT", 5, 26, True, C.eos),  # fine <refine></refine>; the end
    ]


def test_single_pass_and_text_plan():
    single = Trajectory(key="s", prompt="a", steps=(Step(plan=None, drafts=(Draft(image=IMAGE),)),))
    assert [s.kind.name for s in segments(single)] == ["TEXT", "NOISED", "CLEAN"]
    assert [s.switch for s in segments(single)] == [C.vision_start, IGNORE_INDEX, C.eos]
    planned = Trajectory(
        key="p", prompt="a", steps=(Step(plan=PLAN, drafts=()), Step(plan=PLAN, drafts=(Draft(image=IMAGE),)))
    )
    found = segments(planned)
    assert [s.kind.name for s in found] == ["TEXT", "TEXT", "NOISED", "CLEAN"]
    assert found[1].ids.count(C.ins) == 2  # one text holds both plans


def test_options():
    assert [s.kind for s in segments(noise_copies=3)].count(Kind.NOISED) == 3
    assert [s.kind for s in segments(draw_flawed=True)].count(Kind.NOISED) == 2
    dropped = segments(text_dropout=1.0, noise_copies=2)
    assert [(s.kind.name, s.position) for s in dropped[-2:]] == [("NOISED", 17), ("NOISED", 17)]
    assert dropped[-3].kind is Kind.CLEAN  # the inspection before the drawn image is gone, the flawed draft is not


def test_an_image_that_does_not_divide_is_refused():
    odd = Trajectory(key="o", prompt="a", steps=(Step(plan=None, drafts=(Draft(image=IMAGE[:12]),)),))
    with pytest.raises(ValueError, match="12x8"):
        segments(odd)


def test_a_pack_written_out():
    single = Trajectory(key="s", prompt="a", steps=(Step(plan=None, drafts=(Draft(image=IMAGE),)),))
    batch = pack([segments(single), segments(single)], C)
    word = VOCABULARY.encode("a")[0]
    image = [C.vision_start, 0, 0, C.vision_end]
    one = [C.bos, word, C.eos, *image, *image]
    assert batch.token_ids.tolist() == one + one
    assert batch.position_ids.tolist() == [0, 1, 2, *[3] * 8] * 2
    assert batch.layout.sample.tolist() == [0] * 11 + [1] * 11
    assert batch.layout.segment.tolist() == [0, 0, 0, *[1] * 4, *[2] * 4, 3, 3, 3, *[4] * 4, *[5] * 4]
    assert batch.patch_index.tolist() == [4, 5, 8, 9, 15, 16, 19, 20]
    assert batch.patch_draw.tolist() == [0, 0, CLEAN, CLEAN, 1, 1, CLEAN, CLEAN]
    assert batch.patch_source.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]  # the same picture, kept once
    assert batch.patch_grid.tolist() == [[0, 0], [1, 0]] * 4
    assert len(batch.images) == 1
    assert batch.switch_index.tolist() == [2, 10, 13, 21]
    assert batch.switch_labels.tolist() == [C.vision_start, C.eos] * 2
    assert batch.text_index.tolist() == []  # the prompt is not learnt
    assert batch.lengths == (11, 11)


def test_text_labels_are_the_following_tokens():
    batch = pack([segments()], C)
    assert (batch.token_ids[batch.text_index + 1] == batch.text_labels).all()


def test_to_moves_every_tensor():
    batch = pack([segments()], C).to("meta")
    assert batch.layout.causal.is_meta
    assert batch.token_ids.is_meta
    assert all(image.is_meta for image in batch.images)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 90))
def test_packing_loses_nothing_and_respects_the_cap(lengths, capacity):
    bins = best_fit_decreasing(lengths, capacity)
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in b) <= capacity for b in bins)


def test_packing_is_tight_and_refuses_what_cannot_fit():
    assert best_fit_decreasing([5, 4, 3, 2, 1], 5) == [[0], [1, 4], [2, 3]]
    with pytest.raises(ValueError, match="51 tokens"):
        best_fit_decreasing([51], 50)


SEES = ResizeRule(max_size=8, min_size=4, stride=4)


def test_a_sample_for_a_model_that_sees():
    """Behind each clean copy stands what the vision encoder sees; what follows is predicted behind that."""
    found = [(s.kind.name, len(s), s.position, s.switch) for s in segments(vision=SEES)]
    assert found[2:6] == [
        ("CLEAN", 4, 16, IGNORE_INDEX),
        ("VISION", 4, 17, C.bos),  # 16 x 8 pixels become 8 x 4, two patches of 4 pixels
        ("TEXT", 8, 18, C.vision_start),
        ("NOISED", 4, 26, IGNORE_INDEX),
    ]
    batch = pack([segments(vision=SEES)], C)
    assert [tuple(image.shape) for image in batch.vision_images] == [(8, 4, 3)] * 2
    assert batch.vision_grid.tolist() == [[0, 0], [1, 0]] * 2
    assert not set(batch.vision_index.tolist()) & set(batch.patch_index.tolist())


def test_contexts_that_are_left_out():
    """Images keep their positions; what is predicted behind an image moves to the copy that stays."""
    whole = segments(vision=SEES)
    blind = segments(vision=SEES, vision_dropout=1.0)
    assert [s.kind.name for s in blind] == ["TEXT", "TEXT", "CLEAN", "TEXT", "NOISED", "CLEAN", "TEXT"]
    assert [s.position for s in blind] == [s.position for s in whole if s.kind is not Kind.VISION]
    assert [s.switch for s in blind if s.kind is Kind.CLEAN] == [C.bos, C.bos]
    neither = segments(vision=SEES, vision_dropout=1.0, latent_dropout=1.0)
    assert [s.kind.name for s in neither] == ["TEXT", "TEXT", "TEXT", "NOISED", "TEXT"]


def test_a_text_that_is_left_out_gives_its_positions_back():
    first, *rest = segments()
    dropped = drop_conditions([replace(first, droppable=True), *rest], lambda s: s.kind is Kind.TEXT)
    assert [s.position for s in dropped] == [s.position - len(first) for s in rest]


def test_pictures_that_are_too_large_are_refused():
    single = Trajectory(key="s", prompt="a", steps=(Step(plan=None, drafts=(Draft(image=IMAGE),)),))
    with pytest.raises(ValueError, match="16x8 image exceeds the model's position table, which ends at 8"):
        segments(single, max_size=8)


def test_expert_major_order_written_out():
    """Words and boundary tokens, then what is seen, then latents."""
    batch = pack([segments(vision=SEES)[1:4]], C)
    order, num_understand = expert_major(batch.spans)
    assert order.tolist() == [*range(11), 11, 14, 15, 18, 16, 17, 12, 13]
    assert num_understand == 17


def test_weights_of_texts():
    batch = pack([segments()], C)
    counts = [10, 7, 4]  # predictions in the three texts that are learnt
    assert batch.text_weights.tolist() == pytest.approx([n**-0.5 for n in counts for _ in range(n)])
