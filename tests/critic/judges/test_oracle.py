"""The exact judge: passes, fails, and says when it cannot judge."""

import json
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
    assert isinstance(verdict, Verdict)
    assert (verdict.passed, verdict.score, verdict.reason, verdict.judge) == (score == 1, score, reason, "oracle/1")


@pytest.mark.parametrize(
    ("seen", "unfinished"),
    [
        ("a red circle at a1 and a ring at a2 and a ring at a3", False),  # all there
        ("a red circle at a1 and a ring at a2", True),  # one of two rings
        ("a ring at a2", True),
        ("a blue circle at a1 and a ring at a2", False),  # wrong, too
        ("a red circle at a1 and a cross at a2", False),
    ],
)
def test_what_is_only_missing_is_unfinished(seen, unfinished):
    assert judge(seen)("a red circle and two rings", BLANK).unfinished == unfinished


def test_details_list_the_discrepancies_as_json():
    details = judge("a blue circle at a1 and a cross at d4")("a red circle and a ring left of a square", BLANK).details
    assert json.loads(json.dumps(details)) == {
        "discrepancies": [
            {
                "kind": "color",
                "wanted": "red circle",
                "seen": "blue circle",
                "check": "the blue circle should be red",
            },
            {"kind": "shape", "wanted": "ring", "seen": "cross", "check": "the cross should be a ring"},
            {"kind": "missing", "wanted": "square", "seen": None, "check": "the square is missing"},
        ]
    }
    assert judge("a ring at a1")("a ring", BLANK).details == {"discrepancies": []}


def test_an_unreadable_prompt_is_a_failure_not_a_zero():
    answer = judge("a circle at a1")("a banana", BLANK)
    assert isinstance(answer, JudgeFailure) and "'banana'" in answer.reason


def test_another_grid_is_read_and_tolerated():
    coarse = partial(parse_scene, grid=2)
    answer = OracleJudge(detect=lambda image: parse_scene("a ring at b2", grid=3), parse=coarse, grid=2)(
        "a ring at b2", BLANK
    )
    assert answer.passed, "half a cell of the coarse grid covers the distance"
