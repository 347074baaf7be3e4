"""Trajectories that people edited and exported, as tasks that are drawn already."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL.Image

from brushwork.data.index import Entry, scan
from brushwork.data.pictures import check_size, fitted
from brushwork.data.shards import decode, read_members
from brushwork.data.sources.division import check_fractions, divide, identity_of, label, split_of
from brushwork.data.tasks import Reject, Task
from brushwork.tokens.trajectory import Image, Trajectory


@dataclass(frozen=True, kw_only=True)
class EditedSource:
    """Reads every `*.tar` of a folder: shards as `shards.write_shard` writes them, under any name, without an index.

    What cannot be read is a `Reject`: a trajectory that is damaged, one that is there already (exported twice), and the
    rest of a file that is cut off. Nothing is written into the folder, nothing is extracted.

    Attributes:
        folder: where the exports are.
        size: height and width to which pictures are cropped about their centre and scaled; None leaves them as they
            are.
        held_out, held_out_val: fractions of all prompts that are "test" and "val", see `split_of`. None by default: of
            a folder that is mixed in by `data.more` training reads "train" alone.
    """

    licence: ClassVar[str] = "as the people say who edited"

    folder: str | Path
    size: Sequence[int] | None = None
    held_out: float = 0.0
    held_out_val: float = 0.0

    def __post_init__(self) -> None:
        check_fractions(self.held_out, self.held_out_val)
        check_size(self.size)

    @property
    def identity(self) -> str:
        """The exports as they are, so that a build is not continued with others."""
        return identity_of(Path(self.folder).glob("*.tar"))

    def __call__(self, split: str, part: int, parts: int, seed: int) -> Iterator[Task | Reject]:
        """Tasks with a trajectory as `drawn`; `kind` is what its own `meta` says.

        Raises:
            FileNotFoundError: there are no exports.
            ValueError: no such split or part.
        """
        return divide(
            ((export.words, export) for export in self._exports()),
            partial(_task, split=split, size=self.size),
            split=split, part=part, parts=parts, seed=seed, held_out=self.held_out, held_out_val=self.held_out_val,
        )  # fmt: skip

    def count(self, split: str) -> int:
        """See `CountedSource`; FileNotFoundError where there are no exports."""
        return sum(split_of(one.words, self.held_out, self.held_out_val) == split for one in self._exports())

    def _exports(self) -> Iterator["_Export"]:
        files = sorted(Path(self.folder).glob("*.tar"))
        if not files:
            raise FileNotFoundError(
                f"{self.folder} holds no *.tar; put trajectories there that were exported as samples"
            )
        return _read(files)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Export:
    """One trajectory, undecoded; or, with `problem`, what is in its place."""

    file: str
    key: str = ""
    members: dict[str, bytes]
    problem: str = ""

    @property
    def prompt(self) -> str:
        """Empty where it cannot be read."""
        try:
            prompt = json.loads(self.members["json"])["prompt"]
        except (KeyError, ValueError, TypeError, RecursionError):
            return ""
        return prompt if isinstance(prompt, str) else ""

    @property
    def words(self) -> str:
        """What decides the split: the prompt, or a name where there is none."""
        return self.prompt or f"{self.file}/{self.key}"


def _read(files: Sequence[Path]) -> Iterator[_Export]:
    """Every trajectory of the files, one in memory at a time."""
    first: dict[bytes, str] = {}
    for path in files:
        entries, problem = _scan(path)
        for entry in entries:
            members = read_members(path, entry)
            place = f"{path.name}/{entry.key}"
            same = first.setdefault(_digest(members), place)
            again = "" if same == place else f"exported twice: {same} is the same"
            yield _Export(file=path.name, key=entry.key, members=members, problem=again)
        if problem or not entries:
            yield _Export(file=path.name, members={}, problem=f"damaged export: {problem or 'it holds no trajectory'}")


def _digest(members: dict[str, bytes]) -> bytes:
    digest = hashlib.sha256()
    for name, data in sorted(members.items()):
        digest.update(f"{name} {len(data)} ".encode(errors="surrogateescape") + data)
    return digest.digest()


def _scan(path: Path) -> tuple[list[Entry], str]:
    try:
        return scan(path)
    except Exception as error:  # whatever a file that is none, or cannot be opened, makes of it
        return [], f"{type(error).__name__}: {error}"


def _task(export: _Export, rng: np.random.Generator, *, split: str, size: Sequence[int] | None) -> Task | Reject:
    meta = {"source": "edited", "file": label(export.file), "record": label(export.key)}
    if export.problem:
        return Reject(prompt=_writable(export.prompt), reason=_writable(export.problem), detail=meta)
    try:
        trajectory = decode(export.key, export.members)
        # An escaped half of a character can be read but not written again.
        json.dumps(json.loads(export.members["json"]), ensure_ascii=False).encode()
    except Exception as error:  # whatever a damaged member makes a decoder raise
        reason = f"damaged export: {type(error).__name__}: {error}"
        return Reject(prompt=_writable(export.prompt), reason=_writable(reason), detail=meta)
    if size is not None:
        trajectory = _resized(trajectory, size)
    own = {name: fact for name, fact in trajectory.meta.items() if name not in ("kind", "split", "subset")}
    kind = trajectory.meta.get("kind")
    return Task(
        prompt=trajectory.prompt,
        split=split,
        rng=rng,
        drawn=trajectory,
        kind=kind if isinstance(kind, str) else "free",
        meta={**own, **meta},
    )


def _writable(text: str) -> str:
    """Text of a damaged file, without the halves of characters that cannot be written down."""
    return text.encode(errors="replace").decode()


def _resized(trajectory: Trajectory, size: Sequence[int]) -> Trajectory:
    steps = tuple(
        replace(step, drafts=tuple(replace(draft, image=_fitted(draft.image, size)) for draft in step.drafts))
        for step in trajectory.steps
    )
    return replace(trajectory, steps=steps)


def _fitted(image: Image, size: Sequence[int]) -> Image:
    return image if image.shape[:2] == tuple(size) else fitted(PIL.Image.fromarray(image), size)
