"""Who reads the process, held against plans and drafts whose flaws were planted and scenes made by hand."""

from collections.abc import Sequence
from dataclasses import replace

import hydra
import numpy as np
import pytest

from brushwork.critic.judges.oracle import OraclePlanCritic
from brushwork.critic.scene import SceneGraph, SceneObject, parse_scene
from brushwork.critic.verdict import JudgeFailure, PlanVerdict, Verdict
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.worlds.shapes import KINDS
from brushwork.eval.process_judges import DescriptionJudge, OraclePlanJudge, ProcessJudges, count_survivors
from brushwork.tokens.trajectory import Draft, Plan, Step, Trajectory

BLANK = np.zeros((4, 4, 3), dtype=np.uint8)
HALF_A_CELL = 0.125


@pytest.mark.parametrize("style", ["relational", "located"])
def test_finds_exactly_the_planted_flaws(world, plan_judge, style):
    rng, flawed = np.random.default_rng(1), 0
    for number in range(120):
        kind = KINDS[number % len(KINDS)]
        task = shapes_task(world, kind, rng, "test")
        (trajectory,) = multi_turn([task], drawing=shapes_drawing(world, plan=style), flaw_rate=0.5)
        plans = []
        for step in trajectory.steps:
            plans.append(step.plan)
            for draft in step.drafts:
                verdict = plan_judge(plans, draft.image)
                assert isinstance(verdict, Verdict) and verdict.passed == (not draft.flawed)
                assert verdict.reason == draft.inspection.draft_check
                flawed += draft.flawed
    assert flawed > 50


@pytest.mark.parametrize(("description", "reason"), [("red a circle", "red"), ("nine rings and nine circles", "18")])
def test_plans_that_cannot_be_compared_are_a_failure(world, plan_judge, description, reason):
    image = world.render(world.sample("colors", np.random.default_rng(0), "test")[1])
    plans = [Plan(instruction="add a red circle", description=description)]
    verdict = plan_judge(plans, image)
    assert isinstance(verdict, JudgeFailure) and reason in verdict.reason
    judges = ProcessJudges(plan_judge=plan_judge, detect=world.detector)
    assert judges.shows(plans, image) == (None, verdict.reason)
    assert judges.survival(plans, image, image) is None


def test_any_judge_can_judge_descriptions(world, judge):
    prompt, scene = world.sample("color_attribution", np.random.default_rng(0), "test")
    plans = [Plan(instruction="", description="three rings"), Plan(instruction="", description=prompt)]
    assert DescriptionJudge(judge=judge)(plans, world.render(scene)).passed
    assert not DescriptionJudge(judge=judge)(plans[:1], world.render(scene)).passed


def test_without_readers_nothing_is_measured():
    plans, judges = [Plan(instruction="", description="a ring")], ProcessJudges()
    assert judges.plans(planned("a ring", "a ring")) == ()
    assert judges.shows(plans, BLANK) == (None, "")
    assert judges.survival(plans, BLANK, BLANK) is None


def test_without_plans_nothing_is_asked(world, plan_judge):
    judges = ProcessJudges(plan_judge=plan_judge, plan_critic=OraclePlanCritic(), detect=world.detector)
    single_pass = Trajectory(key="k", prompt="a ring", steps=(Step(plan=None, drafts=(Draft(image=BLANK),)),))
    assert judges.plans(single_pass) == ()
    assert judges.shows([], BLANK) == (None, "")
    assert judges.survival([], BLANK, BLANK) is None


# Plans and prompt


def planned(prompt: str, *descriptions: str, stopped: str = "end") -> Trajectory:
    """A trajectory that describes its scene like this, step by step."""
    steps = tuple(Step(plan=Plan(instruction="", description=one), drafts=()) for one in descriptions)
    return Trajectory(key="k", prompt=prompt, steps=steps, meta={"stopped": stopped})


def consistency(trajectory: Trajectory) -> list[bool | None]:
    return [one.consistent for one in ProcessJudges(plan_critic=OraclePlanCritic()).plans(trajectory)]


def test_plans_are_read_up_to_the_first_contradiction():
    prompt = "a red circle and a ring"
    assert consistency(planned(prompt, "a ring", "a ring and a red circle")) == [True, True]
    strays = planned(prompt, "a ring", "a ring and a blue circle", "a ring and a blue circle")
    scored = ProcessJudges(plan_critic=OraclePlanCritic()).plans(strays)
    assert [one.consistent for one in scored] == [True, False, None]
    assert "red circle" in scored[1].reason and scored[0].reason == scored[2].reason == ""


def test_steps_without_a_plan_keep_their_numbers():
    whole = planned("a red circle", "a red circle", "a blue circle")
    first, second = whole.steps
    gap = replace(whole, steps=(first, Step(plan=None, drafts=()), second))
    scored = ProcessJudges(plan_critic=OraclePlanCritic()).plans(gap)
    assert [(one.step, one.consistent) for one in scored] == [(0, True), (2, False)]


def test_what_a_cut_off_trajectory_leaves_out_is_not_held_against_it():
    prompt, said = "a red circle and a ring", "a red circle"
    assert consistency(planned(prompt, said)) == [False], "it ended there"
    assert consistency(planned(prompt, said, said, stopped="max_images")) == [True, None]
    assert consistency(planned(prompt, "a blue ring", said, stopped="max_images"))[1] is None


def test_a_critic_that_fails_knows_nothing_of_any_plan():
    scored = ProcessJudges(plan_critic=OraclePlanCritic()).plans(planned("a banana", "a ring", "two rings"))
    assert [one.consistent for one in scored] == [None, None]
    assert all("banana" in one.reason for one in scored)


def test_contradictions_are_where_the_critic_says():
    def critic(prompt: str, plans: Sequence[Plan]) -> PlanVerdict:
        return PlanVerdict(step=0, analysis="all wrong", refine="start again", judge="stern/1")

    scored = ProcessJudges(plan_critic=critic).plans(planned("a ring", "a ring", "a ring"))
    assert [(one.consistent, one.reason) for one in scored] == [(False, "all wrong"), (None, "")]


# What stands from draft to draft


def survivors(wanted: str, before: str, after: str) -> tuple[int, int]:
    return count_survivors(*map(parse_scene, (wanted, before, after)), tolerance=HALF_A_CELL)


RED_AND_RING = "a red circle at a1 and a blue ring at c3"


@pytest.mark.parametrize(
    ("wanted", "after", "counts"),
    [
        ("a red circle and a blue ring", RED_AND_RING, (2, 2)),
        ("a red circle and a blue ring", "a red circle at b1 and a blue ring at c3", (2, 1)),  # moved
        ("a red circle and a blue ring", "a blue ring at c3", (2, 1)),  # lost
        ("a red circle and a blue ring", "a green circle at a1 and a blue ring at c3", (2, 1)),  # recoloured
        ("a red circle and a blue ring", "a red square at a1 and a blue ring at c3", (2, 1)),  # another shape
        ("a red circle and a blue ring", "a red circle at c3 and a blue ring at a1", (2, 0)),  # changed places
        ("a red circle and a blue ring and a cross", f"{RED_AND_RING} and a red cross at d4", (2, 2)),  # added
        ("a red circle and a blue ring and a cross", "a red circle at a1 and a red cross at c3", (2, 1)),  # drawn over
        ("a blue ring", "a blue ring at c3", (1, 1)),  # removed by the plan
        ("a blue ring", RED_AND_RING, (1, 1)),  # to be removed, and left
        ("a green square and a blue ring", "a green square at a1 and a blue ring at c3", (1, 1)),  # swapped by the plan
        ("a green circle and a blue ring", "a green circle at a1 and a blue ring at c3", (1, 1)),  # recoloured by it
        ("a red circle at d4 and a blue ring", "a red circle at d4 and a blue ring at c3", (1, 1)),  # moved by it
        (
            "a red circle right of a blue ring",
            "a red circle at d1 and a blue ring at c3",
            (1, 1),
        ),  # moved by a relation
        ("a red circle left of a blue ring", "a red circle at d1 and a blue ring at c3", (2, 1)),  # moved for nothing
    ],
)
def test_what_the_plans_still_want_is_to_stay(wanted, after, counts):
    assert survivors(wanted, RED_AND_RING, after) == counts


def test_equal_objects_are_matched_one_to_one():
    two = "a red ring at a1 and a red ring at b1"
    assert survivors("two red rings", two, two) == (2, 2)
    assert survivors("two red rings", two, "a red ring at a1 and a red ring at d4") == (2, 1)
    assert survivors("two red rings", two, "a red ring at a1") == (2, 1)
    between = SceneGraph(objects=(SceneObject(name="ring", color="red", x=0.25, y=0.125),))  # half a cell from both
    assert count_survivors(parse_scene("two red rings"), parse_scene(two), between, tolerance=HALF_A_CELL) == (2, 1)


def test_as_many_as_possible_are_matched():
    """The first could take either place, the second one alone."""
    row = [SceneObject(name="ring", color="red", x=x, y=0.5) for x in (0.4, 0.5, 0.45, 0.35)]
    before, after = SceneGraph(objects=(row[0], row[1])), SceneGraph(objects=(row[2], row[3]))
    assert count_survivors(parse_scene("two red rings"), before, after, tolerance=0.06) == (2, 2)


@pytest.mark.parametrize("lost", ["a1", "b2", "c3"])
def test_where_one_of_three_has_to_go_those_that_stay_are_meant(lost):
    cells = ["a1", "b2", "c3"]
    before = " and ".join(f"a red ring at {cell}" for cell in cells)
    after = " and ".join(f"a red ring at {cell}" for cell in cells if cell != lost)
    assert survivors("two red rings", before, after) == (2, 2)
    assert survivors("two rings", before, f"a red ring at {lost}") == (2, 1)


def test_nothing_drawn_has_nothing_to_lose():
    nothing = SceneGraph(objects=())
    assert count_survivors(parse_scene("a ring"), nothing, nothing, tolerance=HALF_A_CELL) == (0, 0)
    assert count_survivors(parse_scene("a ring"), nothing, parse_scene("a ring at a1"), tolerance=HALF_A_CELL) == (0, 0)
    assert count_survivors(parse_scene("a ring"), parse_scene("a ring at a1"), nothing, tolerance=HALF_A_CELL) == (1, 0)


@pytest.mark.parametrize("style", ["relational", "located"])
def test_the_builder_keeps_what_its_plans_keep(world, style):
    """Flawed drafts and their refinements included: what is mended was not to stay."""
    judges, rng, stood = ProcessJudges(detect=world.detector), np.random.default_rng(2), 0
    for number in range(60):
        task = shapes_task(world, KINDS[number % len(KINDS)], rng, "test")
        (trajectory,) = multi_turn([task], drawing=shapes_drawing(world, plan=style), flaw_rate=0.5)
        before, plans = None, []
        for step in trajectory.steps:
            plans.append(step.plan)
            for draft in step.drafts:
                if before is not None and not draft.flawed:
                    number_stood, survived = judges.survival(plans, before, draft.image)
                    assert number_stood == survived, (plans, number)
                    stood += number_stood
                before = draft.image
    assert stood > 50


# The configs


def test_the_config_of_the_embedded_world():
    with hydra.initialize_config_module("brushwork.trainer.configs", version_base="1.3"):
        overrides = ["process=shapes", "+process.detect.canvas=64"]
        judges = hydra.utils.instantiate(hydra.compose("test", overrides=overrides).process)
    assert judges.plan_judge == OraclePlanJudge(detect=judges.detect)
    assert judges.plan_critic == OraclePlanCritic()
    assert judges.detect.canvas == 64, "one detector reads drafts for both"
