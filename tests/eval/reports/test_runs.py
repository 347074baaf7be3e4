"""Run folders: what must be there, what may be, which may stand in one report, and training logs with holes."""

import json
import math
import re
from dataclasses import asdict

import pytest

from brushwork.eval.benchmark import Scale
from brushwork.eval.reports.runs import load_runs, read_curves
from brushwork.eval.scores import SCORES_FILE


def test_a_log_with_holes_and_missing_columns(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/flow,minutes,val/flow\n0,10,1.5,0.5,\n0,20,,,nan\n0,20,,,0.75\n0,30,oops,,\n")
    flow, val = read_curves([path])
    assert (flow.name, flow.points) == ("train/flow", ((10, 0.5, 1.5),))
    assert (val.name, val.points) == ("val/flow", ((20, 0.5, 0.75),)), "minutes are those last seen"


def test_a_log_without_step_and_minutes(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("train/loss\n3\n2\n")
    (loss,) = read_curves([path])
    assert [(step, value) for step, _, value in loss.points] == [(0, 3), (1, 2)]
    assert all(math.isnan(minutes) for _, minutes, _ in loss.points)


def test_the_subfolders_with_verdicts_are_the_arms(tmp_path, run_folder, trajectories):
    for name in ("second", "first"):
        run_folder(tmp_path / name, trajectories[:2])
    (tmp_path / "report").mkdir()
    assert [run.name for run in load_runs(tmp_path)] == ["first", "second"]
    (named,) = load_runs({"mine": tmp_path / "second"})
    assert named.name == "mine" and named.curves == [] and named.num_missing == 0


def test_trajectories_are_found_by_key(tmp_path, run_folder, trajectories):
    (run,) = load_runs({"mine": run_folder(tmp_path, trajectories)})
    found = run.trajectories["007"]
    assert found is not None and found.prompt == trajectories[7].prompt


def test_prompts_that_were_not_drawn_are_counted(tmp_path, run_folder, trajectories, judge):
    from brushwork.eval.score import score

    run_folder(tmp_path, trajectories)
    for path in (tmp_path / "predictions").glob("predictions-00000.*"):
        path.unlink()
    score(tmp_path / "predictions", judge, tmp_path)
    (run,) = load_runs({"mine": tmp_path})
    assert run.num_missing == 5


def test_what_was_scored_is_read_from_beside_the_verdicts(tmp_path, run_folder, trajectories):
    folder = run_folder(tmp_path, trajectories[:2])
    scale = Scale(measure="score", kinds=("a", "b"), overalls={"overall": {"a": 0.5, "b": 0.5}}, num_required=1)
    content = {"format": 1, "benchmark": {"benchmark": "wise"}, "scale": asdict(scale)}
    (folder / SCORES_FILE).write_text(json.dumps(content))
    (run,) = load_runs({"mine": folder})
    assert (run.benchmark, run.scale) == ("wise", scale)
    (folder / SCORES_FILE).unlink()
    (older,) = load_runs({"mine": folder})
    assert (older.benchmark, older.scale) == ("", Scale())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmark": {"benchmark": "wise"}}, "different benchmarks (a: geneval; b: wise)"),
        (
            {"scale": asdict(Scale(measure="score"))},
            "runs a and b are scored on different scales: they differ in measure",
        ),
        (
            {"scale": asdict(Scale(overalls={"equal": {}, "overall": {"a": 1.0}}))},
            "runs a and b are scored on different scales: they differ in overalls",
        ),
    ],
)
def test_runs_of_different_benchmarks_or_scales_are_not_mixed(tmp_path, run_folder, trajectories, change, message):
    scale = asdict(Scale(overalls={"overall": {"a": 1.0}, "equal": {}} if "overalls" in message else {"overall": {}}))
    told = {"benchmark": {"benchmark": "geneval"}, "scale": scale}
    for name, content in {"a": told, "b": told | change}.items():
        run_folder(tmp_path / name, trajectories[:1])
        (tmp_path / name / SCORES_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_runs(tmp_path)


def test_missing_runs_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="lightning test"):
        load_runs(tmp_path)
    with pytest.raises(FileNotFoundError, match="lightning test"):
        load_runs({"a": tmp_path})
    with pytest.raises(ValueError, match="no runs"):
        load_runs({})


def test_the_logs_of_an_interrupted_run_are_joined(tmp_path):
    paths = [tmp_path / name for name in ("a.csv", "b.csv")]
    paths[0].write_text("step,minutes,train/loss\n10,1,3\n")
    paths[1].write_text("step,minutes,train/loss\n20,2,2\n")
    (loss,) = read_curves(paths)
    assert loss.points == ((10, 1, 3), (20, 2, 2))
