"""The report as a whole: self-contained, escaped, the same figures on the page, in report.md and in results.json."""

import html
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import PIL.Image
import pytest

from brushwork.data.views import single_pass
from brushwork.data.worlds.shapes import KINDS
from brushwork.eval.benchmark import Scale
from brushwork.eval.reports.markdown import escaped
from brushwork.eval.reports.paper import GENEVAL, GENEVAL_NAMES, SAME_AS, WISE
from brushwork.eval.reports.report import report
from brushwork.eval.scores import SCORES_FILE
from brushwork.eval.verdicts import read_verdicts, write_verdicts

VOID = {"meta", "img", "input", "br", "link"}
SVG = {"line", "circle", "polygon", "polyline", "rect"}


class Outline(HTMLParser):
    """Checks that tags are nested; gathers what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.loads += [attributes[name] for name in ("src", "srcset", "data") if attributes.get(name)]
        self.loads += [attributes["href"]] if tag == "link" else []
        self.links |= {attributes["href"]} if tag == "a" else set()
        self.ids |= {f"#{attributes['id']}"} if "id" in attributes else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


@pytest.fixture
def folders(tmp_path, run_folder, trajectories):
    wrong = [replace(one, steps=trajectories[0].steps) for one in trajectories]
    process = run_folder(tmp_path / "runs" / "process", trajectories)
    run_folder(tmp_path / "runs" / "single_pass", [single_pass(one) for one in wrong])
    (process / "logs").mkdir()
    (process / "logs" / "metrics.csv").write_text("step,minutes,train/loss,val/loss\n1,0.1,3,\n2,0.2,1,2\n")
    (process / "fit.yaml").write_text("# lightning fit seed=7 out=<here>\nseed: 7\n")
    (process / "test.yaml").write_text("judge_seed: 8\n")
    return tmp_path / "runs"


def test_the_page_is_self_contained_and_well_formed(tmp_path, folders):
    page = report(folders, tmp_path / "report").read_text()
    found = outline(page)
    assert found.loads and all(source.startswith("data:image/") for source in found.loads)
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp", page)
    assert "default-src 'none'" in page
    assert found.links <= found.ids
    for text in (
        "single pass",
        "color attribution",
        "fit.yaml",
        "seed 7",
        "judge_seed 8",
        "lightning fit seed=7 out=&lt;here&gt;",
        "loss",
    ):
        assert text in page
    with PIL.Image.open(tmp_path / "report" / "contact_sheet.png") as sheet:
        assert sheet.width > 400
    for name in ("scores.svg", "cost.svg"):
        assert ElementTree.parse(tmp_path / "report" / name).getroot().tag.endswith("svg")


def test_results_say_what_the_verdicts_say(tmp_path, folders):
    report(folders, tmp_path / "report", baseline="single_pass")
    runs = json.loads((tmp_path / "report" / "results.json").read_text())["runs"]
    assert set(runs) == {"process", "single_pass"}
    process, single = runs["process"], runs["single_pass"]
    assert process["overall"]["estimate"] == 1.0 and process["overall"]["low"] < 1.0
    rows = read_verdicts(folders / "single_pass" / "verdicts.jsonl")
    assert sum(kind["estimate"] * kind["num"] for kind in single["kinds"].values()) == sum(
        bool(row.passed) for row in rows
    )
    assert process["difference"]["estimate"] == pytest.approx(1 - single["overall"]["estimate"])
    assert single["difference"] is None
    assert process["cost"]["seconds"]["mean"] == 0.5 and process["training"] == {"steps": 3, "minutes": 0.2}
    assert process["process"]["inspection"]["recall"] == 1.0
    assert single["process"]["inspection"]["recall"] is None
    assert (
        sum(number * count for number, count in enumerate(process["rounds"], 1)) == process["cost"]["rounds"]["total"]
    )


def test_what_a_judge_writes_cannot_become_markup(tmp_path, folders):
    path = folders / "process" / "verdicts.jsonl"
    bad = "<script>alert(1)</script>"
    rows = [
        replace(row, passed=False, reason=bad, kind=f"kind {bad}", judge=bad, stopped=bad)
        for row in read_verdicts(path)
    ]
    write_verdicts(rows, path)
    page = report(folders, tmp_path / "report", title=bad).read_text()
    assert bad not in page and "&lt;script&gt;alert(1)" in page
    outline(page)


def test_failures_and_unreadable_samples_are_reported(tmp_path, folders):
    path = folders / "process" / "verdicts.jsonl"
    first, *rest = read_verdicts(path)
    write_verdicts([replace(first, passed=None, score=None, failure="endpoint down"), *rest], path)
    shard = folders / "single_pass" / "predictions" / "predictions-00000.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    page = report(folders, tmp_path / "report").read_text()
    assert "endpoint down" in page and "no verdict" in page
    assert json.loads((tmp_path / "report" / "results.json").read_text())["runs"]["process"]["num_failures"] == 1


def test_a_report_without_gallery(tmp_path, folders):
    page = report({"only": folders / "process"}, tmp_path / "report", gallery_per_kind=0).read_text()
    found = outline(page)
    assert found.loads == [] and found.links <= found.ids and "<script>" not in page


def test_an_unknown_baseline_is_refused(tmp_path, folders):
    with pytest.raises(ValueError, match="baseline is 'nope'; expected one of the runs: process, single_pass"):
        report(folders, tmp_path / "report", baseline="nope")


def test_drafts_that_cannot_be_judged_are_counted(tmp_path, folders):
    path = folders / "process" / "verdicts.jsonl"
    first, *rest = read_verdicts(path)
    unread = tuple(replace(draft, shows_plan=None, reason="cannot read the plan") for draft in first.drafts)
    write_verdicts([replace(first, drafts=unread), *rest], path)
    page = report(folders, tmp_path / "report").read_text()
    process = json.loads((tmp_path / "report" / "results.json").read_text())["runs"]["process"]
    assert process["num_unjudged_drafts"] == len(unread)
    assert process["process"]["inspection"]["drafts"] == sum(len(row.drafts) for row in rest)
    assert f"{len(unread)} more not judged" in page


def cells(page: str) -> list[str]:
    """The text of all table cells, without what is set small."""
    found = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page, flags=re.DOTALL)
    return [re.sub(r"<small>.*?</small>|<svg.*?</svg>|<[^>]+>", "", one, flags=re.DOTALL).strip() for one in found]


def test_the_markdown_holds_the_tables_of_the_page(tmp_path, folders):
    page = report(folders, tmp_path / "report").read_text()
    text = (tmp_path / "report" / "report.md").read_text()
    shown = [html.unescape(cell) for cell in cells(page)]
    assert len(shown) > 100 and all(escaped(cell) in text for cell in shown)
    linked = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert linked == ["scores.svg", "cost.svg", "trajectory.png", "contact_sheet.png"]
    assert all((tmp_path / "report" / name).is_file() for name in linked)


def rescored(folders, kinds, scale, benchmark, judge, **of_arm):
    """Gives the runs another benchmark: its kinds in the place of ours, and what `test` would have written."""
    for number, path in enumerate(sorted(folders.glob("*/verdicts.jsonl"))):
        rows = [replace(row, kind=kinds[row.kind], score=(number + 1) / 4) for row in read_verdicts(path)]
        write_verdicts(rows, path)
        about = {"benchmark": {"benchmark": benchmark} | of_arm.get(path.parent.name, {}), "judge": judge}
        path.with_name(SCORES_FILE).write_text(json.dumps(about | {"scale": asdict(scale)}))


def test_a_geneval_report_has_the_paper_s_rows_and_says_when_prompts_differ(tmp_path, folders):
    kinds = {kind: kind for kind in GENEVAL_NAMES} | SAME_AS
    judge = {"judge": "geneval/1", "detector": {"model": "a detector"}}
    long = {"prompt_set": "long"}
    scale = Scale(kinds=tuple(GENEVAL_NAMES))
    rescored(folders, kinds, scale, "geneval", judge, process={"prompt_set": "short"}, single_pass=long)
    page = report(folders, tmp_path / "report").read_text()
    outline(page)
    for row in GENEVAL:
        assert html.escape(f"paper: {row.label}") in page
    assert "Unequal benchmark.prompt_set: short in “process”; long in “single_pass”." in page
    assert "detector a detector" in page and 'class="hollow"' in page
    assert "> **Unequal benchmark" in (tmp_path / "report" / "report.md").read_text()


def test_a_wise_report_reads_scores_and_shows_both_overalls(tmp_path, folders):
    names = tuple(WISE[0].kinds)
    kinds = dict(zip(KINDS, names, strict=True))
    weights = dict(zip(names, (0.4, 0.167, 0.133, 0.1, 0.1, 0.1), strict=True))
    scale = Scale(measure="score", kinds=names, overalls={"overall": weights, "equal": {}}, num_required=1)
    rescored(folders, kinds, scale, "wise", {"judge": "wise/1", "protocol": "wise"})
    page = report(folders, tmp_path / "report").read_text()
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert [run["overall"]["estimate"] for run in results["runs"].values()] == pytest.approx([0.25, 0.5])
    assert results["weights"] == {"overall": weights, "equal": {}} and results["measure"] == "score"
    (pair,) = results["pairs"]
    assert pair["difference"]["estimate"] == pytest.approx(0.25) and pair["wins"] == pair["num"]
    assert {"paper: BAGEL", "0.25", "0.50", "+0.25"} <= set(map(html.unescape, cells(page)))
    assert "hollow" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


def test_runs_of_two_benchmarks_make_no_report(tmp_path, folders):
    for name in ("process", "single_pass"):
        (folders / name / SCORES_FILE).write_text(json.dumps({"benchmark": {"benchmark": name}}))
    with pytest.raises(ValueError, match="different benchmarks"):
        report(folders, tmp_path / "report")
    assert not (tmp_path / "report").exists()
