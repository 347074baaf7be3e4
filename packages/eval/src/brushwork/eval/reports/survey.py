"""What a folder of shards holds: from what its build wrote of itself, and from a random choice of its samples.

At most `MAX_READ` samples are read, of most the JSON alone, so that a folder of a million pictures takes seconds and no
more memory than a small one.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from brushwork.data.index import FORMAT, Entry, read_index
from brushwork.data.manifest import ShardReport
from brushwork.data.shards import Rejected, ShardFolder
from brushwork.data.tasks import Reject
from brushwork.tokens.trajectory import Draft, Step, Trajectory

MAX_READ = 5_000
"""Samples that are read at most, those of all splits together."""
MAX_BYTES = 128 * 2**20
"""Of those, pictures are decoded of so many that they weigh no more than this: a few seconds' work."""
NUM_EXAMPLES = 5
"""Rejects, and keys of what cannot be read, that are kept of each reason."""

SPLIT_ORDER = ("train", "val", "test")
COUNTERS = ("subsets", "kinds", "labels", "rejected", "missing")
NUMBERS = ("samples", "words", "images", "surplus")
NO_PICTURE = np.zeros((1, 1, 3), np.uint8)


@dataclass(kw_only=True)
class Survey:
    """What is known of one split.

    Attributes:
        split: its name.
        report: its totals.
        origin: where the totals come from, in words.
        shards: its samples; None where the manifest names a split of which there is no shard.
        chosen: samples that were drawn to be read.
        num_read: those that could be.
        num_whole: samples that were drawn to be read with their pictures.
        num_unfinished: of those read, samples that were cut off.
        rounds: images of a sample → samples read.
        words: words of a prompt → samples read.
        operations, flaws: name in `meta` → how often in the samples read.
        groups: (kind, label) → numbers of the samples read.
        unreadable: reason → samples, all that came to light.
        damaged: reason → some keys.
    """

    split: str
    report: ShardReport
    origin: str
    shards: ShardFolder | None
    chosen: int = 0
    num_read: int = 0
    num_whole: int = 0
    num_unfinished: int = 0
    rounds: Counter[int] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    flaws: Counter[str] = field(default_factory=Counter)
    groups: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    unreadable: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, list[str]] = field(default_factory=dict)

    @property
    def on_disk(self) -> int:
        """Samples that the shards hold or are known to have held."""
        return 0 if self.shards is None else len(self.shards)

    @property
    def num_lacking(self) -> int:
        """Samples that were built and whose shards are gone."""
        return max(0, self.report.samples - self.on_disk)

    def reject(self, one: Rejected) -> None:
        """Counts a sample that cannot be read."""
        reason = one.reason if len(one.reason) <= 200 else f"{one.reason[:200]}…"
        self.unreadable[reason] += 1
        keys = self.damaged.setdefault(reason, [])
        if len(keys) < NUM_EXAMPLES:
            keys.append(f"{one.shard}: {one.key}")

    def add(self, number: int, sample: Trajectory) -> None:
        """Counts a sample that was drawn and read."""
        self.num_read += 1
        self.num_unfinished += not sample.finished
        self.rounds[sum(1 for _ in sample.drafts)] += 1
        self.words[len(sample.prompt.split())] += 1
        self.operations.update(names(sample.meta.get("operations")))
        self.flaws.update(names(sample.meta.get("flaws")))
        self.groups.setdefault(class_of(sample), []).append(number)


# What the build wrote of itself


def read_manifest(folder: Path) -> tuple[dict[str, ShardReport], dict[str, Any]]:
    """The totals of each split, none where there is no manifest, and the settings as far as they are told."""
    build: dict[str, Any] = {"manifest": "missing", "version": "", "settings": None, "settings_file": ""}
    known: dict[str, ShardReport] = {}
    try:
        content = json.loads((folder / "manifest.json").read_bytes())
        known = {str(split): read_totals(str(split), found) for split, found in content["splits"].items()}
        build |= {"manifest": "read", "version": str(content.get("version", ""))}
        build |= {"settings": json.dumps(content["config"], indent=1, ensure_ascii=False)}
        return known, build | {"settings_file": "manifest.json"}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        build["manifest"] = "unreadable"
    try:
        config = json.loads((folder / "build.json").read_bytes())
    except (OSError, ValueError):
        return {}, build
    return {}, build | {"settings": json.dumps(config, indent=1, ensure_ascii=False), "settings_file": "build.json"}


def read_totals(split: str, found: Mapping[str, Any]) -> ShardReport:
    """A split of the manifest; whoever wrote it, only numbers pass."""
    content: dict[str, Any] = {name: int(found[name]) for name in (*NUMBERS, "most_images")}
    content |= {name: Counter({str(k): int(n) for k, n in found[name].items()}) for name in COUNTERS}
    return ShardReport(split=split, number=0, **content)


def total(split: str, reports: Sequence[ShardReport]) -> ShardReport:
    """The sum of some reports, as the manifest has it."""
    content: dict[str, Any] = {name: sum(getattr(one, name) for one in reports) for name in NUMBERS}
    content |= {name: sum((Counter(getattr(one, name)) for one in reports), Counter()) for name in COUNTERS}
    most = max((one.most_images for one in reports), default=0)
    return ShardReport(split=split, number=0, most_images=most, **content)


def read_rejects(shard: Path) -> Iterator[Reject]:
    """What was not made of a shard's tasks, one at a time; lines that are damaged are left out."""
    path = shard.with_suffix(".rejects.jsonl")
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                content = json.loads(line)
                yield Reject(prompt=str(content.pop("prompt")), reason=str(content.pop("reason")), detail=content)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue


def example_rejects(folder: Path, counts: Mapping[str, int]) -> dict[str, list[tuple[str, Reject]]]:
    """The first rejects of each reason with the shard that lacks them; reads no further than it must."""
    examples: dict[str, list[tuple[str, Reject]]] = {reason: [] for reason in sorted(counts, key=lambda r: -counts[r])}
    wanted = sum(min(number, NUM_EXAMPLES) for number in counts.values())
    for path in sorted(folder.glob("*.rejects.jsonl")):
        shard = path.with_name(path.name.removesuffix(".rejects.jsonl") + ".tar")
        for one in read_rejects(shard):
            if wanted <= 0:
                return examples
            found = examples.get(one.reason.partition(":")[0])
            if found is not None and len(found) < NUM_EXAMPLES:
                found.append((shard.stem, one))
                wanted -= 1
    return examples


# What the samples say


def find_splits(folder: Path) -> list[str]:
    """The splits of which there are shards, in the usual order."""
    stems = [re.fullmatch(r"(.+)-\d+", path.stem) for path in folder.glob("*.tar")]
    found = {match[1] for match in stems if match}
    if not found:
        ShardFolder(folder, SPLIT_ORDER[0])  # raises, and tells what to do
    return sorted(found, key=lambda split: (SPLIT_ORDER.index(split) if split in SPLIT_ORDER else 3, split))


def survey(
    folder: Path, known: Mapping[str, ShardReport], generators: Mapping[str, np.random.Generator]
) -> list[Survey]:
    """Every split: its totals, and what a random choice of its samples says."""
    shards = {split: ShardFolder(folder, split) for split in generators}
    surveys, left = {}, MAX_READ
    # The small splits first: what they do not use up of the samples to be read is there for the large ones.
    for place, split in enumerate(sorted(shards, key=lambda name: len(shards[name]))):
        share = left // (len(shards) - place)
        surveys[split] = survey_split(shards[split], known.get(split), generators[split], share, len(shards))
        left -= surveys[split].chosen
    gone = [
        Survey(split=split, report=known[split], origin="manifest.json", shards=None)
        for split in known
        if split not in shards
    ]
    return [surveys[split] for split in shards] + gone


def survey_split(
    shards: ShardFolder, known: ShardReport | None, rng: np.random.Generator, max_read: int, num_splits: int
) -> Survey:
    """One split, read shard by shard; samples are read only where they were drawn or nothing else tells the totals."""
    num_bytes = sum(shard.stat().st_size for shard in shards.shards)
    drawn = rng.permutation(len(shards))[:max_read].tolist()
    whole = set(drawn[: MAX_BYTES // num_splits * len(shards) // max(num_bytes, 1)])
    chosen, start, reports, num_told = set(drawn), 0, [], 0
    found = Survey(split=shards.split, report=ShardReport(split=shards.split, number=0), origin="", shards=shards)
    found.chosen, found.num_whole = len(chosen), len(whole)
    for shard in shards.shards:
        told = known or ShardReport.read(shard)
        report = told or ShardReport(split=shards.split, number=0)
        num_told += told is not None
        entries = read_index(shard)
        with shard.open("rb") as file:
            for number, entry in enumerate(entries, start):
                # A sample that is known to be lost is counted whether or not it was drawn.
                if number not in chosen and told and not entry.problem:
                    continue
                sample = shards[number] if number in whole or entry.problem else read_json(file, shard, entry)
                if isinstance(sample, Rejected):
                    found.reject(sample)
                    continue
                if not told:
                    report.count(sample)
                if number in chosen:
                    found.add(number, sample)
        if not told:
            for one in read_rejects(shard):
                report.count_reject(one)
        start += len(entries)
        reports.append(report)
    read = "what was read of its samples"
    by_shard = {len(reports): "the reports of its shards", 0: read}
    partly = f"the reports of {num_told} of its {len(reports)} shards, and {read} of the others"
    found.origin = "manifest.json" if known else by_shard.get(num_told, partly)
    found.report = known or total(shards.split, reports)
    return found


def read_json(file: BinaryIO, shard: Path, entry: Entry) -> Trajectory | Rejected:
    """A sample without its pictures, which are the cost of reading: as many drafts as it has, of nothing."""
    try:
        offset, size = entry.members["json"]
        file.seek(offset)
        record = json.loads(file.read(size))
        prompt, meta, images = record["prompt"], record["meta"], record["num_images"]
        if record["format"] != FORMAT or not isinstance(prompt, str) or not isinstance(meta, dict):
            raise ValueError(f"no sample of format {FORMAT}")
        if len(entry.members) != images + 1:
            raise ValueError(f"expected {images} images, found {len(entry.members) - 1}")
        steps = (Step(plan=None, drafts=(Draft(image=NO_PICTURE),) * images),)
        finished = bool(record.get("finished", True))
        return Trajectory(key=entry.key, prompt=prompt, steps=steps, finished=finished, meta=meta)
    except Exception as error:  # whatever a damaged member makes the reader raise, as in `ShardFolder`
        return Rejected(key=entry.key, shard=shard.name, reason=f"{type(error).__name__}: {error}")


def class_of(sample: Trajectory) -> tuple[str, str]:
    """Kind and label; empty where the sample names none."""
    return str(sample.meta.get("kind", "")), str(sample.meta.get("label", ""))


def names(value: Any) -> list[str]:
    """A list of names in `meta`; a single name counts as one."""
    if isinstance(value, list | tuple):
        return [str(one) for one in value]
    return [str(value)] if value else []
