"""What a build says of itself: its settings, a report for each shard, the manifest and the table of statistics."""

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from brushwork.data.index import FORMAT, write_atomically
from brushwork.data.tasks import Reject
from brushwork.tokens.trajectory import Trajectory

PAPER = {
    "multi_turn": {"samples": 32012, "words": "152.8 tokens", "images": 3.51, "most": 5, "positive": None},
    "conflict": {"samples": 15201, "words": "", "images": None, "most": None, "positive": 6905},
    "alignment": {"samples": 15000, "words": "", "images": None, "most": None, "positive": 5000},
}
"""The paper's statistics, by the `subset` that samples name in their `meta`."""


@dataclass(kw_only=True)
class ShardReport:
    """What one shard holds, written beside it once all of it is on disk.

    Attributes:
        split, number: which shard.
        samples, words, images: of samples, of words of their prompts, of images, in all.
        most_images: of one sample.
        subsets, kinds, labels: samples by what their `meta` says.
        rejected: reason, up to its first colon, to number of tasks.
        surplus: samples made and not needed, since their class was full.
        missing: label (or "samples") to number that could not be reached.
        transient: rejects that another try may not meet.
        digest: of the settings of the build.
    """

    split: str
    number: int
    samples: int = 0
    words: int = 0
    images: int = 0
    most_images: int = 0
    subsets: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    surplus: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    transient: int = 0
    digest: str = ""

    @property
    def final(self) -> bool:
        """Nothing would be gained by making the shard again."""
        return not (self.missing and self.transient)

    def count(self, sample: Trajectory) -> None:
        """Adds a sample."""
        images = sum(1 for _ in sample.drafts)
        self.samples += 1
        self.words += len(sample.prompt.split())
        self.images += images
        self.most_images = max(self.most_images, images)
        for counter, name in ((self.subsets, "subset"), (self.kinds, "kind"), (self.labels, "label")):
            if name in sample.meta:
                counter[str(sample.meta[name])] += 1

    def count_reject(self, one: Reject) -> None:
        """Adds a reject."""
        self.rejected[one.reason.partition(":")[0]] += 1
        self.transient += one.transient

    def write(self, shard: Path) -> None:
        """Stores the report beside its shard."""
        write_atomically(shard.with_suffix(".report.json"), json.dumps(vars(self), indent=1).encode())

    @classmethod
    def read(cls, shard: Path) -> "ShardReport | None":
        """The report beside a shard; None where there is none that can be read."""
        try:
            content: dict[str, Any] = json.loads(shard.with_suffix(".report.json").read_bytes())
            content |= {name: Counter(content[name]) for name in ("subsets", "kinds", "labels", "rejected")}
            return cls(**content)
        except (OSError, ValueError, KeyError, TypeError):
            return None


def settings(thing: Any) -> Any:
    """A source, subset, judge or anything that they are made of as JSON: names of classes and functions, and fields.

    A dataclass's field with the metadata `{"setting": False}`, which changes no sample (a rate limit), is left out.
    What cannot be told from fields, such as the weights behind a path, an object may add as `identity`, and the terms
    under which what it gives may be used as `licence`.
    """
    if thing is None or isinstance(thing, str | int | float | bool):
        return thing
    if isinstance(thing, Path):
        return str(thing)
    if isinstance(thing, functools.partial):
        arguments = {"_args_": [settings(one) for one in thing.args]} if thing.args else {}
        return {"_target_": _name(thing.func), **arguments, **{k: settings(v) for k, v in thing.keywords.items()}}
    if isinstance(thing, Mapping):
        return {str(key): settings(value) for key, value in thing.items()}
    if isinstance(thing, Sequence):
        return [settings(one) for one in thing]
    named: dict[str, Any] = {"_target_": _name(thing)}
    if is_dataclass(thing) and not isinstance(thing, type):
        told = (one for one in fields(thing) if one.init and one.metadata.get("setting", True))
        named |= {one.name: settings(getattr(thing, one.name)) for one in told}
    return named | {name: getattr(thing, name) for name in ("identity", "licence") if hasattr(thing, name)}


def _name(thing: Any) -> str:
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


@contextmanager
def claim(out: Path, config: dict[str, Any]) -> Iterator[str]:
    """Marks the folder as this build's while it is at work; gives a digest of its settings.

    Raises:
        ValueError: it holds shards of another build, or another one is at work in it.
    """
    del config["out"]  # wherever the folder lies, it is the same build
    text = json.dumps(config, indent=1)
    config |= json.loads(text)
    digest, path, mark = hashlib.sha256(text.encode()).hexdigest()[:16], out / "build.json", out / ".at-work"
    other = _read(path)
    if other is not None and other != config:
        reports = [ShardReport.read(shard) for shard in out.glob("*.tar")]
        built = any(one is None or one.samples for one in reports)  # shards in which there is nothing bind nobody
        if built or (mark.exists() and _lives(mark.read_text())):
            what = ", ".join(differences(config, other))
            raise ValueError(f"{out} holds a build that differs in {what}; choose another out= or remove the folder")
        for leftover in (*out.glob("*.tar"), *out.glob("*-[0-9]*.json*"), out / "manifest.json", out / "words.json"):
            leftover.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    write_atomically(path, text.encode())
    mark.write_text(str(os.getpid()))
    try:
        yield digest
    finally:
        _sweep(out)  # a process of a killed build may have lived on for a moment when this one began
        mark.unlink(missing_ok=True)


def _sweep(out: Path) -> None:
    """Removes what processes that are no more were writing."""
    for leftover in out.glob(".*.tmp"):
        if not _lives(leftover.name.split(".")[-2]):
            leftover.unlink(missing_ok=True)


def _read(path: Path) -> Any:
    """What a JSON file holds; None where there is none that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def differences(one: Any, other: Any, at: str = "") -> Iterator[str]:
    """Where two settings differ, as dotted keys with the other's value."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            yield from differences(one.get(key), other.get(key), f"{at}.{key}".lstrip("."))
    elif one != other:
        yield f"{at} ({other!r} there)"


def _lives(pid: str) -> bool:
    """Whether a process of this number is at work, maybe on the same folder."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def write_manifest(out: Path, config: Mapping[str, Any], reports: Sequence[ShardReport]) -> dict[str, Any]:
    """Sums up the reports and writes `manifest.json`; the same bytes for the same build."""
    splits = {split: _total([one for one in reports if one.split == split]) for split in config["num_samples"]}
    manifest = {"format": FORMAT, "version": version("brushwork-data"), "config": dict(config), "splits": splits}
    write_atomically(out / "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest


def _total(reports: Sequence[ShardReport]) -> dict[str, Any]:
    total: dict[str, Any] = {
        name: sum(getattr(one, name) for one in reports) for name in ("samples", "words", "images", "surplus")
    }
    total["most_images"] = max(one.most_images for one in reports)
    for name in ("subsets", "kinds", "labels", "rejected", "missing"):
        counted = sum((Counter(getattr(one, name)) for one in reports), Counter())
        total[name] = dict(sorted(counted.items()))
    return total


def statistics_table(manifest: Mapping[str, Any]) -> Table:
    """The statistics of a build, those of the paper's subset of the same name below it."""
    heads = ("", "samples", "prompt words", "images", "most", "positive", "negative", "rejected")
    table = Table(*heads, box=SIMPLE, pad_edge=False)
    names: set[str] = set()
    for split, found in manifest["splits"].items():
        count, labels = max(found["samples"], 1), found["labels"]
        names |= set(found["subsets"])
        table.add_row(
            split, f"{found['samples']:,}", f"{found['words'] / count:.1f}", f"{found['images'] / count:.2f}",
            str(found["most_images"]), *(f"{labels[name]:,}" if name in labels else "" for name in _LABELS),
            f"{sum(found['rejected'].values()):,}",
        )  # fmt: skip
    for name in sorted(names & set(PAPER)):
        paper = PAPER[name]
        positive = paper["positive"]
        classes = ("", "") if positive is None else (f"{positive:,}", f"{paper['samples'] - positive:,}")
        images, most = ("" if paper[key] is None else str(paper[key]) for key in ("images", "most"))
        table.add_row(f"paper, {name}", f"{paper['samples']:,}", paper["words"], images, most, *classes, "")
    return table


_LABELS = ("positive", "negative")
