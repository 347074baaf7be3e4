"""A run's summary: written and read again, small, without places of the machine, and refused where it is none."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brushwork.eval.process import process_metrics
from brushwork.eval.reports.run_summary import (
    Answers,
    expanded,
    portable,
    ranges,
    read_summary,
    summarise_run,
    summary_path,
    to_json,
    write_summary,
)
from brushwork.eval.reports.runs import load_run
from brushwork.eval.verdicts import ScoredDraft, ScoredTrajectory, write_verdicts

METRICS = """epoch,minutes,speed/images_per_second,speed/step_seconds,speed/tokens_per_second,step,train/loss,val/loss
0,0.5,10,0.5,2000,24,2.5,
0,1.0,10,0.5,4000,49,1.5,
0,,,,,49,,1.25
"""
CONFIG = {
    "model": {"_target_": "brushwork.flow.checkpoint.from_pretrained", "source": "mini_base"},
    "finetune": {"_target_": "brushwork.flow.adapters.train_all"},
    "data": {
        "folder": "/mnt/data/multi_turn",
        "more": ["outputs/data/conflict"],
        "view": {"_target_": "views.process"},
    },
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory, run_folder, trajectories) -> Path:
    """A trained run, `all_subsets/seed-3`, and a strategy that draws with its model, `best_of_2/seed-3`."""
    folder = tmp_path_factory.mktemp("studies")
    run = run_folder(folder / "all_subsets" / "seed-3", trajectories)
    (run / "model").mkdir()
    (run / "model" / "made_by.json").write_text(json.dumps({"config": CONFIG, "steps": 50, "commit": "abc"}))
    (run / "logs" / "version_0").mkdir(parents=True)
    (run / "logs" / "version_0" / "metrics.csv").write_text(METRICS)
    (run / "fit.yaml").write_text("trainer:\n  max_steps: 50\n")
    strategy = run_folder(folder / "best_of_2" / "seed-3", trajectories)
    scores = json.loads((strategy / "scores.json").read_text())
    scores["sampler"] = {"model": str(run / "model"), "num_steps": 10}
    (strategy / "scores.json").write_text(json.dumps(scores))
    return folder


@pytest.fixture(scope="module")
def summary(studies):
    return summarise_run(load_run("all_subsets", studies / "all_subsets" / "seed-3"), 3)


def test_it_comes_back_as_it_was(summary, tmp_path):
    path = write_summary(summary, tmp_path)
    assert path == summary_path(tmp_path, "all_subsets", 3) == tmp_path / "all_subsets" / "seed-3.json"
    assert read_summary(path) == summary
    assert to_json(read_summary(path)) == path.read_text()
    assert [file.name for file in path.parent.iterdir()] == [path.name], "nothing else is left there"


def test_it_says_what_the_verdicts_say(summary, studies):
    rows = load_run("all_subsets", studies / "all_subsets" / "seed-3").rows
    passed = {key: passed for answers in summary.answers.values() for (key, _), passed in answers.passed.items()}
    assert passed == {row.key: row.passed for row in rows}
    assert summary.num_prompts == len(rows) and summary.distinct_prompts == len({row.prompt for row in rows})
    inspection = process_metrics(rows)["inspection"]
    assert inspection["wrong"] > 0 and summary.process["inspection"]["wrong"] == inspection["wrong"]
    assert summary.costs["seconds"]["mean"] == 0.5 and summary.costs["denoise_steps"]["total"] == 30 * len(rows)
    assert sum(number * count for number, count in enumerate(summary.rounds, 1)) == sum(row.rounds for row in rows)
    assert summary.origin["test"]["machine"]["torch"]


def test_the_training_is_told(summary):
    told = summary.training
    assert (told["run"], told["steps"], told["minutes"], told["base"]) == ("all_subsets/seed-3", 50, 1, "mini_base")
    assert told["tokens"] == 25 * 0.5 * (2000 + 4000) and told["images"] == 250
    assert told["validation"] == {"val/loss": 1.25} and told["commit"] == "abc"
    assert told["data"] == ["multi_turn", "outputs/data/conflict"], "no place of the machine"


def test_a_strategy_has_the_training_of_its_model(summary, studies):
    strategy = summarise_run(load_run("best_of_2", studies / "best_of_2" / "seed-3"), 3)
    assert strategy.row == "best_of_2" and strategy.training == summary.training
    assert strategy.budgets["max_steps"] == "50"


def test_a_model_that_was_trained_nowhere_here_is_named(studies, tmp_path):
    run = load_run("mini", studies / "best_of_2" / "seed-3")
    assert summarise_run(replace(run, scored={"sampler": {"model": "mini"}}), 0).training == {"run": "mini"}


def many(num: int) -> list[ScoredTrajectory]:
    drafts = tuple(
        ScoredDraft(step=step, draft=0, accepts=True, shows_plan=False, satisfies_prompt=False) for step in range(16)
    )
    return [
        ScoredTrajectory(
            key=f"color_attribution-{number:04d}", prompt=f"prompt {number}", kind=f"kind {number // 60}", seed=number,
            passed=(None, False, True)[number % 3], score=0.0, reason="words " * 50, judge="oracle 1", drafts=drafts,
            rounds=16, steps=16, cost={"seconds": number / 7, "images": 16},
        )
        for number in range(num)
    ]  # fmt: skip


def test_six_hundred_answers_are_small(tmp_path):
    write_verdicts(many(600), tmp_path / "row" / "seed-0" / "verdicts.jsonl")
    path = write_summary(summarise_run(load_run("row", tmp_path / "row" / "seed-0"), 0), tmp_path / "results")
    assert path.stat().st_size < 40_000
    marks = "".join(answers.outcomes for answers in read_summary(path).answers.values())
    assert [marks.count(mark) for mark in "?01"] == [200, 200, 200]


def test_it_does_not_depend_on_where_the_runs_lie(studies, tmp_path, summary):
    os.symlink(studies, tmp_path / "elsewhere")
    moved = summarise_run(load_run("all_subsets", tmp_path / "elsewhere" / "all_subsets" / "seed-3"), 3)
    assert to_json(moved) == to_json(summary) and str(studies) not in to_json(summary)


@given(st.lists(st.text(alphabet="a-019", min_size=1), unique=True))
def test_keys_come_back_from_their_ranges(keys):
    assert list(expanded(ranges(keys))) == keys


def test_keys_that_count_on_are_one_range():
    keys = [f"colors-{number:04d}" for number in range(52)] + ["x", "y9", "y10"]
    assert ranges(keys) == [["colors-0000", "colors-0051"], ["x"], ["y9"], ["y10"]]
    with pytest.raises(ValueError, match="do not count from a1 to b2"):
        list(expanded([["a1", "b2"]]))


def test_places_of_the_machine_are_cut_and_others_are_kept():
    said = {"command": "lightning test out=/mnt/x/seed-0 'a=[/tmp/b/c.json,outputs/d]' https://host/a/b", "n": 2.0}
    cut = {"command": "lightning test out=seed-0 'a=[c.json,outputs/d]' https://host/a/b", "n": 2}
    assert portable(said) == cut and portable([1 / 3, True, None]) == [0.333333, True, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("process"), "other fields than a summary's: process"),
        (lambda content: content.update(format=9), "format 9, expected 1"),
        (lambda content: content["answers"]["counting"].update(outcomes="1x"), "expected 0, 1 or"),
        (lambda content: content["answers"]["counting"].update(prompts="abc"), "2 keys, 0 prompts"),
        (lambda content: content.update(row="other"), "is the summary of other/seed-3"),
    ],
)
def test_what_is_no_summary_is_refused(summary, tmp_path, change, message):
    path = write_summary(summary, tmp_path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        read_summary(path)
    assert "lightning report study=NAME results=results" in str(error.value)


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    for text in ("{", "[]", None):
        path = tmp_path / "row" / "seed-0.json"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        with pytest.raises(ValueError, match="no summary of a run"):
            read_summary(path)


def test_answers_must_match():
    with pytest.raises(ValueError, match="1 keys, 1 prompts, outcomes '10'"):
        Answers(keys=("a",), prompts=("abcdef",), outcomes="10")
