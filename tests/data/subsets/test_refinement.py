"""Refinement without a plan: errors against the prompt alone, inspections that are true, corrections that obey them."""

import re
from collections import Counter

import numpy as np
import pytest

from brushwork.critic.feedback import ACCEPTED, parse_feedback
from brushwork.critic.scene import diff
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.refinement import planted_refinement
from brushwork.data.tasks import Reject, Task
from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, ShapesWorld
from brushwork.tokens.attention import Kind
from brushwork.tokens.grammar import FORBIDDEN, State, transition_table
from brushwork.tokens.segments import Segmenter
from brushwork.tokens.trajectory import Trajectory
from brushwork.tokens.vocabulary import WordVocabulary

WORLD = ShapesWorld(jitter=1)
ALL_KINDS = (*KINDS, *HARD_KINDS)
NUM = 14 * len(ALL_KINDS)


def tasks(num: int = NUM, split: str = "train") -> list[Task]:
    return [shapes_task(WORLD, ALL_KINDS[n % len(ALL_KINDS)], np.random.default_rng(n), split) for n in range(num)]


def made(split: str = "train", num: int = NUM, **options) -> list[Trajectory]:
    outcomes = planted_refinement(tasks(num, split), drawing=shapes_drawing(WORLD), **options)
    samples = [one for one in outcomes if not isinstance(one, Reject)]
    assert len(samples) > 0.95 * num
    return samples


@pytest.fixture(scope="module")
def samples() -> list[Trajectory]:
    return made()


def seen(image: np.ndarray) -> set:
    return set(WORLD.detect(image).objects)


def test_one_step_without_a_plan_and_one_correction_at_most(samples):
    labels = Counter(one.meta["label"] for one in samples)
    assert labels["positive"] == pytest.approx(len(samples) / 3, rel=0.3)
    for one in samples:
        (step,) = one.steps
        assert step.plan is None and one.finished and one.meta["subset"] == "refinement"
        assert [draft.flawed for draft in step.drafts] == [True] * (one.meta["label"] == "negative") + [False]
        assert len(one.meta["flaws"]) in ((1, 2) if one.meta["label"] == "negative" else (0,))
    assert {len(one.meta["flaws"]) for one in samples} == {0, 1, 2}


def test_inspections_are_true_of_what_the_prompt_asks(samples):
    """Nothing is found in a right picture; what is said of a wrong one is what the detector and the prompt come to."""
    for one in samples:
        wanted = WORLD.parse(one.prompt)
        *flawed, right = one.steps[0].drafts
        assert right.inspection.accepts and right.inspection.draft_check == ACCEPTED
        assert not diff(wanted, WORLD.detect(right.image))
        for draft in flawed:
            found = diff(wanted, WORLD.detect(draft.image))
            assert draft.inspection.refine and len(found) == len(one.meta["flaws"])
            assert set(parse_feedback(draft.inspection.draft_check)) == set(one.meta["flaws"])


def test_a_correction_changes_what_is_wrong_and_nothing_else(samples):
    kinds: Counter[str] = Counter()
    for one in samples:
        *flawed, right = one.steps[0].drafts
        for draft in flawed:
            before, after, flaws = seen(draft.image), seen(right.image), one.meta["flaws"]
            assert len(before - after) <= len(flaws) and len(after - before) <= len(flaws)
            commands = re.split(" and (?=add|remove|make|turn|move)", draft.inspection.refine)
            assert len(commands) == len(flaws)
            assert {noun for command in commands for noun in obeyed(command, before, after)} == {
                object_.noun for object_ in before - after
            }
            kinds.update(flaws)
    assert set(kinds) == {"color", "shape", "place", "missing", "extra", "count"}


def obeyed(command: str, before: set, after: set) -> list[str]:
    """Asserts that a command was carried out; the nouns that it takes away or changes."""
    gone, come = {one.noun for one in before - after}, after - before
    match command.split():
        case ["add", _, *noun]:
            assert any(one.noun.endswith(" ".join(noun)) for one in come), command
            return []
        case ["remove", "the", *noun]:
            assert " ".join(noun) in gone, command
        case ["make", "the", *noun, color]:
            assert any(one.noun == f"{color} {noun[-1]}" for one in come), command
        case ["turn", "the", color, name, "into", _, shape]:
            noun = [color, name]
            assert any(one.noun == f"{color} {shape}" for one in come), command
        case ["move", "the", color, name, *_]:
            noun = [color, name]
            assert any(one.noun == " ".join(noun) for one in come), command
        case _:
            pytest.fail(command)
    return [" ".join(noun)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_no_picture_shows_what_is_held_out(split):
    later = {"train": {"val", "test"}, "val": {"test"}}[split]
    hidden = {key for key, other in WORLD.split_of.items() if other in later}
    for one in made(split, num=3 * len(ALL_KINDS), positives=0.0):
        for draft in one.drafts:
            assert not WORLD.held(WORLD.detect(draft.image), finished=not draft.flawed) & hidden


def test_a_sample_depends_on_its_task_alone():
    drawing = shapes_drawing(WORLD)
    together = planted_refinement(tasks(24), drawing=drawing)
    alone = [planted_refinement([task], drawing=drawing)[0] for task in tasks(24)]
    for one, other in zip(together, alone, strict=True):
        assert one.meta == other.meta and one.prompt == other.prompt
        assert all(np.array_equal(a.image, b.image) for a, b in zip(one.drafts, other.drafts, strict=True))


def test_shares_and_numbers_are_those_asked_for():
    assert all(not one.meta["flaws"] for one in made(num=30, positives=1.0))
    assert {len(one.meta["flaws"]) for one in made(num=18, positives=0.0, max_flaws=1)} == {1}
    assert max(len(one.meta["flaws"]) for one in made(num=18, positives=0.0, max_flaws=3)) == 3


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match=r"drawing.critique=true"):
        planted_refinement([], drawing=shapes_drawing(WORLD, critique=False))
    with pytest.raises(ValueError, match="max_flaws=0"):
        planted_refinement([], drawing=shapes_drawing(WORLD), max_flaws=0)
    task = Task(prompt="a dog", split="train", rng=np.random.default_rng(0))
    assert planted_refinement([task], drawing=shapes_drawing(WORLD))[0].reason == "the prompt has no scene graph"


def test_the_grammar_takes_every_sample(samples):
    """Prompt, image, inspection, image, inspection, end: from token to token as a sampler would go."""
    vocabulary = WordVocabulary(WORLD.words())
    table, control = transition_table(vocabulary), vocabulary.control
    segmenter = Segmenter(vocabulary=vocabulary, stride=8)
    for one in samples:
        prompt, *rest = segmenter(one, np.random.default_rng(0))
        state, following = State.PROMPT, prompt.switch
        for segment in rest:
            if segment.kind is Kind.NOISED:
                continue
            assert following == (control.vision_start if segment.kind is Kind.CLEAN else control.bos)
            for token in [control.vision_start] if segment.kind is Kind.CLEAN else segment.ids:
                assert table[state, token] != FORBIDDEN
                state = State(int(table[state, token]))
            following = segment.switch
        assert state is State.ACCEPTED and following == control.eos
        assert sum(segment.kind is Kind.NOISED for segment in rest) == 1, "no error is learnt to be drawn"
