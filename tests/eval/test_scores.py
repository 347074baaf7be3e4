"""Verdicts on a scale: kinds, weights, what is missing, and what an interval speaks of."""

import math

import pytest

from brushwork.eval.benchmark import Scale
from brushwork.eval.scores import aggregate, read_scale, read_scores, scores_json
from brushwork.eval.statistics import mean_score, wilson
from brushwork.eval.verdicts import ScoredTrajectory


def row(kind: str, value: float | None, prompt: str = "a prompt") -> ScoredTrajectory:
    passed = None if value is None else value == 1
    why = "no reply" if value is None else None
    return ScoredTrajectory(
        key="k", prompt=prompt, kind=kind, seed=0, passed=passed, score=value, reason="", judge="j", failure=why
    )


def test_the_plain_scale_is_the_mean_of_the_kinds_and_not_of_the_rows():
    scores = aggregate([row("a", 1.0), row("a", 0.0), row("a", 0.0), row("a", 0.0), row("b", 1.0)], Scale())
    assert scores.overalls["overall"].estimate == (0.25 + 1) / 2
    assert scores.kinds == {"a": wilson(1, 4), "b": wilson(1, 1)}
    assert scores.judged.estimate == 0.4 and scores.num_unjudged == 0


def test_weights_and_equal_weights_stand_together():
    overalls = {"overall": {"a": 0.9, "b": 0.1}, "overall (equal weights)": {}}
    scale = Scale(measure="score", kinds=("b", "a"), overalls=overalls)
    scores = aggregate([row("a", 0.5), row("b", 0.25)], scale)
    assert list(scores.kinds) == ["b", "a"]
    assert scores.overalls["overall"].estimate == pytest.approx(0.475)
    assert scores.overalls["overall (equal weights)"].estimate == 0.375


@pytest.mark.parametrize(("required", "asked", "known"), [(1, 2, True), (1, 3, False), (0, 3, True), (1000, 2, False)])
def test_a_scale_that_requires_prompts_gives_no_overall_where_some_are_missing(required, asked, known):
    scale = Scale(measure="score", overalls={"overall": {"a": 0.5, "b": 0.5}}, num_required=required)
    scores = aggregate([row("a", 0.5), row("b", 0.25)], scale, num_asked=asked)
    assert math.isnan(scores.overalls["overall"].estimate) != known
    assert scores.judged.estimate == 0.375 and scores.num_unjudged == asked - 2


def test_a_weighted_kind_that_was_not_judged_leaves_no_overall():
    scale = Scale(measure="score", overalls={"overall": {"a": 0.5, "b": 0.5}, "equal": {}})
    scores = aggregate([row("a", 0.5), row("b", None)], scale)
    assert math.isnan(scores.overalls["overall"].estimate)
    assert scores.overalls["equal"].estimate == 0.5 and scores.num_unjudged == 1


def test_pictures_of_one_prompt_are_one_observation_of_the_interval():
    rows = [row("a", value, prompt) for prompt, value in (("p", 1.0), ("q", 0.0), ("r", 1.0)) for _ in range(4)]
    by_row, by_prompt = aggregate(rows, Scale()).kinds["a"], aggregate(rows, Scale(unit="prompt")).kinds["a"]
    assert by_row.estimate == by_prompt.estimate and by_prompt.num == 12
    assert (by_prompt.low, by_prompt.high) == (mean_score([1.0, 0.0, 1.0]).low, mean_score([1.0, 0.0, 1.0]).high)
    assert by_prompt.low < by_row.low
    uneven = aggregate([*rows, row("a", 0.0, "q")], Scale(unit="prompt")).kinds["a"]
    assert uneven.estimate == 8 / 13, "the mean is over pictures, as in the official scripts"


def test_the_scale_comes_back_and_nan_is_null():
    scale = Scale(measure="score", unit="prompt", kinds=("a", "b"), overalls={"o": {"a": 1.0}}, num_required=1)
    written = scores_json(aggregate([row("a", None)], scale), scale)
    assert read_scale(written) == scale
    assert written["scores"]["overalls"]["o"]["estimate"] is None and written["scores"]["num_unjudged"] == 1
    assert read_scale({}) == Scale()
    with pytest.raises(ValueError, match="unknown scale"):
        read_scale({"scale": {"colour": 3}})


def test_an_older_run_has_no_scores(tmp_path):
    assert read_scores(tmp_path) == {}


def test_damaged_scores_are_named(tmp_path):
    for text in ("{", "[]"):
        (tmp_path / "scores.json").write_text(text)
        with pytest.raises(ValueError, match=r"scores\.json.*score the predictions again"):
            read_scores(tmp_path)
