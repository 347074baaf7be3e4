"""Prompts and seeds → trajectories on disk: the `Sampler` protocol and the resumable `predict` that drives one."""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from brushwork.data.index import read_index
from brushwork.data.shards import ShardFolder, shard_path, write_shard
from brushwork.eval.benchmark import Benchmark, BenchmarkPrompt
from brushwork.eval.machine import command_line, machine, peak_memory
from brushwork.eval.progress import progress_bar
from brushwork.eval.verdicts import json_lines, read_record, write_text
from brushwork.tokens.trajectory import Trajectory

log = logging.getLogger(__name__)

PREDICTIONS_FOLDER = "predictions"
"""Where `predict` puts its shards inside a run folder; also the name of their split."""
SAMPLES_FILE = "samples.json"
REJECTED_FILES = "rejected-*.jsonl"


@runtime_checkable
class Sampler(Protocol):
    """Anything that draws: our generator, a one-shot model (a one-image trajectory), the renderer of a toy world.

    A sampler may carry `fingerprint: str`, a name for its weights and settings: `predict` then refuses to mix the
    drawings of two samplers in one folder. Costs go to `meta["cost"]` (see `brushwork.eval.cost`), the reason for
    stopping to `meta["stopped"]`. `describe() -> dict[str, Any]`, where there is one, gives JSON-able settings for the
    result files: model, steps, guidance.
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
    sampler: Sampler | KeyedSampler,
    out: str | Path,
    benchmark: Benchmark | None = None,
    prompts: Sequence[str] | None = None,
    prompt: str | None = None,
    batch_size: int = 52,
    seed: int = 0,
    overwrite: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
    accelerator: str = "auto",
) -> Path:
    """Draw every prompt and store the trajectories, one shard a batch: `lightning predict`.

    Writes `predictions/` inside `out`: the shards, `samples.json` (what was asked of which sampler, on which machine,
    by which command) and, beside a shard, the prompts of its batch that the sampler refused, such as control tags typed
    by a user (`rejected-00003.jsonl`). Started again after an interruption it draws only the batches that are missing
    or damaged, on other numbers of devices too: a prompt's seed is its own.

    Args:
        sampler: draws a batch. Where it does not measure `cost["seconds"]`, the batch's wall time is shared out.
        out: the run folder.
        benchmark: gives prompts, kinds and seeds.
        prompts: free prompts, of the kind "free"; where there are any, the benchmark is not asked.
        prompt: a single one, for people: it has a run folder of its own in `out`, named by prompt, sampler and seed, so
            that prompts are asked one after the other. Its trajectory is told on stdout and drawn beside the shards.
        batch_size: prompts in one call of the sampler and in one shard.
        seed: the first free prompt's seed, the next having the next; a benchmark brings its own seeds.
        overwrite: throw away the predictions of another benchmark or sampler that `out` holds.
        devices: processes on each node, started by Lightning, which share the batches; each has a sampler of its own.
            Where that is on "cuda", `lightning predict` gives it the GPU that its `LOCAL_RANK` names.
        num_nodes: machines, started by SLURM or torchrun.
        accelerator: in Lightning's words; where processes meet, not where the sampler runs.

    Returns:
        The folder of the shards.

    Raises:
        ValueError: no prompts, predictions of something else in `out`, or every prompt refused.
    """
    prompts = one_or_many(prompt, prompts)
    samples = requested_samples(benchmark, prompts, seed)
    if batch_size < 1 or devices < 1 or num_nodes < 1:
        raise ValueError(f"{batch_size=}, {devices=}, {num_nodes=}: expected at least 1 each")
    request = {
        "format": 1,
        "sampler": str(getattr(sampler, "fingerprint", type(sampler).__qualname__)),
        "batch_size": batch_size,
        "samples": [asdict(sample) for sample in samples],
    }
    run = Path(out) if prompt is None else Path(out, name_of(prompt, request))
    folder = run / PREDICTIONS_FOLDER
    about = {"benchmark": told_by(None if prompts else benchmark), "settings": told_by(sampler)}
    batches = [
        Batch(folder=folder, number=number, samples=samples[start : start + batch_size])
        for number, start in enumerate(range(0, len(samples), batch_size))
    ]
    check_folder(folder, request, overwrite)  # before other processes are started
    ranks = Ranks.launch(devices, num_nodes, accelerator)
    if ranks.rank == 0:
        prepare_folder(folder, request, about)
        drop_damaged(batches)
    ranks.wait()
    draw_all(sampler, batches, ranks)
    ranks.wait()
    tell_outcome(folder, samples, aloud=ranks.rank == 0)
    if prompt is not None and ranks.rank == 0:
        from brushwork.eval.reports.one_drawing import show_drawing  # which reads what is written here

        drawn = ShardFolder(folder, PREDICTIONS_FOLDER)[0]
        assert isinstance(drawn, Trajectory), f"the shard of {prompt!r} was damaged since it was written"
        show_drawing(drawn, run)
    return folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Prompts that are drawn together, into one shard."""

    folder: Path
    number: int
    samples: Sequence[BenchmarkPrompt]

    @property
    def shard(self) -> Path:
        """Where what was drawn lies."""
        return shard_path(self.folder, PREDICTIONS_FOLDER, self.number)

    @property
    def refusals(self) -> Path:
        """Where what was refused is told."""
        return self.folder / f"rejected-{self.number:05d}.jsonl"

    @property
    def done(self) -> bool:
        """Every prompt is accounted for: refusals are written before the shard, which is not there if all are."""
        return self.shard.exists() or (self.refusals.exists() and len(read_lines(self.refusals)) == len(self.samples))

    def write(self, trajectories: Sequence[Trajectory], refused: Sequence[Mapping[str, str]]) -> None:
        """Put what came of the prompts on disk."""
        if refused:
            write_text(self.refusals, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in refused))
        else:  # killed before its shard was written, the batch may have been refused another time
            self.refusals.unlink(missing_ok=True)
        if trajectories:
            write_shard(trajectories, self.shard)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """The processes that share the batches.

    Attributes:
        rank: of this process, from 0.
        number: of processes.
        wait: returns when all have called it.
    """

    rank: int = 0
    number: int = 1
    wait: Callable[[], object] = lambda: None

    @classmethod
    def launch(cls, devices: int, num_nodes: int, accelerator: str) -> "Ranks":
        """Start the other processes, each by this process's own command line; alone, nothing is started."""
        if devices * num_nodes == 1:
            return cls()
        from lightning.fabric import Fabric
        from lightning.fabric.strategies import DDPStrategy

        # Batches take unequally long, and nobody is lost who waits for the last one.
        # They only wait for each other, which needs no GPU; with gloo they also notice one that has died.
        strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(days=7))
        fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy)
        fabric.launch()
        return cls(rank=fabric.global_rank, number=fabric.world_size, wait=fabric.barrier)


def drop_damaged(batches: Sequence[Batch]) -> None:
    """Remove shards that no longer hold all that was drawn, so that their batches are drawn again."""
    for batch in (one for one in batches if one.shard.exists()):
        refused = len(read_lines(batch.refusals)) if batch.refusals.exists() else 0
        there = sum(not entry.problem for entry in read_index(batch.shard))
        if there + refused < len(batch.samples):
            log.warning("%s holds %d of %d; drawing them again", batch.shard, there, len(batch.samples) - refused)
            batch.shard.unlink()


def draw_all(sampler: Sampler | KeyedSampler, batches: Sequence[Batch], ranks: Ranks) -> None:
    """Draw what is missing of this rank's batches; the first rank shows how far all are."""
    done = sum(len(batch.samples) for batch in batches if batch.done)
    if done and ranks.rank == 0:
        log.info("%d of %d prompts were done before; going on", done, sum(len(batch.samples) for batch in batches))
    total = sum(len(batch.samples) for batch in batches)
    with progress_bar("drawing", total, shown=ranks.rank == 0) as tell:
        tell(done)
        for batch in batches[ranks.rank :: ranks.number]:
            if not batch.done:
                batch.write(*draw(sampler, batch.samples))
                tell(sum(len(each.samples) for each in batches if each.done))


def one_or_many(prompt: str | None, prompts: Sequence[str] | None) -> Sequence[str] | None:
    """The free prompts, however they were given; ValueError where they were given both ways."""
    if prompt is None:
        return prompts
    if prompts:
        raise ValueError(f"prompt is {prompt!r} and there are prompts as well; give either one prompt or a list")
    return [prompt]


def name_of(prompt: str, request: Mapping[str, Any]) -> str:
    """A folder's name for one prompt: its words, then a hash of all that is asked, so that no two requests share it."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:60].strip("-")
    return "-".join(filter(None, (words, hashlib.sha256(json.dumps(request).encode()).hexdigest()[:8])))


def tell_outcome(folder: Path, samples: Sequence[BenchmarkPrompt], *, aloud: bool) -> None:
    """Say how many prompts were drawn and how many set aside, in one of the processes.

    Raises:
        ValueError: all were.
    """
    rejected = read_rejected(folder)
    if len(rejected) == len(samples):
        reason = rejected[0]["reason"]
        if len(samples) > 1:
            reason = f"the sampler refused every prompt; the first, {samples[0].prompt!r}: {reason}"
        raise ValueError(reason)
    if rejected and aloud:
        log.warning("%d of %d prompts were set aside; see %s", len(rejected), len(samples), folder / REJECTED_FILES)
    if aloud:
        log.info("%d trajectories are in %s", len(samples) - len(rejected), folder)


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


def check_folder(folder: Path, request: dict[str, Any], overwrite: bool) -> None:
    """See that the folder holds nothing, or the beginnings of this very request, or what may be thrown away.

    Raises:
        ValueError: it holds predictions of another request.
    """
    changed = [] if overwrite else differences(folder, request)
    if changed:
        raise ValueError(
            f"{folder} holds predictions that differ in {', '.join(changed)}; "
            "choose another `out`, or say overwrite=true to throw them away"
        )


def differences(folder: Path, request: dict[str, Any]) -> list[str]:
    """In what the predictions in a folder differ from a request; nothing where there are none."""
    stored = read_samples(folder)
    return [name for name, value in request.items() if stored and stored.get(name) != value]


def prepare_folder(folder: Path, request: dict[str, Any], about: dict[str, Any]) -> None:
    """Record the request, and about whom, unless the folder holds the beginnings of this very request."""
    if read_samples(folder) and not differences(folder, request):
        return
    for pattern in (f"{PREDICTIONS_FOLDER}-*", REJECTED_FILES):
        for path in folder.glob(pattern):
            path.unlink()
    record = {**request, **about, "machine": machine(), "command": command_line()}
    write_text(folder / SAMPLES_FILE, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def read_samples(folder: Path) -> dict[str, Any]:
    """What was asked of the sampler, as `predict` recorded it; empty where the folder came about in another way.

    Raises:
        ValueError: the record is damaged.
    """
    return read_record(folder / SAMPLES_FILE, "draw the predictions again, into another folder")


def prompt_of(sample: Mapping[str, Any]) -> BenchmarkPrompt:
    """A prompt as `samples.json` has it; what older folders lack is filled in."""
    names = {one.name for one in fields(BenchmarkPrompt)}
    return BenchmarkPrompt(**{name: value for name, value in sample.items() if name in names})


def read_rejected(folder: Path) -> list[dict[str, str]]:
    """Key, prompt, kind and reason of each prompt that was set aside."""
    return [row for path in sorted(folder.glob(REJECTED_FILES)) for row in read_lines(path)]


def read_lines(path: Path) -> list[dict[str, str]]:
    """Rows of a file with one JSON object a line."""
    return [json.loads(line) for line in json_lines(path)]


def told_by(part: Any) -> dict[str, Any]:
    """What a benchmark or a sampler says of itself, empty where it says nothing."""
    return part.describe() if hasattr(part, "describe") else {}


def draw(
    sampler: Sampler | KeyedSampler, batch: Sequence[BenchmarkPrompt]
) -> tuple[list[Trajectory], list[dict[str, str]]]:
    """Draw a batch; where the sampler refuses it, halve it until the refused prompts stand alone.

    Returns:
        Trajectories under the benchmark's keys, with `kind`, `seed` and `cost` in `meta`; and the refusals.
    """
    start = time.perf_counter()
    try:
        if isinstance(sampler, KeyedSampler):  # its answers were drawn elsewhere, at a cost that is not known here
            drawn = sampler.answer(batch)
            return [label(one, sample, {}) for one, sample in zip(drawn, batch, strict=True)], []
        with peak_memory() as memory:
            drawn = sampler([sample.prompt for sample in batch], [sample.seed for sample in batch])
    except ValueError as error:
        if len(batch) == 1:
            (sample,) = batch
            return [], [{"key": sample.key, "prompt": sample.prompt, "kind": sample.kind, "reason": str(error)}]
        middle = len(batch) // 2
        left, right = draw(sampler, batch[:middle]), draw(sampler, batch[middle:])
        return left[0] + right[0], left[1] + right[1]
    measured = {"seconds": (time.perf_counter() - start) / len(batch), **memory}
    return [label(one, sample, measured) for one, sample in zip(drawn, batch, strict=True)], []


def label(trajectory: Trajectory, sample: BenchmarkPrompt, measured: Mapping[str, float]) -> Trajectory:
    """The trajectory under the benchmark's key, with what scoring needs in `meta`."""
    cost = {**measured, **trajectory.meta.get("cost", {})}
    meta = {**trajectory.meta, "kind": sample.kind, "seed": sample.seed, "cost": cost}
    return replace(trajectory, key=sample.key, prompt=sample.prompt, meta=meta)
