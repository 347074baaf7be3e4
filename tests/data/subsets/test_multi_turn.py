"""Multi-turn trajectories: plans that are true, drafts that show them, inspections that are right."""

import re

import numpy as np
import pytest

from brushwork.critic.feedback import feedback, parse_feedback
from brushwork.critic.scene import INVERSE, Relation, SceneGraph, diff, parse_scene
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, ShapesWorld
from brushwork.tokens.trajectory import Inspection, Plan, Trajectory

WORLD = ShapesWorld()
ACCEPTED = Inspection(draft_check="the draft shows the plan")


def make(kind: str, seed: int, *, plan: str = "relational", flaw_rate: float = 0.5, split: str = "train") -> Trajectory:
    task = shapes_task(WORLD, kind, np.random.default_rng(seed), split)
    (made,) = multi_turn([task], drawing=shapes_drawing(WORLD, plan=plan), flaw_rate=flaw_rate)
    return made


def words(trajectory: Trajectory) -> list[str]:
    """Every text of a trajectory."""
    plans = [text for step in trajectory.steps for text in (step.plan.instruction, step.plan.description)]
    checks = [text for draft in trajectory.drafts for text in (draft.inspection.draft_check, draft.inspection.refine)]
    return [trajectory.prompt, *plans, *checks]


def test_a_whole_trajectory():
    """Written out, so that a reader learns what the model is trained on."""
    made = make("position", 44, flaw_rate=0.7)
    assert made.prompt == "a triangle above a ring"
    assert [step.plan for step in made.steps] == [
        Plan(instruction="add a purple triangle", description="a purple triangle"),
        Plan(
            instruction="add a green ring below the purple triangle",
            description="a purple triangle and a green ring",
        ),
    ]
    assert [draft.inspection for draft in made.drafts] == [
        Inspection(draft_check="the purple triangle is missing", refine="add a purple triangle"),
        ACCEPTED,
        Inspection(
            draft_check="the green ring should be below the purple triangle",
            refine="move the green ring below the purple triangle",
        ),
        ACCEPTED,
    ]
    assert [draft.flawed for draft in made.drafts] == [True, False, True, False]
    assert {one.noun for one in WORLD.detect(made.final_image).objects} == {"purple triangle", "green ring"}


@pytest.mark.parametrize("plan", ["relational", "located"])
@pytest.mark.parametrize("kind", KINDS + HARD_KINDS)
def test_one_object_a_step_in_the_prompts_order(kind, plan):
    made = make(kind, 0, plan=plan)
    wanted = parse_scene(made.prompt)
    assert len(made.steps) == len(wanted.objects)
    for count, step in enumerate(made.steps, start=1):
        described = parse_scene(step.plan.description)
        assert [one.name for one in described.objects] == [one.name for one in wanted.objects[:count]]
        assert step.plan.instruction.startswith(f"add a {described.objects[-1].noun}")
        assert (described.objects[0].x is None) == (plan == "relational")
    assert diff(wanted, WORLD.detect(made.final_image)) == ()


@pytest.mark.parametrize("plan", ["relational", "located"])
@pytest.mark.parametrize("kind", KINDS + HARD_KINDS)
def test_inspections_are_what_the_pictures_show(kind, plan):
    """Read from text and pixels alone, without the scene that both were made from."""
    for seed in range(4):
        made, relations = make(kind, seed, plan=plan, flaw_rate=0.7), []
        for step in made.steps:
            described = parse_scene(step.plan.description)
            relations += said_relation(step.plan, described)
            said = SceneGraph(objects=described.objects, relations=tuple(relations))
            for draft in step.drafts:
                assert draft.inspection == feedback(diff(said, WORLD.detect(draft.image)))
                assert draft.flawed != draft.inspection.accepts


def said_relation(plan: Plan, described: SceneGraph) -> list[Relation]:
    """The relation that an instruction such as "add a blue square right of the red circle" says."""
    found = re.fullmatch(r"add an? (.+) (left of|right of|above|below) the (.+)", plan.instruction)
    if not found:
        return []
    nouns = [one.noun for one in described.objects]
    return [Relation(subject=nouns.index(found[1]), predicate=found[2], object=nouns.index(found[3]))]


def test_relational_plans_say_the_prompts_own_relation():
    for seed in range(10):
        made = make("position", seed)
        (relation,) = parse_scene(made.prompt).relations
        assert f" {INVERSE[relation.predicate]} the " in made.steps[1].plan.instruction


def test_relational_words_name_no_cell():
    assert not any(re.search(r"\b[a-d][1-4]\b", text) for seed in range(10) for text in words(make("counting", seed)))


@pytest.mark.parametrize("plan", ["relational", "located"])
def test_the_worlds_words_cover_all_text(plan):
    known = set(WORLD.words())
    for seed in range(30):
        for text in words(make(KINDS[seed % 6], seed, plan=plan, flaw_rate=1.0)):
            assert set(text.split()) <= known, text


def test_flaws_come_first_and_are_mended():
    for seed in range(12):
        made = make(KINDS[seed % 6], seed, flaw_rate=1.0)
        for step in made.steps:
            assert [draft.flawed for draft in step.drafts] == [True, False]
            assert step.drafts[0].inspection.refine and step.drafts[1].inspection == ACCEPTED
        kinds = [parse_feedback(step.drafts[0].inspection.draft_check) for step in made.steps]
        assert [kind for (kind,) in kinds] == made.meta["flaws"]


def test_without_flaws_every_draft_is_accepted():
    made = make("counting", 1, flaw_rate=0.0)
    assert all(len(step.drafts) == 1 and step.drafts[0].inspection == ACCEPTED for step in made.steps)
    assert made.meta == {
        "kind": "counting",
        "subset": "multi_turn",
        "source": "shapes",
        "split": "train",
        "plan": "relational",
        "flaws": [],
        "operations": ["add"] * len(made.steps),
    }


def test_no_draft_shows_what_is_held_out():
    held_out = {key for key, split in WORLD.split_of.items() if split != "train"}
    for seed in range(30):
        for draft in make(KINDS[seed % 6], seed, flaw_rate=1.0).drafts:
            assert not WORLD.held(WORLD.detect(draft.image), finished=False) & held_out


def test_objects_stay_where_they_were_drawn():
    """Also where the world jitters: places are sampled once."""
    world = ShapesWorld(jitter=2)
    task = shapes_task(world, "counting", np.random.default_rng(1), "train")
    (made,) = multi_turn([task], drawing=shapes_drawing(world))
    for before, after in zip(made.steps, made.steps[1:], strict=False):
        drawn = (before.drafts[-1].image != WORLD.render(SceneGraph(objects=()))).any(-1)
        np.testing.assert_array_equal(after.drafts[-1].image[drawn], before.drafts[-1].image[drawn])


@pytest.mark.parametrize("settings", [{"plan": "spiral"}, {"flaw_rate": 1.5}, {"flaw_rate": -0.1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"expected (one of|0 to 1)"):
        make("colors", 0, **settings)
