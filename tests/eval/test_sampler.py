"""predict: resumable to the byte, refused prompts set aside, nothing mixed."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from brushwork.data.shards import ShardFolder
from brushwork.eval.sampler import predict
from brushwork.tokens.trajectory import Trajectory


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".tar"}


@pytest.fixture
def sampler(trajectories, replay):
    return replay(trajectories)


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
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rejected] == ["b <refine>", "<|vision_start|>"]
    assert "control tag" in rejected[0]["reason"]
    assert [one.prompt for one in ShardFolder(folder, "predictions")] == ["a", "c", "d", "f", "g"]
    assert all("seconds" in one.meta["cost"] for one in ShardFolder(folder, "predictions"))


def test_refusals_survive_a_resumption(tmp_path, trajectories):
    prompts = ["a", "b <refine>", "c", "d <des>"]
    folder = predict(Picky(trajectories[0]), tmp_path, prompts=prompts, batch_size=2)
    before = (folder / "rejected.jsonl").read_text()
    for path in folder.glob("predictions-00001.*"):
        path.unlink()
    predict(Picky(trajectories[0]), tmp_path, prompts=prompts, batch_size=2)
    assert (folder / "rejected.jsonl").read_text() == before


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
