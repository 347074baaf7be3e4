"""Results that are kept: tables of summaries equal those of runs, equal runs give equal files, the notebook runs."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from brushwork.eval.reports.report import report
from brushwork.eval.reports.study import STRATEGIES, STUDIES, read_study
from brushwork.eval.reports.study_charts import cause_table, cost_chart, outside_table, step_table
from brushwork.eval.reports.study_facts import read_planted, read_runs, row_facts
from brushwork.eval.reports.study_files import write_results
from brushwork.eval.verdicts import ScoredDraft, ScoredPlan, ScoredTrajectory, write_verdicts

NOTEBOOK = Path(__file__).parents[3] / "notebooks" / "04_science.ipynb"
WRONG = ScoredDraft(step=0, draft=0, accepts=False, shows_plan=False, satisfies_prompt=False)


def judge(runs: Path, name: str, passed: Mapping[str, Sequence[int | None]]) -> None:
    """A judged run, such as "all_subsets/seed-0": a wrong draft that is mended where the answer passes."""
    rows = []
    for kind, answers in passed.items():
        for number, answer in enumerate(answers):
            right = answer == 1
            last = ScoredDraft(step=0, draft=1, accepts=True, shows_plan=right, satisfies_prompt=right)
            rows.append(
                ScoredTrajectory(
                    key=f"{kind}-{number:03d}", prompt=f"{kind} {number}", kind=kind, seed=number,
                    passed=None if answer is None else right, score=float(right), reason="", judge="oracle 1",
                    drafts=(WRONG, last), plans=(ScoredPlan(step=0, consistent=True),), rounds=2, steps=1,
                    cost={"denoise_steps": 20, "seconds": 0.25, "images": 2},
                )
            )  # fmt: skip
    folder = runs / name
    write_verdicts(rows, folder / "verdicts.jsonl")
    (folder / "fit.yaml").write_text("trainer:\n  max_steps: 100\n")
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / "metrics.csv").write_text("step,minutes,train/loss\n100,3.5,0.5\n")


def answers(passed: int, num: int = 20) -> list[int]:
    return [1] * passed + [0] * (num - passed)


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two seeds of two rows of `critique`, none of the third; a prompt without a verdict; a kind out of the overall."""
    folder = tmp_path / "studies"
    for seed in (0, 1):
        judge(folder, f"multi_turn_only/seed-{seed}", {"colors": answers(8 + seed), "ood_five_objects": answers(2)})
        better = {"colors": [None, *answers(15 + seed, 19)], "position": answers(5), "ood_five_objects": answers(1)}
        judge(folder, f"all_subsets/seed-{seed}", better)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_tables_of_summaries_equal_those_of_runs(runs, tmp_path):
    of_runs = read_study("critique", runs)
    of_results = write_results("critique", runs, tmp_path / "results")
    assert of_results == of_runs == read_study("critique", tmp_path / "results" / "runs")
    assert of_runs.rows[0].cells["colors"].ours.estimate == pytest.approx(8.5 / 20)
    assert of_runs.columns[-2:] == ("overall", "ood_five_objects")
    assert of_runs.rows[-1].cells["overall"].ours.num == 39, "without the kind that is out of it"


def test_the_files_are_the_same_each_time_and_outlive_the_runs(runs, tmp_path):
    results = tmp_path / "results"
    write_results("critique", runs, results)
    written = files(results)
    assert list(written) == [
        "critique.json", "critique.md", "runs/all_subsets/seed-0.json", "runs/all_subsets/seed-1.json",
        "runs/multi_turn_only/seed-0.json", "runs/multi_turn_only/seed-1.json",
    ]  # fmt: skip
    write_results("critique", runs, results)
    assert files(results) == written
    shutil.rmtree(runs)
    write_results("critique", runs, results)
    assert files(results) == written


def test_markdown_and_json_tell_ours_beside_the_papers(runs, tmp_path):
    write_results("critique", runs, tmp_path / "results")
    text = (tmp_path / "results" / "critique.md").read_text()
    scores, differences = text.split("## ")[1:3]
    ours, papers = scores.splitlines()[4:6]
    assert ours.startswith("| baseline (none) | 0, 1 | 0.42 (") and papers == (
        "| *the paper's* |  | 0.82 | 0.67 | 0.62 | – | – |"
    )
    assert "(paper +0.05; agrees)" in differences and "| 9 / 0 | 0.004 |" in differences
    assert "| 101 | 3.5 | 2.00 | 20.0 |" in text, "steps and minutes, images and denoising steps"
    assert "not run: lightning fit -m study=critique ablation=scene\\_graph\\_critique seed=0" in text
    facts = json.loads((tmp_path / "results" / "critique.json").read_text())["facts"]["all_subsets"]
    assert facts["paired"] == {"better": 9, "worse": 0, "p_value": 0.00390625}
    assert facts["faults"] == {"not_mended": [sum((4, 15, 19, 3, 15, 19))]} and facts["num_answers"] == 118
    assert facts["f1"] == pytest.approx(2 * 120 / (120 + 120 + facts_wrong_last())), "wrong last drafts were accepted"


def facts_wrong_last() -> int:
    """Last drafts of `all_subsets` that are wrong, the one without a verdict among them, both seeds."""
    return 2 + sum((4, 15, 19, 3, 15, 19))


def test_a_report_keeps_results_where_it_is_told(runs, tmp_path, capsys):
    page = report(runs, tmp_path / "report", study="critique", results=tmp_path / "results").read_text()
    assert "101 steps, 3.5 minutes" in page and "101 steps, 3.5 minutes" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "results" / "critique.md").is_file()
    with pytest.raises(ValueError, match="study is 'nope'"):
        report(runs, tmp_path / "report", study="nope", results=tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="study=supervision ablation=multi_turn_only"):
        report(tmp_path / "no", tmp_path / "report", study="supervision", results=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_strategies_stand_below_the_rows_run_or_not(runs, tmp_path):
    trained, strategies = ([row.option for row in rows["baselines"]] for rows in (STUDIES, STRATEGIES))
    judge(runs, "best_of_3/seed-0", {"colors": answers(20)})
    result = write_results("baselines", runs, tmp_path / "results")
    assert [row.option for row in result.rows] == [*trained, *strategies] and not set(trained) & set(strategies)
    best, planner, _ = result.rows[-3:]
    assert best.missing == "" and best.cells["colors"].ours.estimate == 1
    assert planner.missing == "not run: make study-baselines" and not planner.seeds
    assert "| the whole process, perfect plans | not run | – |" in (tmp_path / "results" / "baselines.md").read_text()
    (runs / "oracle_planner" / "seed-0").mkdir(parents=True)
    assert read_study("baselines", runs).rows[-2].missing == "seed-0 not judged: make study-baselines"


def test_prompts_that_a_kind_has_are_counted_and_the_confound_is_named(runs, tmp_path):
    write_results("baselines", runs, tmp_path / "results")
    text = (tmp_path / "results" / "baselines.md").read_text()
    scores, _, kinds = text.split("## ")[1:4]
    assert "A confound: rows with drafts on the way see in them what is held out" in scores
    assert "| different prompts / asked | 20 / 20 | 20 / 20 | 20 / 20 |  |" in kinds
    assert json.loads((tmp_path / "results" / "baselines.json").read_text())["num_distinct"] == 60


def test_what_a_strategy_samples_with_is_its_own_affair(runs):
    for row in ("multi_turn_only", "all_subsets"):
        for seed in (0, 1):
            (runs / row / f"seed-{seed}" / "predict.yaml").write_text("sampler:\n  num_steps: 10\n")
    judge(runs, "best_of_3/seed-0", {"colors": answers(20)})
    (runs / "best_of_3" / "seed-0" / "predict.yaml").write_text("sampler:\n  num_candidates: 4\n")
    assert not [one for one in read_study("baselines", runs).warnings if one.startswith("Unequal sampler")]
    (runs / "all_subsets" / "seed-0" / "predict.yaml").write_text("sampler:\n  num_steps: 20\n")
    assert [one for one in read_study("baselines", runs).warnings if one.startswith("Unequal sampler")]


def test_a_damaged_summary_is_named(runs, tmp_path):
    write_results("critique", runs, tmp_path / "results")
    damaged = tmp_path / "results" / "runs" / "all_subsets" / "seed-1.json"
    damaged.write_text(damaged.read_text()[:100])
    with pytest.raises(ValueError, match=r"all_subsets.seed-1\.json is no summary of a run"):
        read_study("critique", tmp_path / "results" / "runs")


def test_charts_and_tables_across_studies(runs, tmp_path):
    write_results("critique", runs, tmp_path / "results")
    found = read_runs(tmp_path / "results")
    assert list(found) == ["multi_turn_only", "all_subsets"], "in the order of the studies"
    facts = row_facts({row: list(of_row.values()) for row, of_row in found.items()}, "multi_turn_only")
    assert facts["multi_turn_only"].paired is None and facts["all_subsets"].by_seed.keys() == {0, 1}
    assert "all subsets" in cost_chart(facts) and "20" in cost_chart(facts)
    assert [cell.text for cell in cause_table(facts).rows[1].cells] == ["–", "–", "63.6", "–", "–", "–"]
    assert [cell.text for cell in step_table(facts).rows[1].cells] == ["63.6"]
    assert outside_table(facts).columns == ("row", "overall", "five objects")
    assert not cost_chart({}) and not outside_table({}).rows


def test_planted_flaws_are_read_as_means_over_seeds(tmp_path):
    assert read_planted(tmp_path) == {}
    seeds = {str(seed): {"planted": {"precision": 0.5 + seed / 2, "recall": None, "f1": 0.25}} for seed in (0, 1)}
    (tmp_path / "inspections.json").write_text(json.dumps({"all_subsets": seeds}))
    assert read_planted(tmp_path) == {"all_subsets": {"precision": 0.75, "recall": None, "f1": 0.25}}


@pytest.mark.parametrize("filled", [False, True])
def test_the_notebook_works_with_few_results_and_with_none(runs, tmp_path, monkeypatch, capsys, filled):
    if filled:
        write_results("critique", runs, tmp_path / "results")
    monkeypatch.setenv("BRUSHWORK_RESULTS", str(tmp_path / "results"))
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *parts: shown.extend(part.data for part in parts))
    names = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    text = "\n".join(shown)
    assert "*Not run yet: `make study-baselines`.*" in text or filled
    assert ("4 runs of 2 rows" in capsys.readouterr().out) is filled
    assert ("(paper +0.05; agrees)" in text) is filled and text.count("<img") == (3 if filled else 0)
    assert ("A confound:" in text) is filled and names["facts"].keys() == names["runs"].keys()


def test_the_notebook_has_the_intervals_of_the_tables(runs, tmp_path, monkeypatch):
    """Also of rows of two studies, whose seeds lie further apart among the baselines."""
    for seed in (0, 1):
        judge(runs, f"single_pass/seed-{seed}", {"colors": answers(20 * seed), "position": answers(5)})
    for study in ("critique", "baselines"):
        write_results(study, runs, tmp_path / "results")
    monkeypatch.setenv("BRUSHWORK_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr("IPython.display.display", lambda *parts: None)
    names = {}
    exec("".join(json.loads(NOTEBOOK.read_text())["cells"][1]["source"]), names)
    overall = {study: intervals(tmp_path / "results" / f"{study}.json") for study in ("critique", "baselines")}
    for study, of_rows in overall.items():
        shown = {row: asdict(own.overall) for row, own in names["table_facts"][study].items()}
        assert {row: pytest.approx(interval, abs=1e-5) for row, interval in of_rows.items()} == shown
    assert asdict(names["facts"]["all_subsets"].overall) == pytest.approx(overall["baselines"]["all_subsets"], abs=1e-5)
    assert overall["baselines"]["all_subsets"]["low"] < overall["critique"]["all_subsets"]["low"]


def intervals(path: Path) -> dict[str, dict[str, float]]:
    """Row → the interval of its overall score in a study's table."""
    rows = json.loads(path.read_text())["rows"]
    return {row["option"]: row["cells"]["overall"]["ours"] for row in rows if row["seeds"]}
