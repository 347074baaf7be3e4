"""From verdicts to the numbers and tables of a report: pairs of arms, what is unequal, the paper's rows."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from brushwork.eval.benchmark import Scale
from brushwork.eval.reports.markdown import escaped, report_markdown, table_markdown
from brushwork.eval.reports.page import asked_of, lead, report_tables
from brushwork.eval.reports.pairs import compare, find, sign_test
from brushwork.eval.reports.paper import GENEVAL_NAMES, WISE
from brushwork.eval.reports.runs import Run
from brushwork.eval.reports.settings import inequalities
from brushwork.eval.reports.summary import summarise, to_json
from brushwork.eval.reports.tables import Cell, Table, TableRow
from brushwork.eval.scores import aggregate, scores_json
from brushwork.eval.verdicts import ScoredDraft, ScoredTrajectory

GENEVAL = Scale(kinds=tuple(GENEVAL_NAMES))
KINDS = tuple(WISE[0].kinds)
WEIGHTS = dict(zip(KINDS, (0.4, 0.167, 0.133, 0.1, 0.1, 0.1), strict=True))
WISE_SCALE = Scale(
    measure="score", kinds=KINDS, overalls={"overall": WEIGHTS, "overall (equal weights)": {}}, num_required=1
)
DRAFT = ScoredDraft(step=0, draft=0, accepts=None, shows_plan=None, satisfies_prompt=None)


def answer(key, kind="colors", passed: bool | None = True, score=None, prompt=None, **other) -> ScoredTrajectory:
    """A verdict on an answer of one image; `passed=None` for a judge that failed."""
    known = {"reason": "", "judge": "judge/1", "rounds": 1, "drafts": (DRAFT,), "seed": 1} | other
    return ScoredTrajectory(
        key=key,
        prompt=prompt or f"a {key}",
        kind=kind,
        passed=passed,
        score=score if passed is None or score is not None else float(passed),
        failure="endpoint down" if passed is None else None,
        **known,
    )


def arm(name, rows, scale=None, benchmark="geneval", asked=None, rejected=(), **scored) -> Run:
    """A run with these verdicts; `asked` are its prompts by their keys where they are more than the verdicts."""
    scale = scale or GENEVAL
    about = {"benchmark": {"benchmark": benchmark}, "judge": {"judge": "judge/1"}, "sampler": {"model": name}} | scored
    samples = [{"key": key, "prompt": f"a {key}", "seed": 1} for key in asked or ()]
    return Run(
        name=name,
        folder=Path("nowhere"),
        rows=rows,
        curves=[],
        samples={"samples": samples} if samples else {},
        rejected=[{"key": key} for key in rejected],
        settings={},
        scored=about | scores_json(aggregate(rows, scale), scale),
    )


def geneval_arm(name, passes) -> Run:
    """An arm with two prompts of each task; `passes` are its verdicts in order."""
    kinds = [kind for kind in GENEVAL_NAMES for _ in range(2)]
    return arm(
        name, [answer(f"p{n}", kind, passed) for n, (kind, passed) in enumerate(zip(kinds, passes, strict=True))]
    )


def test_a_pair_counts_what_each_arm_alone_passes():
    first = arm("a", [answer(f"p{n}", passed=n < 4) for n in range(10)])
    second = arm("b", [answer(f"p{n}", passed=n != 3) for n in range(9)] + [answer("other")])
    pair = compare(first, second)
    assert (pair.wins, pair.losses, pair.both, pair.neither, pair.ties) == (5, 1, 3, 0, 3)
    assert (pair.num, pair.left_out) == (9, 2)
    assert pair.difference.estimate == pytest.approx(4 / 9) and pair.closed_form is not None
    assert pair.difference.low < 4 / 9 < pair.difference.high and pair.better > 0.95
    assert compare(second, first).difference.estimate == pytest.approx(-4 / 9)
    turned = find([pair], "b", "a")
    assert turned is not None and (turned.low, turned.high) == (-pair.difference.high, -pair.difference.low)
    assert find([pair], "a", "a") is None


@pytest.mark.parametrize(("wins", "losses", "p"), [(0, 0, 1.0), (5, 0, 0.0625), (8, 2, 0.109375), (3, 3, 1.0)])
def test_the_exact_test_of_wins_and_losses(wins, losses, p):
    assert sign_test(wins, losses) == sign_test(losses, wins) == pytest.approx(p)


def test_only_judged_answers_to_the_same_words_are_paired():
    first = arm("a", [answer("p0"), answer("p1", passed=None), answer("p2", prompt="in other words"), answer("p3")])
    second = arm("b", [answer("p0"), answer("p1"), answer("p2"), answer("p3", kind="ood_colors")])
    assert compare(first, second).num == 1


def test_pictures_of_a_prompt_are_drawn_again_together():
    scale = Scale(unit="prompt")
    rows = [answer(f"p{n}", prompt=f"prompt {n // 4}", passed=n % 4 == 0) for n in range(40)]
    other = [answer(f"p{n}", prompt=f"prompt {n // 4}", passed=n % 4 < 2) for n in range(40)]
    pair = compare(arm("a", rows, scale), arm("b", other, scale))
    assert pair.num == 40 and pair.difference.num == 10
    assert (pair.difference.low, pair.difference.estimate, pair.difference.high) == (0.25, 0.25, 0.25)


def test_scores_between_zero_and_one_are_compared_by_the_headline_weights():
    def scored(name, scores):
        rows = [answer(kind, kind, passed=False, score=score) for kind, score in zip(KINDS, scores, strict=True)]
        return arm(name, rows, WISE_SCALE, "wise")

    pair = compare(scored("a", [0.5] * 6), scored("b", [0.75, 0.5, 0.5, 0.5, 0.5, 0.25]))
    assert (pair.wins, pair.losses, pair.ties, pair.neither) == (1, 1, 4, 6)
    assert pair.difference.estimate == pytest.approx(0.4 * 0.25 - 0.1 * 0.25) and pair.closed_form is None


def test_what_is_not_judged_counts_apart_and_never_as_zero():
    rows = [answer("p0"), answer("p1", passed=None), answer("p2", passed=False, rounds=0, drafts=())]
    run = arm("a", rows, asked=[f"p{n}" for n in range(6)], rejected=["p5"])
    summary = summarise([run])
    counted = summary.arms[0]
    assert (counted.num_prompts, counted.num_failures, counted.num_rejected) == (6, 1, 1)
    assert (counted.num_missing, counted.num_blank, counted.kinds["colors"].estimate) == (2, 1, 0.5)
    cell = report_tables([run], summary)["scores"].rows[0].cells[-1]
    assert cell.text == "2 of 6"
    assert cell.small == ("1 no verdict", "1 refused", "2 not drawn", "1 without an image, failed")


def test_wise_has_no_overall_until_all_is_judged():
    rows = [answer(kind, kind, score=0.5) for kind in KINDS]
    whole, holed = arm("whole", rows, WISE_SCALE, "wise"), arm("holed", [*rows[1:], answer("culture", "culture", None)],
                                                               WISE_SCALE, "wise")  # fmt: skip
    summary = summarise([whole, holed])
    table = report_tables([whole, holed], summary)["scores"]
    assert table.columns == ("arm", *KINDS, "overall", "overall (equal weights)", "judged")
    first, second, *papers = table.rows
    assert [cell.text for cell in first.cells] == ["0.50"] * 8 + ["6 of 6"]
    assert [cell.text for cell in second.cells][-3:] == ["–", "–", "5 of 6"]
    assert second.cells[-1].small == ("1 no verdict", "mean of the judged 0.50")
    assert math.isnan(summary.arms[1].overall.estimate)
    assert [row.label for row in papers] == [f"paper: {row.label}" for row in WISE] and papers[0].paper
    assert [cell.text for cell in papers[-1].cells[-3:-1]] == ["0.75", "0.76"]
    assert papers[-1].cells[-2].small == ("computed", "printed 0.76")


def test_wise_verified_stands_alone():
    rows = [answer(kind, kind, score=1.0) for kind in KINDS]
    scale = Scale(measure="score", kinds=KINDS, overalls={"overall": WEIGHTS}, num_required=1)
    run = arm("a", rows, scale, "wise", judge={"judge": "wise/1", "protocol": "verified"})
    assert not [row for row in report_tables([run], summarise([run]))["scores"].rows if row.paper]


GOLDEN = """\
| arm | single | two | counting | colors | position | color attr. | overall | judged |
| :-- | --: | --: | --: | --: | --: | --: | --: | --: |
| single pass | 1.00 (0.34–1.00) | 1.00 (0.34–1.00) | 1.00 (0.34–1.00) | 0.50 (0.09–0.91) | 0.50 (0.09–0.91) \
| 0.00 (0.00–0.66) | **0.67** (0.45–0.81) | 12 of 12 |
| *paper: FLUX.1-dev (12B)* | 0.98 | 0.93 | 0.75 | 0.93 | 0.68 | 0.65 | 0.82 | – |
| *paper: Janus-Pro-7B* | 0.99 | 0.89 | 0.59 | 0.90 | 0.79 | 0.66 | 0.80 | – |
| *paper: BAGEL-7B (re-run)* | 0.99 | 0.95 | 0.76 | 0.87 | 0.51 | 0.56 | 0.77 | – |
| *paper: BAGEL-7B + process-driven* | 0.99 | 0.95 | 0.75 | 0.87 | 0.72 | 0.69 | 0.83 | – |"""


def test_geneval_stands_in_the_paper_s_layout_above_the_paper_s_rows():
    run = geneval_arm("single_pass", [True] * 7 + [False, True] + [False] * 3)
    assert table_markdown(report_tables([run], summarise([run]))["scores"]) == GOLDEN


def test_the_embedded_world_shows_the_paper_s_gain_and_says_that_levels_differ():
    kinds = ("two_objects", "color_attribution", "single_object", "position", "colors", "counting")
    run = arm("a", [answer(kind, kind) for kind in kinds], Scale(), "shapes")
    tables = report_tables([run], summarise([run]))
    assert tables["scores"].columns[1:8] == (*GENEVAL_NAMES.values(), "overall")
    assert [row.label for row in tables["scores"].rows[1:]] == [
        "paper: BAGEL-7B (re-run)",
        "paper: BAGEL-7B + process-driven",
    ]
    assert any("not comparable" in note for note in tables["scores"].notes)
    assert any("not comparable" in note for note in tables["baselines"].notes)


def test_strategies_are_told_by_cost_in_the_paper_s_unit():
    run = geneval_arm("best", [True] * 12)
    costly = arm("best", [answer(row.key, row.kind, cost={"images": 20, "denoise_steps": 980}) for row in run.rows])
    table = report_tables([costly], summarise([costly]))["baselines"]
    assert [cell.text for cell in table.rows[0].cells] == ["–", "1,000", "1.00"]
    assert table.rows[0].cells[1].small == ("980.0 measured",)
    assert [[cell.text for cell in row.cells] for row in table.rows[1:]] == [
        ["–", "50", "0.60"],
        ["–", "50", "0.80"],
        ["400K samples", "1,000", "0.67"],
        ["688K samples", "1,000", "0.77"],
        ["62K samples", "131", "0.83"],
    ]


def test_the_matrix_is_read_from_row_to_column():
    runs = [geneval_arm("low", [False] * 12), geneval_arm("high", [True] * 11 + [False])]
    tables = report_tables(runs, summarise(runs))
    low, high = tables["matrix"].rows
    assert (low.cells[0].text, high.cells[0].text, low.cells[1].text) == ("–", "+0.92", "−0.92")
    assert high.cells[0].small[1] == "11 / 0 / 1" and low.cells[1].small[1] == "0 / 11 / 1" and high.cells[0].strong
    assert [cell.text for cell in tables["pairs"].rows[0].cells[3:]] == [
        "12", "0", "11", "1", "0", "1", "<0.001", "0",
    ]  # fmt: skip
    assert "matrix" not in report_tables(runs[:1], summarise(runs[:1]))


def test_arms_that_differ_in_the_model_alone_are_equal():
    assert inequalities([arm("a", [answer("p0")]), arm("b", [answer("p0", passed=False)])]) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (arm("b", [answer("p0", prompt="at great length")]), "“a” and “b” were asked 1 prompts in different words"),
        (arm("b", [answer("p0", seed=2)]), "drew 1 of 1 prompts with different seeds"),
        (arm("b", [answer("p0"), answer("p1")]), "share 1; 1 and 2 were asked"),
        (arm("b", [answer("p0", judge="judge/2")]), "Unequal judge: judge/1 in “a”; judge/2 in “b”."),
        (arm("b", [answer("p0")], judge={"judge": "judge/1", "detector": {"model": "m"}}), None),
        (
            arm("b", [answer("p0")], benchmark="geneval", sampler={"model": "b", "steps": 25}),
            "Unequal steps of an image: 50 in “a”; 25 in “b”.",
        ),
        (arm("b", [answer("p0", cost={"denoise_steps": 25})]), "Unequal steps of an image: 50 in “a”; 25 in “b”."),
        (
            arm("b", [answer("p0")], sampler={"guidance": {"text_scale": 2.0}}),
            "Unequal sampler.guidance.text_scale: 4.0 in “a”; 2.0 in “b”.",
        ),
    ],
)
def test_what_should_be_equal_and_is_not_is_said(other, said):
    first = arm(
        "a",
        [answer("p0", cost={"denoise_steps": 100, "images": 2})],
        sampler={"steps": 50, "guidance": {"text_scale": 4.0}},
    )
    sentences = inequalities([first, other])
    assert (sentences == []) if said is None else (len(sentences) == 1 and said in sentences[0])


def test_the_summary_is_json_without_nan():
    runs = [geneval_arm("a", [True] * 12), arm("b", [])]
    content = json.loads(json.dumps(to_json(summarise(runs)), allow_nan=False))
    assert content["benchmark"] == "geneval" and content["baseline"] == "a" and len(content["pairs"]) == 1
    assert content["runs"]["a"]["overall"]["estimate"] == 1.0 and content["runs"]["b"]["overall"]["estimate"] is None
    assert content["runs"]["a"]["settings"]["judge"] == {"judge": "judge/1"}


def test_markdown_cannot_be_broken_by_what_it_holds():
    table = Table(
        title="T", columns=("a", "b|c"), rows=(TableRow(label="x\ny", cells=(Cell(text="<b>", small=("1*2", "[3]")),)),)
    )
    assert table_markdown(table) == ("| a | b\\|c |\n| :-- | --: |\n| x y | \\<b\\> (1\\*2; \\[3\\]) |")
    assert escaped("`rm` #1\n# no heading") == "\\`rm\\` \\#1 \\# no heading"
    page = report_markdown("T", "lead", ["look"], [table], [("a.png", "a picture")])
    assert page.startswith("# T\n\nlead\n\n> **look**") and page.endswith("![a picture](a.png)\n")


def test_several_pictures_of_a_prompt_are_no_prompts_of_their_own():
    rows = [answer(f"p{n}", "colors", True, prompt="a cat" if n < 4 else "a dog") for n in range(7)]
    run = replace(arm("a", rows), rejected=[{"key": "p7", "prompt": "a hen", "kind": "colors"}])
    assert lead(summarise([run])).startswith("geneval: 7 answers to 2 different prompts of six kinds, one arm")
    assert asked_of("colors", [run]) == "colors 8 (3 different)"
