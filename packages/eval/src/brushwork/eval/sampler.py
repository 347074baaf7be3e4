"""Prompts and seeds → trajectories on disk: the `Sampler` protocol and the resumable `predict` that drives one."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from brushwork.data.shards import shard_path, write_shard
from brushwork.eval.benchmark import Benchmark, BenchmarkPrompt
from brushwork.eval.machine import command_line, machine
from brushwork.eval.verdicts import write_text
from brushwork.tokens.trajectory import Trajectory

log = logging.getLogger(__name__)

PREDICTIONS_FOLDER = "predictions"
"""Where `predict` puts its shards inside a run folder; also the name of their split."""
SAMPLES_FILE = "samples.json"
REJECTED_FILE = "rejected.jsonl"


@runtime_checkable
class Sampler(Protocol):
    """Anything that draws: our generator, a one-shot model (a one-image trajectory), the renderer of a toy world.

    A sampler may carry `fingerprint: str`, a name for its weights and settings: `predict` then refuses to mix the
    drawings of two samplers in one folder. Costs go to `meta["cost"]` (see `brushwork.eval.cost`), the reason for
    stopping to `meta["stopped"]`.
    """

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        """Draw one trajectory a prompt, in order; a ValueError means that a prompt cannot be drawn at all."""
        ...


@runtime_checkable
class KeyedSampler(Protocol):
    """Answers that do not come from words alone, such as pictures in a folder under the benchmark's names."""

    def answer(self, samples: Sequence[BenchmarkPrompt]) -> list[Trajectory]:
        """One trajectory a sample, in order; a ValueError means that a sample has no answer."""
        ...


def predict(
    sampler: Sampler,
    out: str | Path,
    benchmark: Benchmark | None = None,
    prompts: Sequence[str] | None = None,
    batch_size: int = 52,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Draw every prompt and store the trajectories, one shard a batch: `lightning predict`.

    Writes `predictions/` inside `out`: the shards, `samples.json` (what was asked of which sampler, on which machine,
    by which command) and `rejected.jsonl` (prompts that the sampler refused, such as control tags typed by a user).
    Started again after an interruption it draws only the batches that are missing.

    Args:
        sampler: draws a batch. Where it does not measure `cost["seconds"]`, the batch's wall time is shared out.
        out: the run folder.
        benchmark: gives prompts, kinds and seeds.
        prompts: free prompts, of the kind "free"; where there are any, the benchmark is not asked.
        batch_size: prompts in one call of the sampler and in one shard.
        seed: the first free prompt's seed, the next having the next; a benchmark brings its own seeds.
        overwrite: throw away the predictions of another benchmark or sampler that `out` holds.

    Returns:
        The folder of the shards.

    Raises:
        ValueError: no prompts, predictions of something else in `out`, or every prompt refused.
    """
    samples = requested_samples(benchmark, prompts, seed)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    folder = Path(out) / PREDICTIONS_FOLDER
    request = {
        "format": 1,
        "sampler": str(getattr(sampler, "fingerprint", type(sampler).__qualname__)),
        "batch_size": batch_size,
        "samples": [asdict(sample) for sample in samples],
    }
    prepare_folder(folder, request, overwrite)
    batches = [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]
    shards = [shard_path(folder, PREDICTIONS_FOLDER, number) for number in range(len(batches))]
    done = {sample.key for batch, shard in zip(batches, shards, strict=True) if shard.exists() for sample in batch}
    rejected = [row for row in read_rejected(folder) if row["key"] in done]
    if done:
        log.info("%d of %d prompts were done before; going on", len(done), len(samples))
    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("drawing", total=len(samples), completed=len(done))
        for batch, shard in zip(batches, shards, strict=True):
            if shard.exists():
                continue
            trajectories, refused = draw(sampler, batch)
            rejected += refused
            # The refusals first: a shard on disk says that its whole batch is accounted for.
            write_text(folder / REJECTED_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected))
            if trajectories:
                write_shard(trajectories, shard)
            progress.advance(task, len(batch))
    if len(rejected) == len(samples):
        raise ValueError(f"the sampler refused every prompt; the first, {samples[0].prompt!r}: {rejected[0]['reason']}")
    if rejected:
        log.warning("%d of %d prompts were set aside; see %s", len(rejected), len(samples), folder / REJECTED_FILE)
    log.info("%d trajectories are in %s", len(samples) - len(rejected), folder)
    return folder


def requested_samples(benchmark: Benchmark | None, prompts: Sequence[str] | None, seed: int) -> list[BenchmarkPrompt]:
    """The free prompts, or the benchmark's where there are none.

    Raises:
        ValueError: there is no prompt, or keys repeat.
    """
    samples = [
        BenchmarkPrompt(key=f"free-{number:04d}", prompt=str(prompt), kind="free", seed=seed + number)
        for number, prompt in enumerate(prompts or ())
    ]
    if not samples and benchmark is not None:
        samples = benchmark.prompts()
    if not samples:
        raise ValueError("there is nothing to draw; expected a benchmark, or prompts such as 'prompts=[a red circle]'")
    if len({sample.key for sample in samples}) < len(samples):
        raise ValueError("the benchmark gives two prompts the same key; keys must be unique")
    return samples


def prepare_folder(folder: Path, request: dict[str, Any], overwrite: bool) -> None:
    """Record the request, or see that the folder holds the beginnings of this very request.

    Raises:
        ValueError: it holds predictions of another request.
    """
    stored = read_samples(folder)
    if stored:
        changed = [name for name, value in request.items() if stored.get(name) != value]
        if not changed:
            return
        if not overwrite:
            raise ValueError(
                f"{folder} holds predictions that differ in {', '.join(changed)}; "
                "choose another `out`, or say overwrite=true to throw them away"
            )
    for shard in folder.glob(f"{PREDICTIONS_FOLDER}-*"):
        shard.unlink()
    (folder / REJECTED_FILE).unlink(missing_ok=True)
    record = {**request, "machine": machine(), "command": command_line()}
    write_text(folder / SAMPLES_FILE, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def read_samples(folder: Path) -> dict[str, Any]:
    """What was asked of the sampler, as `predict` recorded it; empty where the folder came about in another way."""
    path = folder / SAMPLES_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_rejected(folder: Path) -> list[dict[str, str]]:
    """Rows of `rejected.jsonl`: key, prompt, kind and reason of each prompt that was set aside."""
    path = folder / REJECTED_FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def draw(sampler: Sampler, batch: Sequence[BenchmarkPrompt]) -> tuple[list[Trajectory], list[dict[str, str]]]:
    """Draw a batch; where the sampler refuses it, halve it until the refused prompts stand alone.

    Returns:
        Trajectories under the benchmark's keys, with `kind`, `seed` and `cost` in `meta`; and the refusals.
    """
    start = time.perf_counter()
    try:
        trajectories = sampler([sample.prompt for sample in batch], [sample.seed for sample in batch])
    except ValueError as error:
        if len(batch) == 1:
            (sample,) = batch
            return [], [{"key": sample.key, "prompt": sample.prompt, "kind": sample.kind, "reason": str(error)}]
        middle = len(batch) // 2
        left, right = draw(sampler, batch[:middle]), draw(sampler, batch[middle:])
        return left[0] + right[0], left[1] + right[1]
    seconds = (time.perf_counter() - start) / len(batch)
    assert len(trajectories) == len(batch), f"{len(trajectories)} trajectories for {len(batch)} prompts"
    return [label(drawn, sample, seconds) for drawn, sample in zip(trajectories, batch, strict=True)], []


def label(trajectory: Trajectory, sample: BenchmarkPrompt, seconds: float) -> Trajectory:
    """The trajectory under the benchmark's key, with what scoring needs in `meta`."""
    cost = {"seconds": seconds, **trajectory.meta.get("cost", {})}
    meta = {**trajectory.meta, "kind": sample.kind, "seed": sample.seed, "cost": cost}
    return replace(trajectory, key=sample.key, prompt=sample.prompt, meta=meta)
