"""Builds a data set of trajectories: tasks from a source, made into samples by a subset, stored as shards.

A shard is a pure function of the build's settings and its number, and appears complete or not at all. So a build that
was killed goes on where it stopped, in any number of processes or on a cluster, and ends in the same bytes.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from brushwork.data.contamination import BenchmarkPrompts
from brushwork.data.executors import Executor, LocalExecutor
from brushwork.data.index import read_index, write_atomically
from brushwork.data.manifest import ShardReport, claim, settings, statistics_table, write_manifest
from brushwork.data.pictures import FORMATS
from brushwork.data.shards import encode, shard_path, write_members
from brushwork.data.tasks import CountedSource, Reject, Source, Subset, Task
from brushwork.data.worlds.shapes import SPLITS, ShapesWorld
from brushwork.tokens.trajectory import Trajectory

logger = logging.getLogger(__name__)

ALL = "all"
"""In place of a number of samples: as many as the source has."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a process needs to make shards."""

    source: Source
    subset: Subset
    num_samples: Mapping[str, int]
    out: Path
    seed: int
    samples_per_shard: int
    batch_size: int
    positives: float | None
    max_tries: int
    picture_format: str
    benchmarks: BenchmarkPrompts
    whole: Collection[str] = field(default=(), metadata={"setting": False})  # splits of which all is taken
    digest: str = field(default="", metadata={"setting": False})

    def __call__(self, item: tuple[str, int]) -> ShardReport:
        """Makes the shard of a split and number, unless it is there, and reports what it holds."""
        split, number = item
        shard = shard_path(self.out, split, number)
        done = ShardReport.read(shard)
        if done is not None and (done.digest != self.digest or not _is_whole(shard, done.samples)):
            done = None
        if done is not None and done.final:
            return done
        report = ShardReport(split=split, number=number, digest=self.digest)
        rejects: list[Reject] = []
        try:
            write_members(self._samples(split, number, report, rejects, at_least=done.samples if done else 0), shard)
        except _Fewer:
            assert done is not None, "nothing is fewer than none"
            return done
        lines = (
            json.dumps({"prompt": one.prompt, "reason": one.reason, **one.detail}, ensure_ascii=False) + "\n"
            for one in rejects
        )
        write_atomically(shard.with_suffix(".rejects.jsonl"), "".join(lines).encode())
        report.write(shard)  # last: it says that all else is there
        return report

    def parts(self, split: str) -> int:
        """How many shards the split has."""
        return -(-self.num_samples[split] // self.samples_per_shard)

    def _samples(
        self, split: str, number: int, report: ShardReport, rejects: list[Reject], *, at_least: int
    ) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Key and members of each sample of a shard; raises _Fewer where the shard that is there holds more."""
        left = self._quota(split, number)
        for outcome in self._outcomes(split, number, sum(left.values())):
            if isinstance(outcome, Reject):
                rejects.append(outcome)
                report.count_reject(outcome)
                continue
            label = self._label(outcome)
            if not left.get(label):
                report.surplus += 1
                continue
            left[label] -= 1
            members = encode(outcome, self.picture_format)
            digest = hashlib.sha256(b"".join(members.values())).hexdigest()[:12]
            yield f"{split}-{number:05d}{report.samples:05d}-{digest}", members
            report.count(outcome)
            if not any(left.values()):
                break
        report.missing = {label or "samples": count for label, count in left.items() if count}
        if report.samples < at_least:
            raise _Fewer

    def _quota(self, split: str, number: int) -> dict[str | None, int]:
        """How many samples of each label the shard is to hold; the shares come out right over the whole split."""
        if split in self.whole:
            return {None: len(range(number, self.num_samples[split], self.parts(split)))}  # all tasks of the part
        start = number * self.samples_per_shard
        end = min(start + self.samples_per_shard, self.num_samples[split])
        if self.positives is None:
            return {None: end - start}
        positive = round(self.positives * end) - round(self.positives * start)
        return {"positive": positive, "negative": end - start - positive}

    def _label(self, sample: Trajectory) -> str | None:
        if self.positives is None:
            return None
        label = sample.meta.get("label")
        if label not in ("positive", "negative"):
            raise ValueError(
                f"positives={self.positives} asks for a balance of classes, but the subset labels a sample {label!r}; "
                "expected 'positive' or 'negative': leave positives out"
            )
        return label

    def _outcomes(self, split: str, number: int, wanted: int) -> Iterator[Trajectory | Reject]:
        """What the subset makes of the part's tasks, at most `max_tries` tasks for each sample that is wanted."""
        tasks = islice(self.source(split, number, self.parts(split), self.seed), wanted * self.max_tries)
        while batch := list(islice(tasks, min(self.batch_size, wanted))):
            yield from (one for one in batch if isinstance(one, Reject))
            readable = [one for one in batch if isinstance(one, Task)]
            asked = [one for one in readable if one.prompt in self.benchmarks]
            yield from (Reject(prompt=one.prompt, reason="a benchmark asks for it") for one in asked)
            yield from self.subset([one for one in readable if one.prompt not in self.benchmarks])


class _Fewer(Exception):
    """What can be made now, with a judge out of reach, is less than what is there."""


def build(
    source: Source,
    subset: Subset,
    num_samples: Mapping[str, int | str | None],
    out: str | Path,
    *,
    world: ShapesWorld | None = None,
    seed: int = 0,
    samples_per_shard: int = 1000,
    batch_size: int = 64,
    positives: float | None = None,
    max_tries: int = 20,
    picture_format: str = "png",
    benchmarks: Sequence[str] | str = ("geneval", "geneval_long", "wise"),
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Builds `num_samples` trajectories of each split: `lightning build`.

    Writes into `out`: `<split>-00000.tar`, ... each with an index, a report and `.rejects.jsonl` (what was not made,
    with its prompt and reason) beside it, `build.json` (the settings), `words.json` (the world's vocabulary) and, last,
    `manifest.json`. Keys say split, shard, place and a hash of the content.

    Args:
        source: gives the tasks; each shard has its own part of them.
        subset: makes trajectories of tasks.
        num_samples: split ("train", "val", "test") to number of samples; 0 leaves a split out, "all" takes what a
            `CountedSource` has.
        out: the folder.
        world: whose words the vocabulary of a mini model has to hold; None for corpora.
        seed: of all randomness.
        samples_per_shard: the last shard of a split may hold fewer.
        batch_size: tasks that the subset gets at once.
        positives: share of samples labelled "positive", the rest being "negative"; None takes what comes.
        max_tries: tasks for each sample at most; a shard that runs out of tasks stays short and the manifest says so.
            One that is short because a judge could not be reached is made again by the same command.
        picture_format: "png", or "webp" for photographs.
        benchmarks: prompts that may not be asked for, see `BenchmarkPrompts`.
        executor: where shards are made; this process by default.

    Returns:
        The manifest: settings, versions, and for each split what it holds and what was rejected for which reason.

    Raises:
        ValueError: an unknown split, a number out of range, a folder that holds a build of other settings, or not one
            sample that could be built.
    """
    benchmarks = (benchmarks,) if isinstance(benchmarks, str) else benchmarks
    whole = [split for split, count in num_samples.items() if count == ALL] if isinstance(num_samples, Mapping) else []
    wanted = _wanted(num_samples, source)
    numbers = {"samples_per_shard": samples_per_shard, "batch_size": batch_size, "max_tries": max_tries}
    if bad := {name: value for name, value in numbers.items() if value < 1}:
        raise ValueError(f"{bad}: expected at least 1")
    if positives is not None and (whole or not 0 <= positives <= 1):
        raise ValueError(f"positives={positives}: expected a share, 0 to 1, and none where num_samples is {ALL!r}")
    if picture_format not in FORMATS:
        raise ValueError(f"picture_format={picture_format!r}: expected one of {FORMATS}")
    out = Path(out)
    job = Job(
        source=source, subset=subset, num_samples=wanted, out=out, seed=seed, positives=positives,
        samples_per_shard=samples_per_shard, batch_size=batch_size, max_tries=max_tries,
        picture_format=picture_format, benchmarks=BenchmarkPrompts(tuple(benchmarks)), whole=whole,
    )  # fmt: skip
    config = settings(job) | {"world": settings(world)}
    with claim(out, config) as digest:
        if world is not None:
            write_atomically(out / "words.json", json.dumps(world.words()).encode())
        reports = _run(replace(job, digest=digest), executor or LocalExecutor())
    if not any(one.samples for one in reports):
        reasons = sum((one.rejected for one in reports), Counter()).most_common(1)
        why = f"most often because {reasons[0][0]}" if reasons else "the source has no tasks"
        raise ValueError(f"not one sample could be built, {why}; see {out}/*.rejects.jsonl")
    manifest = write_manifest(out, config, reports)
    Console().print(statistics_table(manifest))
    for split, found in manifest["splits"].items():
        if found["missing"]:
            logger.warning("%s: could not be reached: %s more; see manifest.json", split, found["missing"])
    logger.info("built in %s", out)
    return manifest


def _wanted(num_samples: Mapping[str, int | str | None], source: Source) -> dict[str, int]:
    """The splits that are to be built; ValueError for unknown ones, for numbers below 0, and for none."""
    if not isinstance(num_samples, Mapping):
        raise ValueError(f"num_samples={num_samples!r}: expected such as {{train: 1000, val: 100}}")
    counted = {split: _number(split, count, source) for split, count in num_samples.items()}
    wanted = {split: count for split, count in counted.items() if count or split not in SPLITS}
    bad = {split: n for split, n in wanted.items() if split not in SPLITS or n < 1}
    if bad or not wanted:
        raise ValueError(f"num_samples={bad or num_samples}: expected at least 1 for some of {SPLITS}")
    return wanted


def _number(split: str, count: int | str | None, source: Source) -> int:
    """How many samples of a split are meant."""
    if not isinstance(count, str):
        return count or 0
    if count != ALL or not isinstance(source, CountedSource):
        raise ValueError(f"{split}: {count!r}: expected a number, or {ALL!r} of a source that counts what it has")
    return source.count(split) if split in SPLITS else 0


def _run(job: Job, executor: Executor) -> list[ShardReport]:
    """Makes every shard, in any order; the reports come back in the order of the shards."""
    items = [(split, number) for split in job.num_samples for number in range(job.parts(split))]
    columns = (TextColumn("building"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    reports: dict[tuple[str, int], ShardReport] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("building", total=sum(job.num_samples.values()))
        for report in executor(job, items):
            reports[report.split, report.number] = report
            progress.advance(bar, report.samples)
    return [reports[item] for item in items]


def _is_whole(shard: Path, num_samples: int) -> bool:
    if not shard.with_suffix(".rejects.jsonl").exists():
        return False
    with suppress(FileNotFoundError):
        entries = read_index(shard)
        return len(entries) == num_samples and not any(entry.problem for entry in entries)
    return False
