"""Trajectories on disk: webdataset shards, an index beside each, and a reader that loses nothing silently.

A sample is `<key>.json` and one `<key>.000.png`, `<key>.001.png`, ... (or .webp) an image, side by side in a plain tar,
so that `webdataset.WebDataset` reads it too. Only JSON, PNG and WebP are ever decoded: nothing in a shard can run code.

The JSON: `{"format": 1, "prompt", "steps": [{"plan": {"instruction", "description", "flawed"} | null, "drafts":
[{"image": 0, "flawed", "inspection": {"plan_check", "draft_check", "refine"} | null}]}], "num_images", "finished",
"meta"}`, and `"goes_on": true` where a sample was cut off before a step that must follow.
"""

import io
import json
import logging
import re
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from brushwork.data import pictures
from brushwork.data.index import BLOCK, FORMAT, Entry, atomically, read_index, write_index
from brushwork.tokens.trajectory import Draft, Image, Inspection, Plan, Step, Trajectory

logger = logging.getLogger(__name__)

T = TypeVar("T")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A sample that is on disk (or should be) and cannot be read, kept so that it can be counted.

    Attributes:
        key: of the sample, or of the shard where not even that is known.
        shard: the file's name.
        reason: what is wrong.
    """

    key: str
    shard: str
    reason: str


# Writing


def write_shards(
    trajectories: Iterable[Trajectory], folder: str | Path, *, split: str, samples_per_shard: int = 1000
) -> list[Path]:
    """Writes `<split>-00000.tar`, ... and an index beside each; takes the trajectories one shard at a time.

    Args:
        trajectories: with distinct keys.
        folder: made where it is missing; shards of the same names are replaced.
        split: start of the file names.
        samples_per_shard: the last shard may hold fewer.

    Returns:
        The shards, in order.
    """
    source, paths = iter(trajectories), []
    while chunk := list(islice(source, samples_per_shard)):
        paths.append(write_shard(chunk, shard_path(folder, split, len(paths))))
    return paths


def shard_path(folder: str | Path, split: str, number: int) -> Path:
    """Where the shard of this number lies."""
    return Path(folder) / f"{split}-{number:05d}.tar"


def write_shard(trajectories: Iterable[Trajectory], path: str | Path) -> Path:
    """Writes one shard and its index, each complete or not at all; equal trajectories give equal bytes.

    Raises:
        ValueError: a key that occurs twice or is not of letters, digits, `-` and `_`, 80 at most.
    """
    return write_members(((one.key, encode(one)) for one in trajectories), path)


def write_members(samples: Iterable[tuple[str, dict[str, bytes]]], path: str | Path) -> Path:
    """`write_shard` for samples that are encoded: key, and extension to content; holds one of them at a time.

    Raises:
        ValueError: as `write_shard`.
    """
    path, entries = Path(path), {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomically(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, contents in samples:
            if not _KEY.fullmatch(key) or key in entries:
                raise ValueError(f"key {key!r}: expected a new one of up to 80 letters, digits, '-' and '_'")
            members = {}
            for extension, data in contents.items():
                info = tarfile.TarInfo(f"{key}.{extension}")  # no time, no owner: the same bytes every time
                info.size = len(data)
                members[extension] = (file.tell() + BLOCK, len(data))
                tar.addfile(info, io.BytesIO(data))
            sizes = tuple(pictures.picture_size(data) for name, data in contents.items() if name != "json")
            entries[key] = Entry(key=key, members=members, sizes=sizes)
    write_index(path, list(entries.values()))
    return path


def encode(trajectory: Trajectory, picture_format: str = "png") -> dict[str, bytes]:
    """A trajectory as the members of its sample: extension to content.

    Args:
        trajectory: of which the key is not among the content.
        picture_format: one of `pictures.FORMATS`.
    """
    images = [draft.image for draft in trajectory.drafts]
    numbers = iter(range(len(images)))
    steps = [
        {
            "plan": asdict(step.plan) if step.plan else None,
            "drafts": [
                {
                    "image": next(numbers),
                    "flawed": draft.flawed,
                    "inspection": asdict(draft.inspection) if draft.inspection else None,
                }
                for draft in step.drafts
            ],
        }
        for step in trajectory.steps
    ]
    record = {"format": FORMAT, "prompt": trajectory.prompt, "steps": steps, "num_images": len(images)}
    record |= {"finished": trajectory.finished, "meta": dict(trajectory.meta)}
    if trajectory.goes_on:
        record["goes_on"] = True
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    members = {f"{n:03d}.{picture_format}": pictures.encode(one, picture_format) for n, one in enumerate(images)}
    return {"json": text.encode(), **members}


# Reading


class ShardFolder:
    """All samples of one split of a folder, by number, in the order in which they were written.

    Every sample that the folder holds or is known to have held is counted: what cannot be read is a `Rejected`.

    Args:
        folder: where the shards are.
        split: start of their names.

    Attributes:
        sizes: samples of each shard.

    Raises:
        FileNotFoundError: no such folder or no shard of this split in it.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder, self.split = Path(folder), split
        self.shards = sorted(self.folder.glob(f"{split}-[0-9]*.tar"))
        if not self.shards:
            what = "has no" if self.folder.is_dir() else "does not exist, so there are no"
            raise FileNotFoundError(
                f"{self.folder} {what} {split!r} shards ({split}-*.tar); run: lightning build out={self.folder}"
            )
        self._warn_of_gaps()
        self._entries = [read_index(shard) for shard in self.shards]
        self.sizes = [len(entries) for entries in self._entries]
        self._ends = np.cumsum(self.sizes).tolist()
        self._warn_of_loss()

    def _warn_of_gaps(self) -> None:
        numbers = {int(path.stem.rpartition("-")[2]) for path in self.shards}
        if missing := sorted(set(range(max(numbers) + 1)) - numbers):
            logger.warning("%s lacks the %s shards number %s", self.folder, self.split, missing)

    @cached_property
    def _built(self) -> dict[str, Any]:
        """What the manifest says of the split; empty where there is none that can be read."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return _of(dict, json.loads((self.folder / "manifest.json").read_bytes())["splits"][self.split])
        return {}

    @property
    def subsets(self) -> set[str]:
        """The subsets that the manifest names."""
        return set(self._built.get("subsets", ()))

    def _warn_of_loss(self) -> None:
        """The manifest knows what should be there, the last shards included."""
        with suppress(TypeError):
            if (built := self._built.get("samples", 0)) > len(self):
                logger.warning("%s lacks %d of its %d %s samples", self.folder, built - len(self), built, self.split)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Trajectory | Rejected:
        """The sample of this number; IndexError outside 0 to len - 1."""
        return self._get(index, lambda shard, entry: decode(entry.key, read_members(shard, entry)))

    def sketch(self, index: int) -> Trajectory | Rejected:
        """The sample without looking at its pictures: all texts, and pictures of the right sizes in one colour.

        To lay out a batch, sizes are enough; the pictures are most of what there is to read.
        """
        return self._get(index, self._sketched)

    def _get(self, index: int, read: Callable[[Path, Entry], Trajectory]) -> Trajectory | Rejected:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.folder}")
        number = bisect_right(self._ends, index)
        entry = self._entries[number][index - self._ends[number]]  # counted from the shard's end
        try:
            return read(self.shards[number], entry)
        except Exception as error:  # whatever a damaged member makes a decoder raise
            reason = entry.problem or f"{type(error).__name__}: {error}"
            return Rejected(key=entry.key, shard=self.shards[number].name, reason=reason)

    def __iter__(self) -> Iterator[Trajectory | Rejected]:
        return map(self.__getitem__, range(len(self)))

    @property
    def keys(self) -> list[str]:
        """The key of every sample, rejected ones included."""
        return [entry.key for entries in self._entries for entry in entries]

    def _sketched(self, shard: Path, entry: Entry) -> Trajectory:
        text = {"json": entry.members["json"]}
        record = _of(dict, json.loads(read_members(shard, Entry(key=entry.key, members=text))["json"]))
        _check_names(record, entry.members)
        blank = np.zeros((1, 1, 3), dtype=np.uint8)
        return _trajectory(entry.key, record, [np.broadcast_to(blank, (*size, 3)) for size in entry.sizes])


def read_members(shard: Path, entry: Entry) -> dict[str, bytes]:
    """A sample's members, in one read: they lie side by side.

    Raises:
        ValueError: it is lost.
    """
    start = min(offset for offset, _ in entry.members.values())
    end = max(offset + size for offset, size in entry.members.values())
    end = min(end, shard.stat().st_size)  # a damaged header may claim more than there is memory
    with shard.open("rb") as file:
        file.seek(start)
        data = file.read(end - start)
    return {name: data[offset - start : offset - start + size] for name, (offset, size) in entry.members.items()}


def decode(key: str, members: dict[str, bytes]) -> Trajectory:
    """The inverse of `encode`.

    Raises:
        ValueError, KeyError, TypeError, OSError, SyntaxError: content that is not a trajectory (bad JSON or PNG, an
            image too few or too many).
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"key {key!r}: expected up to 80 letters, digits, '-' and '_'")
    record = _of(dict, json.loads(members["json"]))
    names = _check_names(record, members)
    return _trajectory(key, record, [pictures.decode(members[name]) for name in names])


def _check_names(record: dict[str, Any], members: Collection[str]) -> list[str]:
    """The members that are pictures, in order.

    Raises:
        ValueError: another format, or a picture too few or too many.
    """
    if record["format"] != FORMAT:
        raise ValueError(f"format {record['format']!r}; this version reads {FORMAT}")
    names = sorted(set(members) - {"json"})
    expected = [{f"{n:03d}.{kind}" for kind in pictures.FORMATS} for n in range(record["num_images"])]
    if len(names) != len(expected) or any(name not in of for name, of in zip(names, expected, strict=True)):
        raise ValueError(f"expected {len(expected)} images, found the members {', '.join(sorted(members))}")
    return names


def _trajectory(key: str, record: dict[str, Any], images: list[Image]) -> Trajectory:
    used = [draft["image"] for step in record["steps"] for draft in step["drafts"]]
    if used != list(range(len(images))):
        raise ValueError(f"the drafts name images {used}; expected each of {len(images)} once, in order")
    return Trajectory(
        key=key,
        prompt=_of(str, record["prompt"]),
        steps=tuple(_step(step, images) for step in record["steps"]),
        finished=_of(bool, record.get("finished", True)),
        goes_on=_of(bool, record.get("goes_on", False)),
        meta=_of(dict, record["meta"]),
    )


def _step(step: dict[str, Any], images: list[Image]) -> Step:
    drafts = tuple(
        Draft(
            image=images[draft["image"]],
            inspection=Inspection(**_texts(draft["inspection"])) if draft["inspection"] else None,
            flawed=_of(bool, draft["flawed"]),
        )
        for draft in step["drafts"]
    )
    return Step(plan=_plan(**step["plan"]) if step["plan"] else None, drafts=drafts)


def _plan(*, flawed: bool = False, **texts: Any) -> Plan:
    return Plan(**_texts(texts), flawed=_of(bool, flawed))


def _texts(fields: dict[str, Any]) -> dict[str, str]:
    return {name: _of(str, value) for name, value in fields.items()}


def _of(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"found {value!r}; expected a {kind.__name__}")
    return value
