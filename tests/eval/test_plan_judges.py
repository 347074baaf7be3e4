"""The truth behind the step-level metrics, held against drafts whose flaws were planted."""

import numpy as np
import pytest

from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.worlds.shapes import KINDS
from brushwork.eval.plan_judges import DescriptionJudge
from brushwork.tokens.trajectory import Plan


@pytest.mark.parametrize("style", ["relational", "located"])
def test_finds_exactly_the_planted_flaws(world, plan_judge, style):
    rng, flawed = np.random.default_rng(1), 0
    for number in range(120):
        kind = KINDS[number % len(KINDS)]
        trajectory = multi_turn(world, kind, rng, split="test", plan=style, flaw_rate=0.5, key="k")
        plans = []
        for step in trajectory.steps:
            plans.append(step.plan)
            for draft in step.drafts:
                verdict = plan_judge(plans, draft.image)
                assert isinstance(verdict, Verdict) and verdict.passed == (not draft.flawed)
                assert verdict.reason == draft.inspection.draft_check
                flawed += draft.flawed
    assert flawed > 50


def test_relations_that_cannot_be_checked_are_left_out(world, plan_judge):
    objects = world.sample("color_attribution", np.random.default_rng(0), "test")[1].objects
    for instruction in ("", "do as you like", "add a ring left of the moon", "add a red ring left of the red ring"):
        assert plan_judge.said(instruction, objects) == []


def test_unreadable_description_is_a_failure(world, plan_judge):
    image = world.render(world.sample("colors", np.random.default_rng(0), "test")[1])
    verdict = plan_judge([Plan(instruction="add a red circle", description="red a circle")], image)
    assert isinstance(verdict, JudgeFailure)


def test_any_judge_can_judge_descriptions(world, judge):
    prompt, scene = world.sample("color_attribution", np.random.default_rng(0), "test")
    plans = [Plan(instruction="", description="three rings"), Plan(instruction="", description=prompt)]
    assert DescriptionJudge(judge=judge)(plans, world.render(scene)).passed
    assert not DescriptionJudge(judge=judge)(plans[:1], world.render(scene)).passed
