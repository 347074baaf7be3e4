"""The page of a data set: what the build counted, what is lost, nothing that could run, the same bytes for a seed."""

import json
import logging
import re
import shutil
from collections import Counter
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from brushwork.data.build import build
from brushwork.data.index import read_index
from brushwork.data.shards import ShardFolder, write_shards
from brushwork.data.sources.shapes import ShapesSource
from brushwork.data.subsets.alignment import planted_alignment
from brushwork.data.subsets.conflict_scene_graph import symbolic_conflicts
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.tasks import Reject, Task, task_rng
from brushwork.eval.reports import charts, dataset, survey
from brushwork.eval.reports.dataset import binned
from brushwork.eval.reports.report import report
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory

BAD = "<script>alert(1)</script>"
PICTURE = np.full((8, 8, 3), 90, np.uint8)
VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """Checks that tags are nested; gathers tables as rows of texts, cards, links and what would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.cards: list[dict[str, str]] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.boxes: set[tuple[str, str]] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.loads += [known[name] for name in ("src", "srcset", "data", "action") if known.get(name)]
        self.loads += [known["href"]] if tag == "link" else []
        self.links |= {known["href"]} if tag == "a" else set()
        self.ids |= {f"#{known['id']}"} if "id" in known else set()
        self.boxes |= {(known["name"], known["value"])} if known.get("type") == "checkbox" else set()
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "article":
            self.cards.append({"text": "", **known})
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if "article" in self.open:
            self.cards[-1]["text"] += data

    def row(self, first: str, length: int) -> list[str]:
        """The row of so many cells that opens with this one."""
        (found,) = (row for row in self.rows if len(row) == length and row[0] == first)
        return found


def page_of(folder: Path, out: Path, **options) -> tuple[str, Page]:
    path = report("no runs here", out, dataset=folder, **options)
    assert path == out / "dataset.html" and [one.name for one in out.iterdir()] == ["dataset.html"]
    text = path.read_text()
    return text, Page(text)


@pytest.fixture(scope="module")
def built(tmp_path_factory, world) -> dict[str, Path]:
    """A small data set of each subset."""
    folder, drawing = tmp_path_factory.mktemp("built"), shapes_drawing(world)
    subsets = {
        "multi_turn": (partial(multi_turn, drawing=drawing, flaw_rate=0.6), None),
        "conflict": (partial(symbolic_conflicts, drawing=drawing), 0.5),
        "alignment": (partial(planted_alignment, drawing=drawing), 0.25),
    }
    for name, (subset, positives) in subsets.items():
        sizes = {"num_samples": {"train": 22, "val": 11}, "samples_per_shard": 8, "benchmarks": ()}
        build(ShapesSource(world=world), subset, out=folder / name, world=world, positives=positives, **sizes)
    return {name: folder / name for name in subsets}


@pytest.fixture
def copy(built, tmp_path) -> Path:
    return Path(shutil.copytree(built["conflict"], tmp_path / "data"))


@pytest.mark.parametrize("name", ["multi_turn", "conflict", "alignment"])
def test_the_page_tells_what_the_manifest_counts(built, tmp_path, name):
    text, page = page_of(built[name], tmp_path / "out", gallery_per_kind=1)
    splits = json.loads((built[name] / "manifest.json").read_text())["splits"]
    for split, found in splits.items():
        labels = [str(found["labels"].get(label, "")) for label in ("positive", "negative")]
        words, images = f"{found['words'] / found['samples']:.1f}", f"{found['images'] / found['samples']:.2f}"
        row = [split, str(found["samples"]), words, images, str(found["most_images"]), *labels]
        assert page.row(split, 8) == [*row, str(sum(found["rejected"].values()))]
        for kind, count in found["kinds"].items():
            assert f"<title>{kind}: {count}</title>" in text
        classes = Counter((one.meta["kind"], one.meta.get("label", "")) for one in ShardFolder(built[name], split))
        shown = [(card["data-kind"], card["data-label"]) for card in page.cards if card["data-split"] == split]
        assert sorted(shown) == sorted(classes), "one of each kind and label"
    assert page.row(f"paper, {name.replace('_', ' ')}", 8)[1] == {"multi_turn": "32,012", "conflict": "15,201"}.get(
        name, "15,000"
    )
    asked = ("split", "kind") if name == "multi_turn" else ("split", "kind", "label")
    assert page.boxes == {(key, card[f"data-{key}"]) for card in page.cards for key in asked}
    assert "settings of the build, from manifest.json" in text and "samples_per_shard&#34;: 8" in text
    assert ("planted flaws" in text) == ("operations of the plans" in text) == (name == "multi_turn")


def test_the_page_loads_nothing(built, tmp_path):
    text, page = page_of(built["multi_turn"], tmp_path / "out")
    assert page.loads and all(source.startswith("data:image/") for source in page.loads)
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp", text)
    assert "default-src 'none'; img-src data:" in text and page.links <= page.ids


def test_the_process_is_shown_and_what_is_not_learnt_is_marked(built, tmp_path):
    _, page = page_of(built["conflict"], tmp_path / "out")
    samples = {one.key: one for split in ("train", "val") for one in ShardFolder(built["conflict"], split)}
    classes = Counter((one.meta["split"], *dataset.class_of(one)) for one in samples.values())
    assert len(page.cards) == sum(min(2, count) for count in classes.values())
    for card in page.cards:
        sample = next(one for key, one in samples.items() if key in card["text"])
        assert (sample.meta["kind"], sample.meta["label"]) == (card["data-kind"], card["data-label"])
        plans = sum(step.plan.flawed for step in sample.steps)
        drafts = sum(draft.flawed for draft in sample.drafts)
        for thing, count in (("plan", plans), ("draft", drafts)):  # each, and their number in the card's head
            assert card["text"].count(f"flawed {thing}") == count + (count > 0)
        assert (f"{plans} flawed plan" in card["text"]) == bool(plans) == (card["data-label"] == "negative")
        for step in sample.steps:
            assert step.plan.instruction in card["text"] and step.plan.description in card["text"]
            for said in (draft.inspection for draft in step.drafts if draft.inspection):
                assert said.plan_check in card["text"] and said.refine in card["text"]
                assert said.draft_check in card["text"]


def nasty() -> list[Trajectory]:
    """Samples that say all they may in markup: planned ahead in text, cut off, of no image, of no kind."""
    plan = Plan(instruction=f"do {BAD}", description=f"see {BAD}", flawed=True)
    inspection = Inspection(plan_check=f"plan {BAD}", draft_check=f"draft {BAD}", refine=f"mend {BAD}")
    draft = Draft(image=PICTURE, inspection=inspection, flawed=True)
    meta = {name: f"{name}' {BAD}" for name in ("kind", "label", "subset", "operations")}
    meta["flaws"] = [BAD, f"{BAD} that is too long for the chart", BAD]
    ahead = (Step(plan=plan, drafts=()), Step(plan=plan, drafts=(Draft(image=PICTURE),)))
    steps = {"cut": (Step(plan=plan, drafts=(draft, draft)),), "ahead": ahead, "none": (Step(plan=plan, drafts=()),)}
    prompt = f"prompt {BAD}"
    found = [Trajectory(key=k, prompt=prompt, steps=s, finished=k != "cut", meta=meta) for k, s in steps.items()]
    return [*found, Trajectory(key="bare", prompt="", steps=(Step(plan=None, drafts=(Draft(image=PICTURE),)),))]


def test_no_text_becomes_markup_and_any_folder_of_shards_is_shown(tmp_path):
    folder = tmp_path / "a <b> & c"
    write_shards(nasty(), folder, split="some-split")
    reject = {"prompt": BAD, "reason": f"why {BAD}: {BAD}", f"judge {BAD}": [BAD]}
    (folder / "some-split-00000.rejects.jsonl").write_text(json.dumps(reject) + "\n{\n[]\n")
    text, page = page_of(folder, tmp_path / "out", gallery_per_kind=5)
    assert text.count("<script>") == 1 and "&lt;script&gt;alert(1)" in text and BAD not in text
    assert "<b> & c" not in text and "a &lt;b&gt; &amp; c" in text
    assert "There is no manifest.json" in text and "its settings are not told" in text
    assert page.row("some-split", 8) == ["some-split", "4", "1.5", "1.00", "2", "", "", "1"]
    told = {one.key: card["text"] for one in nasty() for card in page.cards if f"· {one.key} " in card["text"]}
    assert "(not carried out)" in told["cut"] and "cut off" in told["cut"] and "2 flawed drafts" in told["cut"]
    assert told["ahead"].count(f"do {BAD}") == 2 and "2 flawed plans" in told["ahead"]
    assert "no image" in told["none"] and "no kind" in told["bare"]
    assert len(page.cards) == 4 and f"why {BAD}" in [row[0] for row in page.rows]


def test_the_gallery_is_drawn_by_its_seed(built, tmp_path, monkeypatch):
    monkeypatch.setattr("brushwork.eval.reports.report.now", lambda: "today")
    first, again, other = (
        page_of(built["multi_turn"], tmp_path / name, seed=seed)[0]
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert first == again != other
    monkeypatch.setattr(dataset, "MAX_CARDS", 5)
    text, page = page_of(built["multi_turn"], tmp_path / "few")
    assert len(page.cards) == 5 and "up to 5 in all" in text


def test_an_unfinished_build_is_shown_from_its_reports_or_its_samples(copy, tmp_path):
    whole = page_of(copy, tmp_path / "whole")
    (copy / "manifest.json").unlink()
    reported = page_of(copy, tmp_path / "reported")
    (copy / "train-00001.report.json").unlink()
    (copy / "val-00000.report.json").write_text("{")
    (copy / "val-00001.report.json").unlink()
    read = page_of(copy, tmp_path / "read")
    for split in ("train", "val"):
        assert whole[1].row(split, 8) == reported[1].row(split, 8) == read[1].row(split, 8)
    assert "There is no manifest.json" not in whole[0] and "There is no manifest.json" in reported[0]
    assert "from the reports of its shards" in reported[0] and "settings of the build, from build.json" in reported[0]
    assert "the reports of 2 of its 3 shards, and what was read of its samples of the others" in read[0]
    (copy / "manifest.json").write_text('{"splits": {"train": {"samples": "many"}}}')
    assert "manifest.json cannot be read" in page_of(copy, tmp_path / "broken")[0]


def damage(folder: Path, shard: str, number: int, member: str) -> str:
    """Overwrites a member of a sample, leaving the index in place; returns the sample's key."""
    path = folder / f"{shard}.tar"
    entry = read_index(path)[number]
    offset, size = entry.members[member]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * size)
    path.with_suffix(".index.json").touch()  # else it would count as stale
    return entry.key


def test_what_cannot_be_read_is_counted_with_its_reason(copy, tmp_path, caplog):
    keys = [damage(copy, "train-00000", 2, "000.png"), damage(copy, "val-00000", 5, "json")]
    shard = copy / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[: read_index(shard)[5].members["json"][0] - 512])
    (copy / "val-00001.tar").unlink()
    with caplog.at_level(logging.ERROR):
        text, page = page_of(copy, tmp_path / "out", gallery_per_kind=9)
    assert page.row("train", 6) == ["train", "22", "0", "22", "22", "4"], "one picture and three that are cut off"
    assert page.row("val", 6) == ["val", "8", "3", "8", "8", "1"]
    assert page.row("train", 8)[1] == "22", "so many were built"
    assert all(f": {key}</code>" in text for key in keys) and "train: 3 samples: lost: the shard is cut off" in text
    assert not any(key in card["text"] for card in page.cards for key in keys)


def test_of_large_data_sets_a_random_part_is_read(copy, tmp_path, monkeypatch):
    for number in range(8):
        damage(copy, "train-00000", number, "000.png")
    monkeypatch.setattr(survey, "MAX_READ", 26)
    monkeypatch.setattr(survey, "MAX_BYTES", 0)
    text, page = page_of(copy, tmp_path / "out", gallery_per_kind=9)
    assert page.row("val", 6) == ["val", "11", "0", "11", "0", "0"], "the small split is read whole"
    assert "Read: 15 samples of 22, drawn at random." in text and "Read: all 11 samples." in text
    split, _, _, drawn, decoded, damaged = page.row("train", 6)
    assert (split, drawn, decoded) == ("train", "15", "0")
    assert 1 <= int(damaged) <= 8, "damaged pictures come to light where the gallery wants them"
    assert len([card for card in page.cards if card["data-split"] == "train"]) == 15 - int(damaged)


def corpus(split: str, part: int, parts: int, seed: int):
    """A source that ends and refuses some of its records."""
    for number in range(30)[part::parts]:
        if number % 4 == 0:
            yield Reject(prompt=f"bad {number}", reason="unreadable: on purpose", detail={"line": number})
        else:
            yield Task(prompt=f"prompt {number}", split=split, rng=task_rng(seed, split, part, number))


def plain(tasks) -> list[Trajectory]:
    steps = (Step(plan=None, drafts=(Draft(image=PICTURE),)),)
    return [Trajectory(key="new", prompt=task.prompt, steps=steps) for task in tasks]


def test_rejects_are_told_with_examples(tmp_path):
    build(corpus, plain, {"train": 30}, tmp_path / "data", samples_per_shard=10, benchmarks=())
    text, page = page_of(tmp_path / "data", tmp_path / "out")
    found = json.loads((tmp_path / "data" / "manifest.json").read_text())["splits"]["train"]
    assert found["rejected"] == {"unreadable": 8} and found["missing"] == {"samples": 8}
    assert page.row("unreadable", 2) == ["unreadable", "8"] and page.row("train", 8)[-1] == "8"
    assert len(re.findall("<li><q>bad", text)) == 5 and "unreadable: 5 examples" in text and "line: 0" in text
    assert "Could not be reached: 8 samples of train." in text
    for path in (tmp_path / "data").glob("*.rejects.jsonl"):
        path.unlink()
    assert "no example was kept" in page_of(tmp_path / "data", tmp_path / "again")[0]


def test_a_folder_without_shards_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="run: lightning build out="):
        report("", tmp_path / "out", dataset=tmp_path)
    with pytest.raises(ValueError, match="expected 0 or more"):
        report("", tmp_path / "out", dataset=tmp_path, seed=-1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lengths", "bins"),
    [
        ({2: 5, 4: 1}, [("2", 5), ("3", 0), ("4", 1)]),
        ({3: 1}, [("3", 1)]),
        ({99: 2, 120: 3, 121: 1}, [("98–99", 2), *[(f"{n}–{n + 1}", 0) for n in range(100, 120, 2)], ("120–121", 4)]),
    ],
)
def test_numbers_are_binned_without_gaps(lengths, bins):
    assert binned(lengths) == bins


def test_bins_are_few_however_far_the_numbers_reach():
    for high in (15, 16, 31, 33, 400, 12345):
        found = binned({0: 1, high: 2})
        assert len(found) <= dataset.MAX_BINS + 1 and sum(count for _, count in found) == 3


@pytest.mark.parametrize(
    "chart",
    [
        charts.columns([("100–119", 20000), (BAD, 0)], 1, BAD),
        charts.columns([], 0, "nothing"),
        charts.ranking({BAD: 3, "a_kind": 1200}, 7, BAD),
        charts.ranking({}, 0, "nothing"),
        charts.ranking({f"kind {number}": number for number in range(9)}, 0, "many", most=4),
    ],
)
def test_charts_are_well_formed_and_escaped(chart):
    ElementTree.fromstring(chart)
    assert BAD not in chart
    if "many" in chart:
        assert "5 more, together 10" in chart and chart.index("kind 8") < chart.index("kind 5")
