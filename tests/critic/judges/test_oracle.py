"""The exact judge: passes, fails, and says when it cannot judge."""

from functools import partial

import numpy as np
import pytest

from brushwork.critic.judges.oracle import OracleJudge
from brushwork.critic.scene import parse_scene
from brushwork.critic.verdict import JudgeFailure, Verdict

BLANK = np.zeros((4, 4, 3), dtype=np.uint8)


def judge(seen: str) -> OracleJudge:
    """A judge to whom every image shows this scene."""
    return OracleJudge(detect=lambda image: parse_scene(seen))


@pytest.mark.parametrize(
    ("prompt", "seen", "reason", "score"),
    [
        ("a circle left of a ring", "a red circle at a1 and a red ring at c4", "the picture shows the prompt", 1.0),
        ("a red circle at a1", "a red circle at b1", "the red circle should be at a1", 0.5),
        ("a circle", "a circle at a1 and a ring at a2 and a ring at a3", "there is an extra ring", 1 / 3),
    ],
)
def test_verdicts(prompt, seen, reason, score):
    verdict = judge(seen)(prompt, BLANK)
    assert verdict == Verdict(passed=score == 1, score=score, reason=reason, judge="oracle/1")


def test_an_unreadable_prompt_is_a_failure_not_a_zero():
    answer = judge("a circle at a1")("a banana", BLANK)
    assert isinstance(answer, JudgeFailure) and "'banana'" in answer.reason


def test_another_grid_is_read_and_tolerated():
    coarse = partial(parse_scene, grid=2)
    answer = OracleJudge(detect=lambda image: parse_scene("a ring at b2", grid=3), parse=coarse, grid=2)(
        "a ring at b2", BLANK
    )
    assert answer.passed, "half a cell of the coarse grid covers the distance"
