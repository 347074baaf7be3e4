"""The build: what it writes, that it can be killed, that no process changes a byte, that nothing is lost."""

import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.data.build import build
from brushwork.data.executors import LocalExecutor
from brushwork.data.manifest import claim, statistics_table
from brushwork.data.shards import Rejected, ShardFolder
from brushwork.data.sources.jsonl import JsonlSource
from brushwork.data.sources.shapes import ShapesSource
from brushwork.data.subsets.alignment import planted_alignment
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.tasks import Reject, Task, task_rng
from brushwork.data.worlds.shapes import KINDS, ShapesWorld
from brushwork.tokens.trajectory import Draft, Step, Trajectory

WORLD = ShapesWorld()
SOURCE = ShapesSource(world=WORLD)
SUBSET = partial(multi_turn, drawing=shapes_drawing(WORLD, plan="located"), flaw_rate=0.5)
SIZES = {"num_samples": {"train": 14, "val": 6}, "samples_per_shard": 4}


def run(out: Path, subset=SUBSET, source=SOURCE, **options) -> dict:
    return build(source, subset, **{**SIZES, "world": WORLD, **options}, out=out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "new"
    run(folder)
    return folder


def test_what_is_built(built):
    shards = [f"train-0000{number}" for number in range(4)] + ["val-00000", "val-00001"]
    endings = ("index.json", "rejects.jsonl", "report.json", "tar")
    files = [f"{shard}.{ending}" for shard in shards for ending in endings]
    assert sorted(contents(built)) == sorted([*files, "build.json", "manifest.json", "words.json"])
    assert json.loads((built / "words.json").read_text()) == list(WORLD.words())
    train, val = ShardFolder(built, "train"), ShardFolder(built, "val")
    assert len(train) == 14 and len(val) == 6
    assert [key[:16] for key in train.keys[:5]] == [f"train-{n:010d}" for n in (0, 1, 2, 3, 100000)]
    assert [one.meta["kind"] for one in train][:4] == [*KINDS[:4]]
    assert {one.meta["split"] for one in val} == {"val"}
    assert not any(isinstance(one, Rejected) for one in (*train, *val))


def test_the_manifest_counts_what_is_there(built):
    manifest = json.loads((built / "manifest.json").read_text())
    subset = manifest["config"]["subset"]
    assert subset["_target_"] == "brushwork.data.subsets.multi_turn.multi_turn" and subset["flaw_rate"] == 0.5
    assert subset["drawing"]["plan"] == "located", "the settings of what a subset is made of are there too"
    assert subset["drawing"]["editor"]["_target_"] == "brushwork.data.editors.renderer.RendererEditor"
    assert manifest["config"]["world"]["canvas"] == 32 and manifest["config"]["seed"] == 0
    for split in ("train", "val"):
        samples = list(ShardFolder(built, split))
        found = manifest["splits"][split]
        assert found["samples"] == len(samples)
        assert found["images"] == sum(len(list(one.drafts)) for one in samples)
        assert found["most_images"] == max(len(list(one.drafts)) for one in samples)
        assert found["words"] == sum(len(one.prompt.split()) for one in samples)
        assert found["kinds"] == Counter(one.meta["kind"] for one in samples)
        assert not found["rejected"] and not found["missing"]


def test_the_table_sets_a_build_beside_the_paper(tmp_path):
    subset = partial(planted_alignment, drawing=shapes_drawing(WORLD))
    manifest = run(tmp_path, subset, num_samples={"train": 9}, positives=1 / 3)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(statistics_table(manifest))
    rows = [line.split() for line in console.export_text().splitlines()]
    (ours,) = [row for row in rows if row[:1] == ["train"]]
    (paper,) = [row for row in rows if row[:2] == ["paper,", "alignment"]]
    found = manifest["splits"]["train"]
    assert ours == [
        "train",
        "9",
        f"{found['words'] / 9:.1f}",
        f"{found['images'] / 9:.2f}",
        str(found["most_images"]),
        "3",
        "6",
        "0",
    ]
    assert paper == ["paper,", "alignment", "15,000", "5,000", "10,000"]


def test_the_bytes_do_not_depend_on_processes_or_batches(built, tmp_path):
    run(tmp_path / "two", executor=LocalExecutor(num_processes=2))
    assert contents(tmp_path / "two") == contents(built)
    run(tmp_path / "one by one", batch_size=1)
    of_batches = {name: data for name, data in contents(tmp_path / "one by one").items() if name.endswith(".tar")}
    assert of_batches.items() <= contents(built).items()


class Mortal:
    """The subset, until it has been called too often."""

    def __init__(self, lives: int) -> None:
        self.lives, self.calls = lives, 0

    def __call__(self, tasks, **settings):
        self.calls += len(tasks)
        if self.calls > self.lives:
            raise KeyboardInterrupt
        return multi_turn(tasks, **settings)


@pytest.mark.parametrize(("lives", "left"), [(0, 20), (3, 20), (8, 12), (18, 2)])
def test_a_build_that_failed_goes_on_and_ends_in_the_same_bytes(built, tmp_path, lives, left):
    mortal = Mortal(lives)
    subset = partial(mortal, **SUBSET.keywords)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, subset)
    assert not (tmp_path / "manifest.json").exists() and not list(tmp_path.glob(".*.tmp"))
    (tmp_path / ".train-00003.tar.99999999.tmp").write_bytes(b"half")
    mortal.lives, mortal.calls = 100, 0
    run(tmp_path, subset)
    assert mortal.calls == left, "complete shards are not built again"
    shards = [name for name in contents(built) if name.endswith((".tar", ".index.json", ".rejects.jsonl"))]
    assert all(contents(tmp_path)[name] == contents(built)[name] for name in shards)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.slow
def test_killed_ten_times_it_ends_in_the_same_bytes(tmp_path):
    sizes = ["num_samples={train: 1500, val: 60}", "samples_per_shard=50"]
    command = [sys.executable, "-m", "brushwork.trainer", "build", "subset=multi_turn", *sizes]
    subprocess.run([*command, f"out={tmp_path}/unbroken"], check=True, capture_output=True)
    moments, killed = random.Random(0), 0
    broken = [*command, f"out={tmp_path}/broken"]
    while killed < 10:
        process = subprocess.Popen(broken, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen = set(tmp_path.glob("broken/*.tar"))
        until = time.monotonic() + 20
        while set(tmp_path.glob("broken/*.tar")) == seen and time.monotonic() < until:  # it is still starting
            time.sleep(0.002)
        time.sleep(moments.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert not (tmp_path / "broken" / "manifest.json").exists(), "it was killed before it was done, every time"
    subprocess.run(broken, check=True, capture_output=True)
    skip = ("build.log", "build.yaml")  # the command's own
    one, other = ({n: d for n, d in contents(tmp_path / f).items() if n not in skip} for f in ("unbroken", "broken"))
    assert one == other


def test_a_damaged_shard_is_built_anew(built, tmp_path):
    run(tmp_path)
    whole = contents(tmp_path)
    (tmp_path / "train-00001.tar").write_bytes(whole["train-00001.tar"][:3000])
    (tmp_path / "train-00002.index.json").unlink()
    (tmp_path / "train-00003.report.json").write_text("{")
    run(tmp_path)
    assert contents(tmp_path) == whole == contents(built)


def test_another_seed_gives_other_samples(built, tmp_path):
    run(tmp_path, seed=1)
    assert contents(tmp_path)["train-00000.tar"] != contents(built)["train-00000.tar"]


def test_a_split_can_be_left_out(tmp_path):
    assert set(run(tmp_path, num_samples={"train": 2, "val": 0})["splits"]) == {"train"}


def test_an_interrupted_build_ends_at_once_and_says_so(tmp_path):
    """As a terminal interrupts: the parent and its processes alike."""
    sizes = ["num_samples={train: 60000, val: 0}", "samples_per_shard=20000"]
    command = [sys.executable, "-m", "brushwork.trainer", "build", *sizes, f"out={tmp_path}/b"]
    options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what runs in the background is born deaf to it
    with subprocess.Popen(command, preexec_fn=heed, **options) as process:
        until = time.monotonic() + 60
        while not list(tmp_path.glob("b/.train*")) and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on where it stopped" in said
    assert not list(tmp_path.glob("b/*.tar")), "no shard is waited for"


def test_pictures_may_be_webp(tmp_path):
    run(tmp_path, num_samples={"train": 2}, picture_format="webp")
    sample = ShardFolder(tmp_path, "train")[0]
    assert sample.final_image.shape == (32, 32, 3)
    with tarfile.open(tmp_path / "train-00000.tar") as tar:
        assert f"{sample.key}.000.webp" in tar.getnames()
    with pytest.raises(ValueError, match="expected one of"):
        run(tmp_path, num_samples={"train": 2}, picture_format="jpeg")


def test_classes_are_balanced_to_the_sample(tmp_path):
    subset = partial(planted_alignment, drawing=shapes_drawing(WORLD), positives=0.9)
    manifest = run(tmp_path, subset, num_samples={"train": 22}, samples_per_shard=4, positives=0.25)
    assert manifest["splits"]["train"]["labels"] == {"negative": 16, "positive": 6}, "round(22 / 4) are positive"
    assert manifest["splits"]["train"]["surplus"] > 0
    labels = [one.meta["label"] for one in ShardFolder(tmp_path, "train")]
    assert Counter(labels) == {"positive": 6, "negative": 16}


def test_a_class_that_never_comes_is_reported(tmp_path):
    subset = partial(planted_alignment, drawing=shapes_drawing(WORLD), positives=1.0)
    manifest = run(tmp_path, subset, num_samples={"train": 10}, positives=0.5, max_tries=3)
    found = manifest["splits"]["train"]
    assert found["samples"] == 5 and found["missing"] == {"negative": 5}


def test_what_an_endpoint_that_was_down_left_out_is_made_when_it_is_up(tmp_path):
    up = []

    def judge(prompt, image):
        return (
            Verdict(passed=True, score=1.0, reason="", judge="j")
            if up
            else JudgeFailure(reason="down", judge="j", transient=True)
        )

    subset = partial(multi_turn, drawing=shapes_drawing(WORLD, judge=judge))
    source = Few(world=WORLD)
    with pytest.raises(ValueError, match="not one sample could be built, most often because the judge failed"):
        run(tmp_path, subset, source, num_samples={"train": 4})
    up.append(True)
    assert run(tmp_path, subset, source, num_samples={"train": 4})["splits"]["train"]["samples"] == 4


def test_a_second_outage_takes_nothing_away(tmp_path):
    calls = itertools.count()
    limit = [10]

    def judge(prompt, image):
        if next(calls) < limit[0]:
            return Verdict(passed=True, score=1.0, reason="", judge="j")
        return JudgeFailure(reason="down", judge="j", transient=True)

    subset = partial(multi_turn, drawing=shapes_drawing(WORLD, judge=judge))
    run(tmp_path, subset, Few(world=WORLD), num_samples={"train": 8})
    before = contents(tmp_path)
    limit[0] = next(calls) + 1
    run(tmp_path, subset, Few(world=WORLD), num_samples={"train": 8})
    assert contents(tmp_path) == before
    limit[0] = 1000
    assert run(tmp_path, subset, Few(world=WORLD), num_samples={"train": 8})["splits"]["train"]["samples"] == 8


def test_two_different_builds_do_not_share_a_folder(tmp_path):
    with claim(tmp_path, {"out": "", "seed": 1}):
        (tmp_path / ".at-work").write_text(str(os.getppid()))  # somebody else's, who has made no shard yet
        with pytest.raises(ValueError, match=r"differs in seed \(1 there\)"), claim(tmp_path, {"out": "", "seed": 2}):
            pass
    with claim(tmp_path, {"out": "", "seed": 2}):
        pass


class Few(ShapesSource):
    """A corpus of four tasks a part."""

    def __call__(self, split, part, parts, seed):
        return itertools.islice(super().__call__(split, part, parts, seed), 4)


def test_the_files_of_a_build_that_is_at_work_are_left_alone(tmp_path):
    (tmp_path / f".train-00000.tar.{os.getppid()}.tmp").write_bytes(b"half")
    run(tmp_path, num_samples={"train": 2})
    assert len(list(tmp_path.glob(".*.tmp"))) == 1


def test_a_folder_without_shards_may_be_claimed_anew(tmp_path):
    with pytest.raises(ValueError, match="labels a sample None"):
        run(tmp_path, positives=0.5)
    with pytest.raises(ValueError, match="not one sample could be built, most often because unreadable"):
        run(tmp_path, noted, Corpus(prompts=("bad",) * 9), world=None)
    assert run(tmp_path)["splits"]["train"]["samples"] == 14


def test_a_changed_corpus_is_noticed(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"prompt {n}"}) for n in range(40)]
    path.write_text("\n".join(lines))
    source = JsonlSource(path=str(path), held_out=0.0, held_out_val=0.0)
    options = {"num_samples": {"train": 8}, "world": None}
    run(tmp_path / "built", noted, source, **options)
    run(tmp_path / "built", noted, source, **options)
    path.write_text("\n".join(["", *lines]))
    with pytest.raises(ValueError, match=r"differs in source\.identity"):
        run(tmp_path / "built", noted, source, **options)


def test_a_balance_of_what_has_no_classes_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="labels a sample None; expected 'positive' or 'negative'"):
        run(tmp_path, positives=0.5)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A source that ends, some of whose records cannot be read."""

    prompts: tuple[str, ...]

    def __call__(self, split: str, part: int, parts: int, seed: int) -> Iterator[Task | Reject]:
        for number, prompt in enumerate(self.prompts[part::parts]):
            if prompt.startswith("bad"):
                yield Reject(prompt=prompt, reason="unreadable: on purpose")
            else:
                yield Task(prompt=prompt, split=split, rng=task_rng(seed, split, part, number))


def noted(tasks):
    """A subset that draws nothing but numbers from each task's own randomness."""
    steps = [(Step(plan=None, drafts=(Draft(image=t.rng.integers(0, 255, (4, 4, 3), np.uint8)),)),) for t in tasks]
    return [Trajectory(key="new", prompt=t.prompt, steps=s) for t, s in zip(tasks, steps, strict=True)]


def test_a_corpus_that_ends_is_used_up_and_what_is_rejected_is_kept(tmp_path):
    prompts = (*(f"prompt {n}" for n in range(9)), "bad one", "A photo of a bench.")
    manifest = run(tmp_path, noted, Corpus(prompts=prompts), num_samples={"train": 12}, world=None)
    found = manifest["splits"]["train"]
    assert found["samples"] == 9 and found["missing"] == {"samples": 3}
    assert found["rejected"] == {"a benchmark asks for it": 1, "unreadable": 1}
    assert sorted(one.prompt for one in ShardFolder(tmp_path, "train")) == sorted(prompts[:9])
    lines = [json.loads(line) for path in tmp_path.glob("*.rejects.jsonl") for line in path.read_text().splitlines()]
    assert {line["prompt"]: line["reason"] for line in lines} == {
        "bad one": "unreadable: on purpose",
        "A photo of a bench.": "a benchmark asks for it",
    }
    assert not (tmp_path / "words.json").exists(), "a corpus has no world whose words could be listed"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"num_samples": {"val": 6}}, r"num_samples\.train"),
        ({"subset": partial(SUBSET, flaw_rate=0.4)}, r"subset\.flaw_rate"),
        ({"source": replace(SOURCE, kinds=("colors",))}, r"source\.kinds"),
    ],
)
def test_a_folder_is_not_mixed_from_two_configurations(built, options, named):
    before = contents(built)
    with pytest.raises(ValueError, match=f"differs in {named} .*choose another out="):
        run(built, **options)
    assert contents(built) == before


@pytest.mark.parametrize(
    "options",
    [
        {"num_samples": {"training": 4}},
        {"num_samples": {"train": 0, "val": None}},
        {"num_samples": {"train": -1}},
        {"samples_per_shard": 0},
        {"max_tries": 0},
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="expected at least 1"):
        run(tmp_path, **options)
    assert not contents(tmp_path)


class Killed:
    """A subset whose process is killed at its first call."""

    def __call__(self, tasks):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_told_in_a_sentence(tmp_path):
    with pytest.raises(ChildProcessError, match="the same command goes on where it stopped"):
        run(tmp_path, Killed(), executor=LocalExecutor(num_processes=2))
