"""The oracles in the model's place: they say what the training data say, and it leads to the right picture."""

import numpy as np
import pytest

from brushwork.critic.entailment import contradictions, planned_scene
from brushwork.critic.judges.oracle import OracleJudge
from brushwork.critic.scene import diff, parse_scene
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.drawing import PLAN_STYLES, shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn, plans_of
from brushwork.data.worlds.oracle_partners import OracleInspector, OraclePlanner
from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, OOD_KINDS, SPLITS, ShapesWorld
from brushwork.tokens.grammar import inspection_ids, plan_ids
from brushwork.tokens.roles import Inspector, NoAnswer, Planner
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import WordVocabulary

WORLD = ShapesWorld()
VOCABULARY = WordVocabulary(WORLD.words())
JUDGE = OracleJudge(detect=WORLD.detect)
BLANK = np.zeros((32, 32, 3), dtype=np.uint8)
INSPECT = OracleInspector(world=WORLD)


def prompts(kind: str, number: int = 6) -> list[str]:
    """Prompts of every split."""
    splits = [SPLITS[index % 3] for index in range(number)]
    return [WORLD.sample(kind, np.random.default_rng(seed), split)[0] for seed, split in enumerate(splits)]


def planned(planner: Planner, prompt: str, before: list[Plan] | None = None) -> list[Plan]:
    """All plans, those before included."""
    steps = [Step(plan=plan, drafts=(Draft(image=BLANK),)) for plan in before or []]
    while (plan := planner(prompt, steps)) is not None:
        assert isinstance(plan, Plan), plan
        assert len(steps) < 9, "it does not end"
        steps.append(Step(plan=plan, drafts=()))
    return plans_of(steps)


def plan(instruction: str, description: str | None = None) -> Plan:
    return Plan(instruction=instruction, description=description or instruction.removeprefix("add "))


def data(kind: str, seed: int, style: str, flaw_rate: float = 0.0) -> Trajectory:
    task = shapes_task(WORLD, kind, np.random.default_rng(seed), "train")
    (made,) = multi_turn([task], drawing=shapes_drawing(WORLD, plan=style), flaw_rate=flaw_rate)
    assert isinstance(made, Trajectory)
    return made


# Planner


@pytest.mark.parametrize("style", PLAN_STYLES)
@pytest.mark.parametrize("kind", KINDS + HARD_KINDS)
def test_plans_are_those_of_the_training_data_and_lead_to_the_right_picture(kind, style):
    planner = OraclePlanner(world=WORLD, plan=style)
    assert isinstance(planner, Planner)
    for prompt in prompts(kind):
        plans = planned(planner, prompt)
        wanted = parse_scene(prompt)
        for number, one in enumerate(plans, start=1):
            described = parse_scene(one.description)
            assert [each.name for each in described.objects] == [each.name for each in wanted.objects[:number]]
            plan_ids(one, VOCABULARY)
        (made,) = multi_turn([planner.task(prompt)], drawing=shapes_drawing(WORLD, plan=style))
        assert plans_of(made.steps) == plans
        for number, draft in enumerate(made.drafts, start=1):
            assert INSPECT(prompt, plans[:number], draft.image).accepts, "each picture shows the plans so far"
        assert JUDGE(prompt, made.final_image).passed


def test_what_is_open_depends_on_prompt_and_seed_alone():
    planner = OraclePlanner(world=WORLD)
    assert planned(planner, "two rings") == planned(OraclePlanner(world=ShapesWorld()), "two rings")
    others = {tuple(planned(OraclePlanner(world=WORLD, seed=seed), "two rings")) for seed in range(8)}
    assert len(others) > 4 and len({planner.plans(f"{number} rings")[0] for number in ("two", "three", "four")}) > 1


def test_as_many_objects_as_training_never_shows_are_planned_all_the_same():
    for seed in range(3):
        prompt, _ = WORLD.sample(OOD_KINDS[0], np.random.default_rng(seed), "test")
        plans = planned(OraclePlanner(world=WORLD), prompt)
        assert len(plans) == 5 and not contradictions(parse_scene(prompt), planned_scene(plans), finished=True)


def test_the_ends_of_a_chain_first_and_its_middle_between_them():
    """The middle one would be said to stand in two relations, of which a plan says one: the other end moves."""
    before = [plan("add a red ring"), plan("add a blue tee", "a red ring and a blue tee")]
    plans = planned(OraclePlanner(world=WORLD), "a ring left of an arch above a tee", before)
    assert plans[:2] == before and len(plans) == 5
    assert not contradictions(parse_scene("a ring left of an arch above a tee"), planned_scene(plans), finished=True)


def test_more_objects_than_steps_share_them():
    plans = planned(OraclePlanner(world=WORLD, max_steps=2), "four circles")
    assert [one.instruction.count("add ") for one in plans] == [2, 2]


@pytest.mark.parametrize("style", PLAN_STYLES)
@pytest.mark.parametrize("kind", ["two_objects", "counting", "position", "color_attribution", *HARD_KINDS])
def test_it_goes_on_after_plans_of_others(kind, style):
    """The first plans are the data's, whose colours and places are not those that the planner would choose."""
    planner = OraclePlanner(world=WORLD, plan=style)
    for seed in range(4):
        made = data(kind, seed, style)
        before = plans_of(made.steps)[:1]
        plans = planned(planner, made.prompt, before)
        assert plans[:1] == before
        scene, wanted = planned_scene(plans), parse_scene(made.prompt)
        assert not diff(wanted, scene), plans
        if plans[1].instruction.startswith("add "):  # else there was no room left where the prompt wants the second
            assert len(plans) == len(made.steps)
        assert planned(planner, made.prompt, plans_of(made.steps)) == plans_of(made.steps), "nothing to add"


@pytest.mark.parametrize(
    ("prompt", "before", "following"),
    [
        (
            "a blue circle",
            [plan("add a red circle")],
            [plan("make the red circle blue", "a blue circle")],
        ),
        (
            "a circle",
            [plan("add a red square")],
            [plan("replace the red square with a red circle", "a red circle")],
        ),
        (
            "a circle",
            [plan("add a red circle"), plan("add a blue ring", "a red circle and a blue ring")],
            [plan("remove the blue ring", "a red circle")],
        ),
        (
            "a blue circle",
            [plan("add a red ring")],
            [plan("remove the red ring and add a blue circle", "a blue circle")],
        ),
    ],
)
def test_it_mends_what_contradicts_the_prompt(prompt, before, following):
    assert planned(OraclePlanner(world=WORLD), prompt, before) == [*before, *following]


def test_a_thing_in_the_wrong_place_is_added_anew():
    before = [
        plan("add a red circle"),
        plan("add a blue square left of the red circle", "a red circle and a blue square"),
    ]
    remove, add = planned(OraclePlanner(world=WORLD), "a circle left of a square", before)[2:]
    assert remove == plan("remove the red circle", "a blue square")
    assert add.instruction.startswith("add a ") and add.instruction.endswith("circle left of the blue square")


def test_where_there_is_no_room_it_begins_anew():
    before = [plan("add a red circle at d3")]
    plans = planned(OraclePlanner(world=WORLD, plan="located"), "a circle left of a square", before)
    assert plans[1].instruction.startswith("remove the red circle and add a ")
    assert not diff(parse_scene("a circle left of a square"), planned_scene(plans))


@pytest.mark.parametrize(
    ("prompt", "before", "reason"),
    [
        ("a dog", [], "'dog' in 'a dog' is none of the words known"),
        ("seven circles", [], "no picture of 'seven circles'"),
        ("two red circles", [], "no picture of 'two red circles'"),
        ("a red ring at b3 and a cross at b3", [], "each in a cell of its own"),
        ("a circle", [plan("add a banana")], "'banana'"),
        ("a circle", [plan("add rings", "nine red rings and nine blue rings")], "18 things are planned"),
    ],
)
def test_what_it_cannot_plan_it_says(prompt, before, reason):
    answer = OraclePlanner(world=WORLD)(prompt, [Step(plan=one, drafts=()) for one in before])
    assert isinstance(answer, NoAnswer) and reason in answer.reason


def test_located_plans_do_not_go_on_from_relational_ones():
    answer = OraclePlanner(world=WORLD, plan="located")("two rings", [Step(plan=plan("add a red ring"), drafts=())])
    assert isinstance(answer, NoAnswer) and "name no cells" in answer.reason


def test_settings_are_checked():
    with pytest.raises(ValueError, match="max_steps is 0"):
        OraclePlanner(max_steps=0)
    with pytest.raises(ValueError, match="plan='sideways'"):
        OraclePlanner(plan="sideways")


# Inspector


@pytest.mark.parametrize("style", PLAN_STYLES)
@pytest.mark.parametrize("kind", KINDS + HARD_KINDS)
def test_inspections_are_those_of_the_training_data(kind, style):
    flawed = 0
    for seed in range(4):
        made = data(kind, seed, style, flaw_rate=0.7)
        for number, step in enumerate(made.steps, start=1):
            for draft in step.drafts:
                said = INSPECT(made.prompt, plans_of(made.steps[:number]), draft.image)
                assert said == draft.inspection and said.accepts != draft.flawed
                inspection_ids(said, VOCABULARY)
                flawed += draft.flawed
    assert flawed and isinstance(INSPECT, Inspector)


def test_without_plans_the_prompt_is_what_is_wanted():
    image = WORLD.render(parse_scene("a red circle at a1"))
    assert INSPECT("a red circle", (), image) == Inspection(draft_check="the draft shows the plan")
    assert INSPECT("a blue circle", (), image) == Inspection(
        draft_check="the red circle should be blue", refine="make the red circle blue"
    )


def test_it_can_check_plans_too():
    inspect, before = OracleInspector(world=WORLD, check_plan=True), [plan("add a red circle")]
    image = WORLD.render(parse_scene("a red circle at a1"))
    assert inspect("a red circle and a ring", before, image) == Inspection(
        plan_check="the plan fits the prompt", draft_check="the draft shows the plan"
    )
    assert inspect("a blue circle", before, image) == Inspection(
        plan_check="the prompt asks for a blue circle", refine="make the red circle blue"
    )
    assert contradictions(parse_scene("a blue circle"), planned_scene(before), finished=False)
    assert inspect("a red circle", (), image).plan_check == ""


@pytest.mark.parametrize(
    ("prompt", "plans", "reason"),
    [
        ("a dog", (), "'dog'"),
        ("a circle", [plan("add a banana")], "'banana'"),
        ("nine red rings and nine blue rings", (), "18 cannot be compared"),
    ],
)
def test_what_it_cannot_inspect_it_says(prompt, plans, reason):
    answer = INSPECT(prompt, plans, BLANK)
    assert isinstance(answer, NoAnswer) and reason in answer.reason


def test_a_picture_of_another_world_is_misuse():
    with pytest.raises(ValueError, match="the image has shape"):
        INSPECT("a circle", (), np.zeros((64, 64, 3), dtype=np.uint8))
