"""predict: resumable to the byte, refused prompts set aside, nothing mixed."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from brushwork.data.shards import ShardFolder
from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.eval.sampler import PREDICTIONS_FOLDER, predict, read_rejected, read_samples
from brushwork.tokens.trajectory import Trajectory


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".tar"}


@pytest.fixture
def sampler(trajectories, replay):
    """Tells all costs itself: what would be measured differs from run to run."""
    told = [{**one.meta, "cost": {**one.meta["cost"], "peak_memory_mib": 1.0}} for one in trajectories]
    return replay([replace(one, meta=meta) for one, meta in zip(trajectories, told, strict=True)])


@pytest.fixture
def benchmark(trajectories, benchmark_of):
    return benchmark_of(trajectories)


def test_keys_kinds_seeds_and_costs_are_stored(tmp_path, sampler, benchmark, trajectories):
    stored = list(ShardFolder(predict(sampler, tmp_path, benchmark, batch_size=5), "predictions"))
    assert [one.key for one in stored] == [prompt.key for prompt in benchmark.prompts()]
    assert [one.prompt for one in stored] == [one.prompt for one in trajectories]
    assert all(one.meta["cost"]["seconds"] == 0.5 for one in stored)
    assert [one.meta["seed"] for one in stored] == list(range(len(trajectories)))


def test_goes_on_after_an_interruption_with_the_same_bytes(tmp_path, sampler, benchmark):
    whole = contents(predict(sampler, tmp_path / "whole", benchmark, batch_size=5))
    calls = []

    class Interrupted:
        fingerprint = sampler.fingerprint

        def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
            calls.append(len(prompts))
            if len(calls) == 2:
                raise KeyboardInterrupt
            return sampler(prompts, seeds)

    with pytest.raises(KeyboardInterrupt):
        predict(Interrupted(), tmp_path / "parts", benchmark, batch_size=5)
    assert len(contents(tmp_path / "parts" / "predictions")) == 1
    folder = predict(Interrupted(), tmp_path / "parts", benchmark, batch_size=5)
    assert contents(folder) == whole
    assert calls == [5, 5, 5, 2], "the first batch is not drawn again"


@pytest.mark.parametrize("change", ["sampler", "batch_size", "samples"])
def test_refuses_to_mix_two_requests(tmp_path, trajectories, replay, benchmark_of, change):
    benchmark = benchmark_of(trajectories)
    predict(replay(trajectories), tmp_path, benchmark, batch_size=5)
    sampler = replay(trajectories, "other") if change == "sampler" else replay(trajectories)
    other = benchmark_of(trajectories[:7]) if change == "samples" else benchmark
    size = 4 if change == "batch_size" else 5
    with pytest.raises(ValueError, match=f"differ in {change}.*overwrite=true"):
        predict(sampler, tmp_path, other, batch_size=size)
    folder = predict(sampler, tmp_path, other, batch_size=size, overwrite=True)
    assert len(ShardFolder(folder, "predictions")) == len(other.prompts())


class Picky:
    """Refuses prompts with a tag in them, as a vocabulary does."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.trajectory = trajectory

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        for prompt in prompts:
            if "<" in prompt:
                raise ValueError(f"{prompt!r} contains a control tag")
        return [self.trajectory] * len(prompts)


def test_refused_prompts_are_set_aside_and_counted(tmp_path, trajectories):
    prompts = ["a", "b <refine>", "c", "d", "<|vision_start|>", "f", "g"]
    folder = predict(Picky(trajectories[0]), tmp_path, prompts=prompts, batch_size=4)
    rejected = read_rejected(folder)
    assert [row["prompt"] for row in rejected] == ["b <refine>", "<|vision_start|>"]
    assert "control tag" in rejected[0]["reason"]
    assert [one.prompt for one in ShardFolder(folder, "predictions")] == ["a", "c", "d", "f", "g"]
    assert all("seconds" in one.meta["cost"] for one in ShardFolder(folder, "predictions"))


def test_refusals_survive_a_resumption(tmp_path, trajectories):
    prompts = ["a", "b <refine>", "c", "d <des>", "<ins>", "<des>"]
    folder = predict(Picky(trajectories[0]), tmp_path, prompts=prompts, batch_size=2)
    before = read_rejected(folder)
    for path in folder.glob("predictions-00001.*"):
        path.unlink()
    asked = []

    class Watched(Picky):
        def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
            asked.extend(prompts)
            return super().__call__(prompts, seeds)

    watched = Watched(trajectories[0])
    watched.fingerprint = "Picky"
    predict(watched, tmp_path, prompts=prompts, batch_size=2)
    assert read_rejected(folder) == before
    assert set(asked) == {"c", "d <des>"}, "neither what was drawn nor a batch that was refused as a whole comes again"


def test_every_prompt_refused_is_an_error(tmp_path, trajectories):
    with pytest.raises(ValueError, match=r"refused every prompt.*control tag"):
        predict(Picky(trajectories[0]), tmp_path, prompts=["<ins>", "<des>"])


def test_free_prompts_go_before_the_benchmark(tmp_path, trajectories, benchmark):
    folder = predict(Picky(trajectories[0]), tmp_path, benchmark, prompts=["my own"], seed=7)
    (only,) = ShardFolder(folder, "predictions")
    assert (only.prompt, only.meta["kind"], only.meta["seed"]) == ("my own", "free", 7)


@pytest.mark.parametrize(
    ("arguments", "message"), [({}, "nothing to draw"), ({"prompts": ["a"], "batch_size": 0}, "batch_size")]
)
def test_bad_requests_are_refused(tmp_path, sampler, arguments, message):
    with pytest.raises(ValueError, match=message):
        predict(sampler, tmp_path, **arguments)


class Stored:
    """Answers by the benchmark's names, as a folder of pictures does."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.trajectory = trajectory

    def describe(self) -> dict[str, str]:
        return {"model": "stored"}

    def answer(self, samples: Sequence[BenchmarkPrompt]) -> list[Trajectory]:
        if any(sample.key == "001" for sample in samples):
            raise ValueError("001 is not in the folder")
        return [self.trajectory for _ in samples]


def test_a_keyed_sampler_is_asked_by_key_and_says_what_it_is(tmp_path, trajectories, benchmark):
    folder = predict(Stored(trajectories[0]), tmp_path, benchmark, batch_size=5)
    assert [row["key"] for row in read_rejected(folder)] == ["001"]
    assert len(ShardFolder(folder, PREDICTIONS_FOLDER)) == len(trajectories) - 1
    assert read_samples(folder)["settings"] == {"model": "stored"}


def test_memory_is_measured_where_it_can_be(tmp_path, trajectories):
    folder = predict(Picky(trajectories[0]), tmp_path, prompts=["a"])
    (drawn,) = ShardFolder(folder, PREDICTIONS_FOLDER)
    if sys.platform == "linux":
        assert 10 < drawn.meta["cost"]["peak_memory_mib"] < 100_000


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(tmp_path):
    shared = ["benchmark.prompts_per_kind=2", "batch_size=3", "sampler=renderer"]
    for name, more in {"one": [], "two": ["devices=2", "accelerator=cpu"]}.items():
        command = [sys.executable, "-m", "brushwork.trainer", "predict", *shared, *more, f"out={tmp_path / name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (ShardFolder(tmp_path / name / PREDICTIONS_FOLDER, PREDICTIONS_FOLDER) for name in ("one", "two"))
    assert len(one) == len(two) == 20
    for single, shared in zip(one, two, strict=True):
        assert single.key == shared.key and (single.final_image == shared.final_image).all()


def test_a_prompt_with_another_separator_of_lines_is_set_aside_like_any(tmp_path, trajectories):
    folder = predict(Picky(trajectories[0]), tmp_path, prompts=["a", "b\u2028<ins>"])
    assert [row["prompt"] for row in read_rejected(folder)] == ["b\u2028<ins>"]


def test_a_refusal_that_is_not_repeated_is_forgotten(tmp_path, trajectories):
    """Refusals are written before the shard: killed in between, the batch is drawn again."""
    folder = predict(Picky(trajectories[0]), tmp_path, prompts=["a", "b <ins>"])
    for path in folder.glob("predictions-*"):
        path.unlink()
    tame = Picky(trajectories[0])
    tame.fingerprint = "Picky"
    tame.__class__ = type("Tame", (Picky,), {"__call__": lambda self, prompts, seeds: [self.trajectory] * len(prompts)})
    assert not read_rejected(predict(tame, tmp_path, prompts=["a", "b <ins>"]))


def test_another_request_is_refused_before_other_processes_start(tmp_path, trajectories, replay, benchmark):
    predict(replay(trajectories), tmp_path, benchmark)
    with pytest.raises(ValueError, match="differ in sampler"):
        predict(replay(trajectories, "other"), tmp_path, benchmark, devices=2, accelerator="no such thing")


def test_a_damaged_record_is_named(tmp_path, sampler, benchmark):
    folder = predict(sampler, tmp_path, benchmark)
    (folder / "samples.json").write_text('{"format": 1, "samp')
    with pytest.raises(ValueError, match=r"samples\.json is damaged"):
        predict(sampler, tmp_path, benchmark)


def test_a_shard_that_was_cut_off_is_drawn_again(tmp_path, sampler, benchmark, caplog):
    folder = predict(sampler, tmp_path, benchmark, batch_size=5)
    whole = contents(folder)
    for number, size in ((0, 4000), (2, 0)):
        shard = folder / f"predictions-{number:05d}.tar"
        shard.write_bytes(shard.read_bytes()[:size])
    assert contents(predict(sampler, tmp_path, benchmark, batch_size=5)) == whole
    assert "predictions-00002.tar holds 0 of 2; drawing them again" in caplog.text
