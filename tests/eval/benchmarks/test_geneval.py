"""GenEval's prompts and folders, and of its rules what the golden cases do not say."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from brushwork.critic.verdict import Verdict
from brushwork.eval.benchmark import Benchmark, BenchmarkPrompt, Examiner
from brushwork.eval.benchmarks.geneval import ColorNamer, Detector, GenEval, GenEvalExaminer
from brushwork.eval.benchmarks.geneval_color import ClipColors
from brushwork.eval.benchmarks.geneval_detector import Mask2FormerDetector
from brushwork.eval.benchmarks.geneval_folder import RESULTS_FILE, keys_of, official_results, summary, write_official
from brushwork.eval.benchmarks.geneval_prompts import TAGS, object_names
from brushwork.eval.benchmarks.geneval_rules import Detection, Options
from brushwork.eval.verdicts import ScoredTrajectory

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
DOG = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
SIZES = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}


class Sees:
    """A detector that always sees the same; and a namer that always says one colour and counts its calls."""

    def __init__(self, *detections: Detection, color: str = "red") -> None:
        self.detections, self.color, self.asked = list(detections), color, []

    def __call__(self, *question) -> list:
        if len(question) == 1:
            return self.detections
        self.asked.append([one.name for one in question[2]])
        return [self.color] * len(question[2])

    def describe(self) -> dict:
        return {"model": "fixed"}


def thing(name: str, score: float = 0.95, box: tuple[float, ...] = (0, 0, 10, 10)) -> Detection:
    return Detection(name=name, score=score, box=np.array(box, np.float32))


def examine(metadata: dict, *detections: Detection, **options) -> Verdict:
    sees = Sees(*detections)
    examiner = GenEvalExaminer(detector=sees, colors=sees, options=Options(**options))
    sample = BenchmarkPrompt(key="0", prompt=metadata["prompt"], kind=metadata["tag"], seed=0, record=metadata)
    verdict = examiner.examine(sample, IMAGE)
    assert isinstance(verdict, Verdict)
    return verdict


# --- prompts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt_set", ["short", "long"])
def test_the_official_prompts(prompt_set):
    samples = GenEval(prompt_set=prompt_set).prompts()
    assert len(samples) == 4 * 553
    kinds = [sample.kind for sample in samples[::4]]
    assert {tag: kinds.count(tag) for tag in dict.fromkeys(kinds)} == SIZES and tuple(SIZES) == TAGS
    assert len({sample.key for sample in samples}) == len({sample.seed for sample in samples}) == len(samples)
    assert all(0 <= sample.seed < 2**31 for sample in samples)
    assert samples[4 * 14 + 2].key == "00014-00002" and samples[4 * 14 + 2].file == "00014/samples/00002.png"
    assert samples[4 * 14].record["include"] == [{"class": "parking meter", "count": 1}]
    assert samples[4 * 14].prompt == samples[4 * 14].record["prompt"] and "parking meter" in samples[4 * 14].prompt
    assert {one["class"] for sample in samples for one in sample.record["include"]} <= set(object_names())


def test_both_prompt_sets_ask_for_the_same_in_other_words():
    short, long = (GenEval(prompt_set=name).prompts() for name in ("short", "long"))
    for one, other in zip(short, long, strict=True):
        assert (one.key, one.seed, one.file) == (other.key, other.seed, other.file)
        assert {**one.record, "prompt": ""} == {**other.record, "prompt": ""}
        assert len(one.prompt) < len(other.prompt)


def test_the_seed_of_a_picture_depends_on_the_seed_alone():
    four, two = GenEval().prompts(), GenEval(images_per_prompt=2).prompts()
    assert {one.key: one.seed for one in two}.items() <= {one.key: one.seed for one in four}.items()
    assert not {one.seed for one in GenEval(seed=1).prompts()} & {one.seed for one in four}
    assert max(one.seed for one in GenEval(seed=2**40).prompts()) < 2**31


def test_prompts_of_ones_own(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(DOG) + "\n\n" + json.dumps({**DOG, "prompt": "a d\u2028g"}, ensure_ascii=False) + "\n")
    samples = GenEval(prompt_set=str(path), images_per_prompt=1).prompts()
    assert [sample.prompt for sample in samples] == ["a photo of a dog", "a d\u2028g"]
    assert isinstance(GenEval(), Benchmark) and GenEval().describe()["prompt_set"] == "short"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ('["a"]', "line 2"),
        (json.dumps({"include": [], "prompt": "a"}), "line 2.*tag"),
        (json.dumps({"tag": "a", "include": []}), "line 2.*prompt"),
        (json.dumps({"tag": "a", "include": [{"class": "dog"}], "prompt": "a"}), "line 2.*count"),
        (
            json.dumps(
                {"tag": "a", "include": [{"class": "dog", "count": 1, "position": ["above", 0]}], "prompt": "a"}
            ),
            "line 2.*earlier clause",
        ),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, said):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(DOG) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=f"mine.jsonl, {said}"):
        GenEval(prompt_set=str(path)).prompts()


def test_wrong_settings_are_told():
    with pytest.raises(FileNotFoundError, match=r"'shrot'.*'short', 'long'"):
        GenEval(prompt_set="shrot").prompts()
    with pytest.raises(ValueError, match="images_per_prompt is 0"):
        GenEval(images_per_prompt=0).prompts()


@pytest.mark.slow
def test_reading_prompts_loads_no_library_of_models():
    code = (
        "import sys, brushwork.eval.benchmarks.geneval as g; import brushwork.eval.benchmarks.geneval_detector;"
        "import brushwork.eval.benchmarks.geneval_color; g.GenEval().prompts(); print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- folders ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, metadata in (("00000", DOG), ("7", {**DOG, "prompt": "another dog"})):
        (tmp_path / name / "samples").mkdir(parents=True)
        (tmp_path / name / "metadata.jsonl").write_text(json.dumps(metadata))
        for sample in ("0000.png", "0001.png", "draft.png"):
            PIL.Image.fromarray(IMAGE).save(tmp_path / name / "samples" / sample)
    return tmp_path


def test_a_folder_is_asked_for_as_it_lies_there(folder, caplog):
    with caplog.at_level(logging.WARNING):
        samples = GenEval(folder=str(folder)).prompts()
    assert [(one.key, one.file, one.prompt) for one in samples] == [
        ("00000-00000", "00000/samples/0000.png", "a photo of a dog"),
        ("00000-00001", "00000/samples/0001.png", "a photo of a dog"),
        ("00007-00000", "7/samples/0000.png", "another dog"),
        ("00007-00001", "7/samples/0001.png", "another dog"),
    ]
    assert "4 pictures of 2 prompts" in caplog.text and "lacks 2210 pictures of 553 prompts" in caplog.text


def test_a_complete_folder_needs_no_words(folder, tmp_path, caplog):
    asked = tmp_path / "mine.jsonl"
    asked.write_text(json.dumps(DOG) + "\n")
    with caplog.at_level(logging.WARNING):
        GenEval(folder=str(folder), prompt_set=str(asked), images_per_prompt=2).prompts()
    assert not caplog.text


@pytest.mark.parametrize("lacking", ["metadata.jsonl", "samples"])
def test_a_broken_folder_is_named(folder, lacking):
    (folder / "7" / lacking).rename(folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"7 has no {lacking}"):
        GenEval(folder=str(folder)).prompts()


def test_other_wrong_folders_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        GenEval(folder=str(tmp_path / "absent")).prompts()
    with pytest.raises(ValueError, match=r"holds no picture.*00000\.png"):
        GenEval(folder=str(tmp_path)).prompts()
    (tmp_path / "3" / "samples").mkdir(parents=True)
    (tmp_path / "3" / "metadata.jsonl").write_text(json.dumps(DOG) + "\n" + json.dumps(DOG))
    with pytest.raises(ValueError, match=r"3/metadata\.jsonl"):
        GenEval(folder=str(tmp_path)).prompts()


def test_a_folder_tells_which_prompt_set_lies_in_it(tmp_path):
    for name in ("long", "short"):
        sample = GenEval(prompt_set=name).prompts()[0]
        place = tmp_path / name / sample.file
        place.parent.mkdir(parents=True)
        PIL.Image.fromarray(IMAGE).save(place)
        metadata = place.parents[1] / "metadata.jsonl"
        metadata.write_text(json.dumps(dict(sample.record)))
        assert GenEval(folder=str(tmp_path / name)).describe()["prompt_set"] == name
    metadata.write_text(json.dumps({**DOG, "prompt": "my dog"}))
    assert GenEval(folder=str(tmp_path / "short")).describe()["prompt_set"] == "the folder's own"


def test_keys_are_distinct_and_safe():
    files = ["7/samples/0.png", "007/samples/00.png", "7/samples/1.png.part", "7/samples/1.png.png", "٣/samples/1.png"]
    assert keys_of(files) == ["00007-00000", "00007-00000_2", "00007-1_png_part", "00007-1_png", "0000_-00001"]


def test_what_was_not_judged_is_not_in_the_official_results(folder, tmp_path):
    samples = GenEval(folder=str(folder)).prompts()
    rows = [
        ScoredTrajectory(
            key=sample.key, prompt=sample.prompt, kind=sample.kind, seed=0, passed=passed, score=None, reason="",
            judge="",
        )
        for sample, passed in zip(samples, (True, None, False, False), strict=True)
    ]  # fmt: skip
    write_official(rows, samples, tmp_path / "out")
    written = [json.loads(line) for line in (tmp_path / "out" / RESULTS_FILE).read_text().splitlines()]
    assert written == official_results(rows, samples) and len(written) == 3
    assert summary(written).correct_images == 1 / 3 and summary(written).correct_prompts == 1 / 2
    assert json.loads(written[0]["metadata"]) == DOG
    with pytest.raises(ValueError, match="no results"):
        summary([])


# --- rules: what the golden cases do not say ----------------------------------------------------------------


def test_a_picture_is_unfinished_where_something_is_only_missing():
    beside = {
        "tag": "position",
        "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
        "prompt": "a photo of a dog left of a cat",
    }
    assert examine(beside).unfinished
    alone = examine(beside, thing("dog"))
    assert alone.unfinished and alone.reason == "expected cat>=1, found 0\nno target for dog to be left of"
    wrong = examine(beside, thing("dog", box=(50, 0, 60, 10)), thing("cat"))
    assert wrong.unfinished is False and wrong.reason == "expected dog left of target, found right of target"
    right = examine(beside, thing("cat", box=(50, 0, 60, 10)), thing("dog"))
    assert right.passed and right.score == 1 and right.unfinished is False and right.reason == ""
    cat, dog = [50, 0, 60, 10, pytest.approx(0.95)], [0, 0, 10, 10, pytest.approx(0.95)]
    assert right.details == {"kept": {"cat": [cat], "dog": [dog]}}


def test_colors_are_asked_only_where_they_decide():
    metadata = {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a red dog"}
    sees = Sees(thing("dog", 0.8), thing("dog", 0.9), thing("cat"))
    examiner = GenEvalExaminer(detector=sees, colors=sees)
    sample = BenchmarkPrompt(key="0", prompt="a red dog", kind="colors", seed=0, record=metadata)
    assert examiner.examine(sample, IMAGE).passed and sees.asked == [["dog"]]
    sees.detections = [thing("cat")]
    assert not examiner.examine(sample, IMAGE).passed and sees.asked == [["dog"]]


def test_a_sample_of_another_benchmark_is_refused():
    sees = Sees()
    sample = BenchmarkPrompt(key="0", prompt="a dog", kind="free", seed=0)
    with pytest.raises(ValueError, match=r"no clauses.*benchmark=geneval.*judge=llm"):
        GenEvalExaminer(detector=sees, colors=sees).examine(sample, IMAGE)


def test_the_examiner_tells_what_it_is():
    sees = Sees()
    examiner = GenEvalExaminer(detector=sees, colors=ClipColors(model="some/clip"), options=Options(threshold=0.4))
    assert isinstance(examiner, Examiner) and isinstance(sees, Detector) and isinstance(sees, ColorNamer)
    assert examiner.scale.kinds == TAGS and examiner.scale.measure == "passed"
    told = json.loads(json.dumps(examiner.describe()))
    assert told["judge"] == "geneval/1" and told["detector"] == {"model": "fixed"}
    assert told["colors"]["model"] == "some/clip" and told["options"]["threshold"] == 0.4
    with pytest.raises(ValueError, match=r"floor 0\.5 is above the threshold 0\.3"):
        GenEvalExaminer(detector=Mask2FormerDetector(floor=0.5), colors=sees)
