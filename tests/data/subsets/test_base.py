"""What a mini base learns: pictures that show what is said, edits that change what is named, true answers."""

import re
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from brushwork.critic.scene import SceneGraph, SceneObject, diff, parse_scene
from brushwork.data.editors.renderer import RendererEditor
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.base import ASK, DESCRIBE, EDIT, editing, looking, text_to_image, thinking
from brushwork.data.subsets.drawing import Drawing
from brushwork.data.tasks import Reject, Task
from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, ShapesWorld
from brushwork.tokens.attention import Kind
from brushwork.tokens.segments import Segmenter
from brushwork.tokens.trajectory import Trajectory
from brushwork.tokens.vocabulary import WordVocabulary

WORLD = ShapesWorld(jitter=1)
DRAWING = Drawing(editor=RendererEditor(world=WORLD), world=WORLD)
SUBSETS = (text_to_image, thinking, editing, looking)
SEGMENTER = Segmenter(vocabulary=WordVocabulary(WORLD.words()), stride=8)


def task(seed: int) -> Task:
    kinds = KINDS + HARD_KINDS
    return shapes_task(WORLD, kinds[seed % len(kinds)], np.random.default_rng(seed), "train")


@lru_cache
def made(subset, num: int = 126) -> tuple[Trajectory, ...]:
    """Samples; few tasks are rejected."""
    outcomes = subset([task(seed) for seed in range(num)], drawing=DRAWING)
    samples = tuple(one for one in outcomes if isinstance(one, Trajectory))
    assert len(samples) > 0.9 * num
    return samples


def seen(sample: Trajectory) -> list[SceneGraph]:
    """What each of its pictures shows."""
    return [WORLD.detect(draft.image) for draft in sample.drafts]


def texts(sample: Trajectory) -> list[str]:
    plans = [text for step in sample.steps if step.plan for text in (step.plan.instruction, step.plan.description)]
    return [sample.prompt, *plans, *(draft.inspection.draft_check for draft in sample.drafts if draft.inspection)]


def drawn(one: SceneObject) -> bytes:
    return WORLD.render(SceneGraph(objects=(one,))).tobytes()


@pytest.mark.parametrize("subset", SUBSETS)
def test_samples_say_where_they_come_from_in_the_worlds_words(subset):
    for sample in made(subset):
        assert sample.meta["subset"] == subset.__name__ and sample.meta["kind"] in KINDS + HARD_KINDS
        assert {word for text in texts(sample) for word in text.split()} <= set(WORLD.words()), texts(sample)


@pytest.mark.parametrize("subset", SUBSETS)
def test_the_same_task_gives_the_same_sample(subset):
    for seed in range(27):
        one, other = (subset([task(seed)], drawing=DRAWING)[0] for _ in range(2))
        assert type(one) is type(other)
        if isinstance(one, Trajectory):
            assert texts(one) == texts(other) and one.meta == other.meta
            for a, b in zip(one.drafts, other.drafts, strict=True):
                np.testing.assert_array_equal(a.image, b.image)


@pytest.mark.parametrize("subset", SUBSETS)
def test_no_picture_shows_what_is_held_out(subset):
    """What is to be drawn is a finished scene; the user's picture before an edit keeps the rule of drafts."""
    for sample in made(subset):
        *before, last = seen(sample)
        assert WORLD.admits(last, "train")
        assert all(WORLD.admits(scene, "train", finished=False) for scene in before)


def test_questions_name_nothing_that_is_held_out():
    asked = [sample.prompt.removeprefix(ASK) for sample in made(looking) if sample.prompt.startswith(ASK)]
    for scene in map(WORLD.parse, asked):
        if len(scene.objects) == 1:
            assert WORLD.split(("colors", scene.objects[0].noun)) == "train"


def test_a_thought_says_the_prompt_again_and_then_every_colour():
    for sample in made(thinking):
        (step,), (scene,) = sample.steps, seen(sample)
        assert step.plan.instruction == sample.prompt and not step.plan.flawed
        told, prompt = WORLD.parse(step.plan.description), WORLD.parse(sample.prompt)
        assert not diff(told, scene) and all(one.color for one in told.objects)
        assert [one.name for one in told.objects] == [one.name for one in prompt.objects], "in the prompt's order"


# Text to image


def test_a_picture_shows_its_prompt():
    for sample in made(text_to_image):
        (draft,) = sample.drafts
        assert sample.steps[0].plan is None and draft.inspection is None and not draft.flawed
        assert not diff(parse_scene(sample.prompt), WORLD.detect(draft.image)), sample.prompt


def test_half_of_the_prompts_name_every_colour():
    asked = [parse_scene(sample.prompt) for sample in made(text_to_image) if sample.meta["kind"] == "chain"]
    in_full = sum(all(one.color for one in scene.objects) for scene in asked)
    assert in_full == pytest.approx(len(asked) / 2, abs=5)
    assert any(scene.relations for scene in asked if scene.objects[0].color)


def test_what_is_drawn_is_learnt_at_once():
    segments = SEGMENTER(made(text_to_image)[0], np.random.default_rng(0))
    assert [one.kind for one in segments] == [Kind.TEXT, Kind.NOISED, Kind.CLEAN] and not segments[0].loss


# Editing


def test_an_edit_changes_what_it_names_and_nothing_else_to_the_pixel():
    for sample in made(editing):
        before, after = seen(sample)
        plan = sample.steps[1].plan
        shown = {drawn(one): one for one in (*before.objects, *after.objects)}
        left, came = ({drawn(one) for one in scene.objects} for scene in (before, after))
        gone, new = ([shown[key] for key in keys] for keys in (left - came, came - left))
        assert len(gone) <= 1 and len(new) <= 1 and gone != new, plan
        assert said(plan.instruction) == (*(one.noun for one in gone[:1]), *(one.noun for one in new[:1])), plan
        assert not diff(parse_scene(plan.description), after), plan
        if gone and new and not plan.instruction.startswith("move"):
            assert gone[0].centre == new[0].centre


def said(instruction: str) -> tuple[str, ...]:
    """The nouns of what an instruction takes away and of what it brings."""
    if found := re.fullmatch(r"add an? (\S+ \S+)(?: (?:left of|right of|above|below) the .+)?", instruction):
        return (found[1],)
    if found := re.fullmatch(r"remove the (.+)", instruction):
        return (found[1],)
    if found := re.fullmatch(r"make the (\S+) (\S+) (\S+)", instruction):
        return f"{found[1]} {found[2]}", f"{found[3]} {found[2]}"
    if found := re.fullmatch(r"replace the (.+) with an? (.+)", instruction):
        return found[1], found[2]
    found = re.fullmatch(r"move the (\S+ \S+) (?:left of|right of|above|below) the \S+ \S+", instruction)
    assert found, instruction
    return found[1], found[1]


def test_what_an_instruction_says_of_places_holds_after_it_and_not_before():
    relations = Counter()
    for sample in made(editing):
        instruction = sample.steps[1].plan.instruction
        found = re.search(r"(\S+ \S+) (left of|right of|above|below) the (\S+ \S+)$", instruction)
        if not found:
            continue
        before, after = ({one.noun: one for one in scene.objects} for scene in seen(sample))
        operation = instruction.split()[0]
        relations[operation] += 1
        assert found[2] in WORLD.predicates(after[found[1]], after[found[3]])
        if operation == "move":
            assert found[2] not in WORLD.predicates(before[found[1]], before[found[3]])
    assert min(relations["add"], relations["move"]) > 3 and len(relations) == 2


def test_every_kind_of_edit_is_shown():
    commands = Counter(sample.steps[1].plan.instruction.split()[0] for sample in made(editing))
    assert set(commands) == {"add", "remove", "make", "replace", "move"} and min(commands.values()) > 5
    operations = {sample.meta["operations"][0] for sample in made(editing)}
    assert operations == {"add", "remove", "refine", "swap", "move"}


@pytest.mark.parametrize("history", ["full", "last"])
def test_neither_the_users_picture_nor_the_instruction_is_learnt(history):
    for sample in made(editing)[:40]:
        assert sample.prompt == EDIT and len(sample.steps) == 2 and sample.finished
        picture, result = sample.drafts
        segments = replace(SEGMENTER, history=history)(sample, np.random.default_rng(0))
        assert not any(one.loss for one in segments), "no word of it"
        (noised,) = (one for one in segments if one.kind is Kind.NOISED)
        assert noised.image is result.image
        assert any(one.kind is Kind.CLEAN and one.image is picture.image for one in segments), "but it is seen"


# Looking


def test_descriptions_say_all_that_is_there_and_where():
    described = [sample for sample in made(looking) if sample.prompt == DESCRIBE]
    assert len(described) == pytest.approx(63, abs=16)
    for sample in described:
        (scene,), answer = seen(sample), sample.steps[0].drafts[0].inspection.draft_check
        told = parse_scene(answer)
        assert not diff(told, scene), answer
        places = [(one.y, one.x) for one in told.objects]
        assert len(told.objects) == len(scene.objects) and places == sorted(places), "in reading order"


def test_questions_are_answered_truthfully_and_both_ways():
    answers, wrong = Counter(), Counter()
    for sample in made(looking):
        if sample.prompt == DESCRIBE:
            continue
        (scene,), answer = seen(sample), sample.steps[0].drafts[0].inspection.draft_check
        supposed = parse_scene(sample.prompt.removeprefix(f"{ASK} "))
        found = diff(supposed, scene)
        assert answer == ("no" if found else "yes"), sample.prompt
        answers[answer] += 1
        wrong.update({one.kind for one in found})
    assert answers["no"] == pytest.approx(answers.total() / 2, abs=14)
    assert {"color", "shape", "place"} <= set(wrong)


def test_of_a_look_the_answer_alone_is_learnt():
    for sample in made(looking)[:20]:
        segments = SEGMENTER(sample, np.random.default_rng(0))
        assert [one.kind for one in segments] == [Kind.TEXT, Kind.CLEAN, Kind.TEXT]
        assert [one.loss for one in segments] == [False, False, True]


# What is refused


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_world_is_needed(subset):
    with pytest.raises(ValueError, match=r"need drawing\.world"):
        subset([task(0)], drawing=Drawing(editor=DRAWING.editor))


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_prompt_without_scene_is_rejected(subset):
    (outcome,) = subset([replace(task(0), scene=None)], drawing=DRAWING)
    assert isinstance(outcome, Reject) and outcome.reason == "the prompt has no scene graph"


def test_an_empty_canvas_is_no_picture_to_edit():
    alone = [shapes_task(WORLD, "colors", np.random.default_rng(seed), "train") for seed in range(40)]
    reasons = {one.reason for one in editing(alone, drawing=DRAWING) if isinstance(one, Reject)}
    assert reasons == {"an empty canvas is no picture to edit"}
