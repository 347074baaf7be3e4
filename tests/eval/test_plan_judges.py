"""The truth behind the step-level metrics, held against drafts whose flaws were planted."""

import numpy as np
import pytest

from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.worlds.shapes import KINDS
from brushwork.eval.plan_judges import DescriptionJudge
from brushwork.tokens.trajectory import Plan


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


def test_unreadable_description_is_a_failure(world, plan_judge):
    image = world.render(world.sample("colors", np.random.default_rng(0), "test")[1])
    verdict = plan_judge([Plan(instruction="add a red circle", description="red a circle")], image)
    assert isinstance(verdict, JudgeFailure)


def test_any_judge_can_judge_descriptions(world, judge):
    prompt, scene = world.sample("color_attribution", np.random.default_rng(0), "test")
    plans = [Plan(instruction="", description="three rings"), Plan(instruction="", description=prompt)]
    assert DescriptionJudge(judge=judge)(plans, world.render(scene)).passed
    assert not DescriptionJudge(judge=judge)(plans[:1], world.render(scene)).passed
