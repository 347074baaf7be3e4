"""A study's table: golden means and differences, verdicts on the paper's, what is missing, what is unequal."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from brushwork.eval.reports.budgets import setting
from brushwork.eval.reports.report import report
from brushwork.eval.reports.run_summary import summarise_run
from brushwork.eval.reports.runs import load_run
from brushwork.eval.reports.study import EQUAL, EQUAL_KINDS, STUDIES, Cell, read_study, seed_spread, unequal, verdict
from brushwork.eval.reports.study_facts import row_facts
from brushwork.eval.reports.study_scores import paired_scores
from brushwork.eval.reports.study_table import reading
from brushwork.eval.statistics import Interval, macro_average, paired_difference, wilson
from brushwork.eval.verdicts import ScoredDraft, ScoredTrajectory, write_verdicts

CONFIGS = Path(__file__).parents[3] / "configs"
FIT = {
    "model": {"_target_": "some.model", "hidden_size": 128},
    "trainer": {"_target_": "some.trainer", "max_steps": 100, "max_time": None},
    "callbacks": [{"_target_": "some.callback", "max_steps": 7}],
}
PREDICT = {
    "sampler": {"_target_": "some.sampler", "folder": "<run>/model", "sampling": {"num_steps": 10}},
    "benchmark": {"_target_": "brushwork.eval.benchmarks.shapes.ShapesBenchmark"},
}
WRONG = ScoredDraft(step=0, draft=0, accepts=False, shows_plan=False, satisfies_prompt=False)
RIGHT = ScoredDraft(step=0, draft=1, accepts=True, shows_plan=True, satisfies_prompt=True)


def judge(
    runs: Path,
    name: str,
    passed: Mapping[str, Sequence[int]],
    *,
    fit: Mapping = FIT,
    predict: Mapping = PREDICT,
    distinct: int = 1000,
) -> None:
    """Write a judged run, such as "all_subsets/seed-0", with these verdicts of each kind and so many prompts of it."""
    rows = [
        ScoredTrajectory(
            key=f"{kind}-{number:03d}", prompt=f"{kind} {number % distinct}", kind=kind, seed=number,
            passed=bool(answer), score=float(answer), reason="", judge="oracle 1", drafts=(WRONG, RIGHT),
        )
        for kind, answers in passed.items()
        for number, answer in enumerate(answers)
    ]  # fmt: skip
    folder = runs / name
    write_verdicts(rows, folder / "verdicts.jsonl")
    (folder / "fit.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(dict(fit))))
    (folder / "predict.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(dict(predict))).replace("<run>", name))


def gain(cell: Cell) -> Interval:
    assert cell.difference is not None
    return cell.difference


def answers(passed: int, num: int = 20) -> list[int]:
    return [1] * passed + [0] * (num - passed)


def kinds(color: int, position: int, attribute: int) -> dict[str, list[int]]:
    return {"colors": answers(color), "position": answers(position), "color_attribution": answers(attribute)}


@pytest.fixture
def critique(tmp_path) -> Path:
    """The three rows of `critique`, one seed: 10 of 20, then better, then better in one column and worse in another."""
    judge(tmp_path, "multi_turn_only/seed-0", kinds(10, 10, 10))
    judge(tmp_path, "scene_graph_critique/seed-0", kinds(19, 11, 10))
    judge(tmp_path, "all_subsets/seed-0", kinds(10, 20, 1))
    return tmp_path


def test_the_papers_differences_come_from_its_tables():
    first, *_, last = STUDIES["augmentation"]
    assert [round(last.paper[kind] - first.paper[kind], 2) for kind in first.paper] == [0.06, 0.14, 0.19]
    full = [STUDIES[study][-1] for study in ("augmentation", "critique", "supervision")]
    for row in full:
        assert row.option == "all_subsets"
        assert [row.paper[kind] for kind in ("colors", "position", "color_attribution")] == [0.87, 0.72, 0.69]
    assert all(len({row.option for row in rows}) == len(rows) for rows in STUDIES.values())


def test_the_rows_are_those_that_fit_trains():
    swept = {
        path.stem: OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params.ablation")
        for path in (CONFIGS / "study").glob("*.yaml")
    }
    assert swept.pop("none") is None
    assert swept == {name: ",".join(row.option for row in rows) for name, rows in STUDIES.items()}


def test_a_report_on_a_study_is_no_sweep():
    with initialize_config_module("brushwork.trainer.configs", version_base="1.3"):
        config = compose("report", ["study=critique"], return_hydra_config=True)
    assert config.study == "critique" and config.hydra.mode.name == "RUN"


def test_one_seed_is_wilson_and_a_paired_difference(critique):
    first, second, last = read_study("critique", critique).rows
    assert first.cells["colors"].ours == wilson(10, 20) and first.cells["colors"].difference is None
    color = second.cells["colors"]
    assert color.ours == wilson(19, 20)
    assert color.difference == paired_difference({"colors": [(1, 1)] * 10 + [(0, 1)] * 9 + [(0, 0)]})
    assert gain(color).estimate == pytest.approx(0.45)
    assert (color.paper, color.paper_difference) == (0.83, pytest.approx(0.01))
    overall = second.cells["overall"]
    assert overall.ours.estimate == pytest.approx(2 / 3) and overall.ours.num == 60
    assert gain(overall).estimate == pytest.approx((0.45 + 0.05 + 0) / 3)
    assert overall.paper is None and overall.verdict == ""
    assert [gain(last.cells[kind]).estimate for kind in ("colors", "position", "color_attribution")] == (
        pytest.approx([0, 0.5, -0.45])
    )


def test_the_verdict_is_on_the_papers_sign(critique):
    rows = read_study("critique", critique).rows
    assert [[cell.verdict for cell in row.cells.values()] for row in rows] == [
        ["", "", "", ""],
        ["agrees", "not settled", "not settled", ""],
        ["not settled", "agrees", "disagrees", ""],
    ]
    worse = Interval(estimate=-0.2, low=-0.3, high=-0.1, num=9)
    assert (verdict(worse, -0.1), verdict(worse, 0.1), verdict(None, 0.1)) == ("agrees", "disagrees", "")


def test_several_seeds_are_averaged_and_widen_the_interval(tmp_path):
    for seed, passed in enumerate((4, 10, 16)):
        judge(tmp_path, f"multi_turn_only/seed-{seed}", {"colors": answers(10, 40)})
        judge(tmp_path, f"all_subsets/seed-{seed}", {"colors": answers(passed + 8, 40)})
    first, _, last = read_study("critique", tmp_path).rows
    assert (first.seeds, last.seeds) == ((0, 1, 2), (0, 1, 2))
    # Rates of 0.3, 0.45 and 0.6 in one row and 0.25 in the other: a deviation of 0.15 / sqrt(2), 4 degrees of freedom
    level, gained = last.cells["colors"].ours, gain(last.cells["colors"])
    error = 2.7764 * 0.15 / 2**0.5
    assert (level.estimate, level.low, level.num) == (
        pytest.approx(0.45),
        pytest.approx(0.45 - error / 3**0.5, abs=1e-4),
        40,
    )
    assert gained.estimate == pytest.approx(0.2)
    assert (gained.low, gained.high) == pytest.approx(
        (0.2 - error * (2 / 3) ** 0.5, 0.2 + error * (2 / 3) ** 0.5), abs=1e-4
    )
    assert last.cells["colors"].verdict == "not settled"


def test_a_row_of_one_seed_has_the_spread_of_the_others(tmp_path):
    for seed, passed in enumerate((5, 15, 25)):
        judge(tmp_path, f"multi_turn_only/seed-{seed}", {"colors": answers(passed, 40)})
    judge(tmp_path, "all_subsets/seed-7", {"colors": answers(30, 40)})
    color = read_study("critique", tmp_path).rows[-1].cells["colors"]
    assert gain(color).estimate == pytest.approx(0.375) and gain(color).num == 40
    assert gain(color).low == pytest.approx(0.375 - 4.3027 * 0.25 * (1 / 3 + 1) ** 0.5, abs=1e-4)
    assert color.ours.low == 0 and color.ours.high == 1


def test_a_prompt_that_is_asked_again_counts_once(tmp_path):
    """Twenty draws of four prompts: the mean of the draws, between the limits of four trials."""
    judge(tmp_path, "multi_turn_only/seed-0", {"colors": [1, 0, 0, 0] * 5}, distinct=4)
    judge(tmp_path, "all_subsets/seed-0", {"colors": [1, 1, 0, 0] * 4 + [0, 1, 1, 0]}, distinct=4)
    result = read_study("critique", tmp_path)
    assert (result.num_prompts, result.num_distinct) == (20, 4)
    first, _, last = (row.cells["colors"] for row in result.rows)
    assert first.ours == wilson(1, 4) and last.ours == wilson(10 / 5, 4)
    assert last.difference == paired_difference({"colors": [(1, 0.8), (0, 1), (0, 0.2), (0, 0)]})
    runs = {
        row: [summarise_run(load_run(row, tmp_path / row / "seed-0"), 0)] for row in ("multi_turn_only", "all_subsets")
    }
    facts = row_facts(runs, "multi_turn_only")["all_subsets"]
    assert facts.paired is not None and facts.prompts == {"colors": (4, 20)}
    assert (facts.paired.better, facts.paired.worse, facts.paired.p_value) == (2, 1, 1.0)


def test_the_mean_is_that_of_draws_though_prompts_are_asked_unequally_often():
    first = [{"colors": {("a", "x"): False, ("b", "x"): False, ("c", "x"): False, ("d", "y"): True}}]
    again = [{"colors": {("a", "x"): True, ("b", "x"): True, ("c", "x"): False, ("d", "y"): False}}]
    scores = paired_scores(first, again, "colors")
    assert scores == [(0, pytest.approx(1)), (pytest.approx(0.5), 0)], "three draws weigh 1.5, one weighs 0.5"
    assert sum(after - before for before, after in scores) / 2 == pytest.approx((2 - 1) / 4)
    del again[0]["colors"][("d", "y")]
    assert paired_scores(first, again, "colors") == [(0, pytest.approx(2 / 3))]


def test_strategies_add_nothing_to_the_spread_of_seeds():
    """They redraw with the models of other rows."""
    trained = {"single_pass": [{"colors": {("a", "x"): True}}, {"colors": {("a", "x"): False}}]}
    alone = seed_spread(trained, ("colors",))
    assert alone.freedom == 1 and alone.deviation == pytest.approx(0.5**0.5)
    assert seed_spread(trained | {"best_of_2": trained["single_pass"] * 2}, ("colors",)) == alone


def test_a_second_overall_score_is_over_kinds_that_drafts_do_not_give_away(tmp_path):
    passed = {"colors": answers(20), **{kind: answers(4 * place) for place, kind in enumerate(EQUAL_KINDS)}}
    judge(tmp_path, "single_pass/seed-0", passed)
    result = read_study("baselines", tmp_path)
    assert result.columns[-2:] == ("overall", EQUAL)
    cells = result.rows[0].cells
    assert cells["overall"].ours.estimate == pytest.approx((1 + 0 + 0.2 + 0.4 + 0.6) / 5)
    assert cells[EQUAL].ours == macro_average({kind: (4 * place, 20) for place, kind in enumerate(EQUAL_KINDS)})
    said = " ".join(reading(result))
    assert "the mean over two objects, position, color attribution and chain" in said and "A confound:" in said
    judge(tmp_path, "multi_turn_only/seed-0", passed)
    assert "A confound:" not in " ".join(reading(read_study("critique", tmp_path))), "all of its rows draw drafts"


def test_a_summary_that_tells_no_sampler_is_compared_all_the_same(critique):
    run = summarise_run(load_run("all_subsets", critique / "all_subsets" / "seed-0"), 0)
    silent = replace(run, budgets={name: told for name, told in run.budgets.items() if name != "sampler"})
    assert unequal({"whole": [run], "best of n": [silent]}, ["best of n"]) == []


def test_prompts_without_a_verdict_are_paired_out(critique):
    path = critique / "all_subsets" / "seed-0" / "verdicts.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0] |= {"passed": None, "score": None, "failure": "endpoint down"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = read_study("critique", critique)
    color = result.rows[-1].cells["colors"]
    assert (color.ours.num, gain(color).num, gain(color).estimate) == (19, 19, 0)
    assert any("1 without a verdict in “+ self-sampling”" in sentence for sentence in result.warnings)


def test_a_missing_row_is_said(critique, capsys):
    (critique / "scene_graph_critique").rename(critique / "elsewhere")
    (critique / "all_subsets" / "seed-1").mkdir()
    page = report(critique, critique / "report", study="critique").read_text()
    printed = capsys.readouterr().out
    for text in (page, printed):
        assert "not run: lightning fit -m study=critique ablation=scene_graph_critique seed=0" in " ".join(text.split())
        assert "seed-1 not judged" in text
    missing = json.loads((critique / "report" / "study.json").read_text())["rows"][1]
    assert missing["seeds"] == [] and missing["cells"]["colors"]["ours"]["estimate"] is None
    assert missing["cells"]["colors"]["paper"] == 0.83 and missing["cells"]["colors"]["verdict"] == ""


def test_without_the_first_row_there_are_levels_and_no_differences(critique):
    (critique / "multi_turn_only").rename(critique / "elsewhere")
    cell = read_study("critique", critique).rows[1].cells["colors"]
    assert cell.ours.num == 20 and gain(cell).num == 0 and cell.verdict == ""


def test_nothing_run_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="lightning fit -m study=supervision ablation=multi_turn_only"):
        report(tmp_path, tmp_path / "report", study="supervision")


def test_an_unknown_study_and_named_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="study is 'nope'; expected one of: augmentation"):
        report(tmp_path, tmp_path / "report", study="nope")
    with pytest.raises(ValueError, match="runs=outputs/studies"):
        report({"a": tmp_path}, tmp_path / "report", study="critique")


def test_equal_budgets_say_nothing(critique):
    assert read_study("critique", critique).warnings == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fit": FIT | {"trainer": {"max_steps": 50, "max_time": None}}},
         "Unequal max_steps: 100 in “baseline (none)”, “+ scene-graph (symbolic correction)”; 50 in “+ self-"),
        ({"fit": FIT | {"trainer": {"max_steps": 100, "max_time": "00:00:10:00"}}}, "Unequal max_time: null in"),
        ({"fit": FIT | {"model": {"_target_": "some.model", "hidden_size": 256}}},
         "Unequal model: hidden_size: 128 in “baseline (none)”, “+ scene-graph (symbolic correction)”; "
         "hidden_size: 256 in “+ self-sampling”."),
        ({"predict": PREDICT | {"sampler": {"sampling": {"num_steps": 50}}}}, "num_steps: 50 in “+ self-sampling”."),
        ({"fit": {}}, "not told in “+ self-sampling”."),
        ({"passed": kinds(10, 20, 1) | {"counting": [1]}}, "Unequal prompts: 60 (digest"),
    ],
)  # fmt: skip
def test_unequal_budgets_warn(critique, capsys, change, sentence):
    judge(critique, "all_subsets/seed-0", **{"passed": kinds(10, 20, 1), **change})
    assert any(sentence in warning for warning in read_study("critique", critique).warnings)
    page = report(critique, critique / "report", study="critique").read_text()
    assert sentence.partition(":")[0] in page and sentence.partition(":")[0] in capsys.readouterr().out


def test_sampling_unlike_training_warns(critique):
    for row, history in (("multi_turn_only", "full"), ("scene_graph_critique", "full"), ("all_subsets", "last")):
        fit = FIT | {"segmenter": {"noise_copies": 2, "history": history}}
        predict = PREDICT | {"sampler": {"folder": row, "sampling": {"num_steps": 10, "history": "full"}}}
        judge(critique, f"{row}/seed-0", kinds(10, 10, 10), fit=fit, predict=predict)
    (told,) = read_study("critique", critique).warnings
    assert told == "“+ self-sampling” was trained with history=last and sampled with history=full."
    (critique / "all_subsets" / "seed-0" / "verdicts.jsonl").unlink()
    assert "/model sampler.sampling.history=last && lightning test" in read_study("critique", critique).rows[-1].missing


def test_a_row_that_reads_blanks_is_sampled_so(tmp_path):
    judge(tmp_path, "single_pass/seed-0", kinds(10, 10, 10))
    judge(tmp_path, "no_image_feedback/seed-0", kinds(1, 1, 1), fit=FIT | {"segmenter": {"context": "blank"}})
    (tmp_path / "no_image_feedback" / "seed-0" / "verdicts.jsonl").unlink()
    missing = {row.option: row.missing for row in read_study("baselines", tmp_path).rows}
    assert "/model sampler.sampling.context=blank && lightning test" in missing["no_image_feedback"]


class Page(HTMLParser):
    """Checks that tags are nested; gathers the texts of the table's rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append("")

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "tr" in self.open:
            self.rows[-1] += f" {data.strip()}"


def test_page_and_print_say_the_same(critique, capsys):
    page = report(critique, critique / "report", study="critique").read_text()
    printed = capsys.readouterr().out
    head, *rows = Page(page).rows
    assert "color attr." in head and len(rows) == 3
    for row, text in zip(STUDIES["critique"], rows, strict=True):
        assert row.label in text and row.option in text and row.option in printed
        assert all(f"paper {score:.2f}" in text for score in row.paper.values())
    assert "0.95" in rows[1] and "+0.45 (+0.23 to +0.67)" in rows[1] and "agrees" in rows[1]
    assert "−0.45 (−0.67 to −0.23)" in rows[2] and "disagrees" in rows[2]
    assert "+0.45 (+0.23 to +0.67)" in printed and "−0.45 (−0.67 to −0.23)" in printed
    for text in (page, printed):
        plain = " ".join(text.split())
        assert "the embedded world, 60 prompts, 60 of them different" in plain and "Not comparable in level" in plain
        assert "agrees 2, disagrees 1, not settled 3" in plain
    assert not re.search(r"https?://|@import|url\(", page)
    assert page.count("<svg") > 3, "a chart and the rows' marks"


def test_a_knob_has_no_paper(tmp_path, capsys):
    judge(tmp_path, "all_subsets/seed-0", kinds(10, 10, 10))
    judge(tmp_path, "draw_flawed/seed-0", kinds(2, 12, 10))
    result = read_study("flawed_drafts", tmp_path)
    assert result.columns == ("counting", "colors", "position", "color_attribution", "overall")
    assert gain(result.rows[1].cells["colors"]).estimate == pytest.approx(-0.4)
    assert result.rows[1].cells["counting"].ours.num == 0
    page = report(tmp_path, tmp_path / "report", study="flawed_drafts").read_text()
    assert "The paper has no such table" in page and "GenEval" not in page
    assert "disagrees" not in page + capsys.readouterr().out


def test_the_process_is_counted_over_all_seeds(tmp_path):
    for seed in (0, 1):
        judge(tmp_path, f"all_subsets/seed-{seed}", {"colors": answers(10)})
    row = read_study("history", tmp_path).rows[0]
    assert row.recall == wilson(40, 40) and row.mended == wilson(40, 40)


def test_settings_are_found_in_a_yaml_file():
    text = OmegaConf.to_yaml(OmegaConf.create(FIT))
    assert setting(text, "trainer", "max_steps") == "100"
    assert setting(text, "model") == "_target_: some.model\nhidden_size: 128"
    assert setting(text, "callbacks") == "- _target_: some.callback\n  max_steps: 7"
    assert setting(text, "trainer", "steps") == setting(text, "nowhere", "max_steps") == setting("", "model") == ""
