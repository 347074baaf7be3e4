from copy import deepcopy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brushwork.tokens.attention import Kind
from brushwork.tokens.images import ResizeRule
from brushwork.tokens.packing import CLEAN, best_fit_decreasing, expert_major, loss_counts, pack, split_documents
from brushwork.tokens.segments import (
    BLANK_LEVEL,
    IGNORE_INDEX,
    Segmenter,
    blank,
    check_choices,
    drop_conditions,
)
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


@pytest.mark.parametrize("other", [OTHER, OTHER[:8]], ids=["one size", "two sizes"])
def test_a_pack_between_processes_is_the_same(other):
    one, two = (Step(plan=None, drafts=(Draft(image=image),)) for image in (IMAGE, other))
    samples = [segments(replace(PROCESS, steps=(step,))) for step in (one, two)]
    batch = pack(samples, C)
    again = deepcopy(batch)  # goes the way between processes
    for name in (field.name for field in fields(batch)):
        before, after = getattr(batch, name), getattr(again, name)
        if isinstance(before, tuple) and any(isinstance(each, torch.Tensor) for each in before):
            assert len(before) == len(after) and all(map(torch.equal, before, after)), name
        elif isinstance(before, torch.Tensor):
            assert torch.equal(before, after), name
    assert [tuple(image.shape) for image in again.images] == [tuple(image.shape) for image in batch.images]
    moved = batch.to("meta")
    assert [image.shape for image in moved.images] == [image.shape for image in batch.images]


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


def test_what_follows_a_sample_that_was_cut_off():
    ends = {"finished": True}, {"finished": False}, {"finished": False, "goes_on": True}
    found = [segments(replace(PROCESS, **end)) for end in ends]
    assert [one[-1].switch for one in found] == [C.eos, IGNORE_INDEX, C.bos]
    assert found[0][:-1] == found[1][:-1] == found[2][:-1]


def test_roles_say_what_a_segment_is_for():
    assert [s.role for s in segments()] == [
        *("prompt", "plan", "draft", "inspection"),
        *("refinement", "refinement", "inspection"),
    ]
    assert [s.begins for s in segments()] == [True, *[False] * 6]


# -- what stands for an image -----------------------------------------------------------------------------------------


def outline(found):
    return [(s.kind.name, len(s), s.position, s.switch) for s in found]


def test_one_copy_of_each_image_is_as_if_chance_had_left_the_other_out():
    for kept, dropped in (("latent", {"vision_dropout": 1.0}), ("vision", {"latent_dropout": 1.0})):
        assert outline(segments(vision=SEES, context=kept)) == outline(segments(vision=SEES, **dropped))
    assert outline(segments(vision=SEES, context="vision")) == [
        ("TEXT", 5, 0, C.bos),
        ("TEXT", 11, 5, C.vision_start),
        ("VISION", 4, 17, C.bos),  # the clean copy's position stays empty
        ("TEXT", 8, 18, C.vision_start),
        ("NOISED", 4, 26, IGNORE_INDEX),
        ("VISION", 4, 27, C.bos),
        ("TEXT", 5, 28, C.eos),
    ]
    assert outline(segments(context="latent")) == outline(segments()), "a model that cannot see has nothing else"


def blanked(trajectory):
    """The same trajectory, had every picture come out blank."""
    drafts = [
        tuple(replace(draft, image=blank(*draft.image.shape[:2]).copy()) for draft in step.drafts)
        for step in trajectory.steps
    ]
    steps = (replace(step, drafts=row) for step, row in zip(trajectory.steps, drafts, strict=True))
    return replace(trajectory, steps=tuple(steps))


@pytest.mark.parametrize("history", ["full", "last"])
@pytest.mark.parametrize(
    "options", [{}, {"vision": SEES}, {"vision": SEES, "vision_dropout": 0.5, "text_dropout": 0.7}]
)
def test_a_blank_context_is_the_context_of_blank_pictures(history, options):
    options = {"noise_copies": 2, "history": history, **options}
    shown, told = segments(THREE_STEPS, **options), segments(THREE_STEPS, context="blank", **options)
    of_blanks = segments(blanked(THREE_STEPS), **options)
    assert outline(told) == outline(shown) and [s.loss for s in told] == [s.loss for s in shown]
    for one, true, nothing in zip(told, shown, of_blanks, strict=True):
        expected = true if one.kind is Kind.NOISED else nothing  # what is drawn is drawn as ever
        assert np.array_equal(one.image, expected.image) if one.image is not None else expected.image is None
    again, other = segments(blanked(THREE_STEPS), context="blank", **options), pack([of_blanks], C)
    for name in ("token_ids", "patch_index", "patch_draw", "text_labels", "switch_labels", "vision_index"):
        assert torch.equal(getattr(pack([again], C), name), getattr(other, name)), name


def test_words_behind_a_blank_cannot_know_the_picture():
    """Of a draft with a planted error nothing is left but what was written about it."""
    (step,) = PROCESS.steps
    flawed, fine = step.drafts
    elsewhere = replace(PROCESS, steps=(replace(step, drafts=(replace(flawed, image=IMAGE + 9), fine)),))
    one, other = (pack([segments(t, context="blank", vision=SEES)], C) for t in (PROCESS, elsewhere))
    for name in ("images", "vision_images"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            assert torch.equal(a, b)
    assert all((image == BLANK_LEVEL).all() for image in one.vision_images)
    assert one.patch_source[one.patch_draw == CLEAN].max() < 2, "one blank picture stands for both"


def test_what_cannot_be_seen_is_refused():
    with pytest.raises(ValueError, match="no vision encoder; choose 'latent' or 'both'"):
        segments(context="vision")
    with pytest.raises(ValueError, match="context is 'latents'; expected one of latent, vision, both"):
        check_choices("latents", "full", sees=True)
    with pytest.raises(ValueError, match="history is 'none'; expected one of full, last"):
        check_choices("both", "none", sees=True)


# -- each step as a document of its own -------------------------------------------------------------------------------

SEEN = Inspection(draft_check="fine")
THREE_STEPS = replace(
    PROCESS,
    steps=(
        *PROCESS.steps,  # refined, then accepted
        Step(plan=PLAN, drafts=(Draft(image=OTHER + 1),)),  # not inspected
        Step(plan=PLAN, drafts=()),  # planned with the next one
        Step(plan=PLAN, drafts=(Draft(image=OTHER + 2, inspection=SEEN),)),
    ),
)


def test_documents_written_out():
    first, second, third = split_documents(segments(THREE_STEPS, history="last"))
    opening = ("TEXT", 2, 31, IGNORE_INDEX)  # bos <ins>: that another step comes is learnt here
    assert outline(first) == [*outline(segments())[:-1], ("TEXT", 5, 26, C.bos), opening]
    assert [s.ids for s in (first[-1], second[2])] == [(C.bos, C.ins), (C.bos,)]
    assert outline(second) == [
        ("TEXT", 5, 0, IGNORE_INDEX),  # the prompt; that a text follows it is learnt in the first document
        ("CLEAN", 4, 5, IGNORE_INDEX),  # the last image
        ("TEXT", 1, 6, IGNORE_INDEX),  # bos, and
        ("TEXT", 10, 7, C.vision_start),  # the rest of the plan, <ins> given
        ("NOISED", 4, 17, IGNORE_INDEX),
        ("CLEAN", 4, 17, C.bos),
        ("TEXT", 2, 18, IGNORE_INDEX),
    ]
    assert [s.loss for s in second] == [False, False, False, True, False, False, True]
    assert [s.role for s in second] == ["prompt", "refinement", "plan", "plan", "draft", "draft", "plan"]
    assert second[1].image is first[5].image and third[1].image is second[5].image
    assert third[3].ids.count(C.ins) == 2, "one text holds both plans"
    assert outline(third)[-1] == ("TEXT", 5, 27, C.eos)


PLANS = st.one_of(st.just(PLAN), st.just(replace(PLAN, flawed=True)))
DRAFTS = st.lists(
    st.builds(Draft, image=st.just(IMAGE), inspection=st.sampled_from((None, SEEN)), flawed=st.booleans()), max_size=3
).map(lambda drafts: tuple(replace(d, inspection=d.inspection or SEEN) for d in drafts[:-1]) + tuple(drafts[-1:]))
STEPS = st.lists(st.builds(Step, plan=PLANS, drafts=DRAFTS), max_size=4)


@settings(max_examples=30, deadline=None)
@given(
    STEPS,
    st.builds(Draft, image=st.just(OTHER), inspection=st.sampled_from((None, SEEN))),
    st.booleans(),
    st.booleans(),
)
def test_documents_learn_what_the_sequence_learns_once(steps, last, finished, goes_on):
    """The same text tokens, switches and noised patches; only how many segments they stand in differs."""
    steps = (*steps, Step(plan=PLAN, drafts=(last,)))
    sample = Trajectory(key="t", prompt="a", steps=steps, finished=finished, goes_on=goes_on)
    whole, documents = segments(sample), segments(sample, history="last")
    counts, other = loss_counts(whole), loss_counts(documents)
    assert (counts.text, counts.switch, counts.flow) == (other.text, other.switch, other.flow)
    one, two = pack([whole], C), pack([documents], C)
    assert sorted(one.text_labels.tolist()) == sorted(two.text_labels.tolist())
    assert one.switch_labels.tolist() == two.switch_labels.tolist()
    assert len(set(two.layout.sample.tolist())) == max(1, sum(bool(step.drafts) for step in sample.steps))
    assert all(document[0].position == 0 for document in split_documents(documents))


def test_conditions_are_left_out_within_a_document():
    whole = split_documents(segments(THREE_STEPS, history="last", noise_copies=2))
    cut = split_documents(segments(THREE_STEPS, history="last", noise_copies=2, text_dropout=1.0))
    # What stands before the inspection that asked for the refinement; prompt and last image, without bos and plan.
    kept = [outline(one)[:count] for one, count in zip(whole, (3, 2, 2), strict=True)]
    assert [outline(one)[:-2] for one in cut] == kept
    assert [[(s.kind.name, s.position) for s in one[-2:]] for one in cut] == [
        [("NOISED", position)] * 2 for position in (17, 6, 6)
    ]
    blind = split_documents(segments(THREE_STEPS, history="last", vision=SEES, context="latent", latent_dropout=1.0))
    assert [s.kind.name for s in blind[1]] == ["TEXT", "TEXT", "TEXT", "NOISED", "TEXT"]
    assert [s.position for s in blind[1]] == [0, 7, 8, 18, 20], "the places of the images stay"
    single = Trajectory(key="s", prompt="a", steps=(Step(plan=None, drafts=(Draft(image=IMAGE),)),))
    assert [s.begins for s in segments(single, text_dropout=1.0, noise_copies=2)] == [True, False]
