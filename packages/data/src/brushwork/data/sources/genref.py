"""Gen-Ref (Zhuo et al. 2025, diffusion-cot/GenRef-wds): good and bad pictures of a prompt, and what is wrong."""

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL.Image

from brushwork.data.pictures import check_size, fitted
from brushwork.data.sources.division import check_fractions, divide, identity_of, label
from brushwork.data.tasks import Pair, Reject, Task
from brushwork.tokens.trajectory import Image

_PICTURES = ("good_image", "bad_image")
_TEXTS = ("prompt", "reflection", "subset")
_MEMBER = re.compile(  # key and field; nothing else is ever opened
    r"(.+)\.(?:(good_image|bad_image)\.(?:jpe?g|png|webp)|(prompt|reflection|subset)\.txt)", re.DOTALL
)
_LARGEST = 1 << 26  # bytes of a member: a header may claim more than there is memory
_BLOCK = 512  # tar's


@dataclass(frozen=True, kw_only=True)
class GenRefSource:
    """Reads `genref_*.tar` shard by shard, one sample in memory, and extracts nothing.

    All records of one prompt are in one split, see `split_of`. What is damaged (a member that is missing or cannot be
    decoded, a shard that is cut off) is a `Reject`; every sample before the damage is still read.

    Attributes:
        folder: where the shards are.
        size: height and width to which pictures are cropped about their centre and scaled; None leaves them as they
            are.
        held_out, held_out_val: fractions of all prompts that are "test" and "val".
    """

    licence: ClassVar[str] = "as the card of the data set says"

    folder: str | Path
    size: Sequence[int] | None = None
    held_out: float = 0.01
    held_out_val: float = 0.01

    def __post_init__(self) -> None:
        check_fractions(self.held_out, self.held_out_val)
        check_size(self.size)

    @property
    def identity(self) -> str:
        """The corpus as it is, so that a build is not continued with another one."""
        return identity_of(Path(self.folder).glob("genref_*.tar"))

    def __call__(self, split: str, part: int, parts: int, seed: int) -> Iterator[Task | Reject]:
        """Tasks with a `pair`; `kind` is the subset: general, length, rule or editing.

        Raises:
            FileNotFoundError: there are no shards.
            ValueError: no such split or part.
        """
        shards = sorted(Path(self.folder).glob("genref_*.tar"))
        if not shards:
            raise FileNotFoundError(
                f"{self.folder} holds no genref_*.tar; download some of the data set diffusion-cot/GenRef-wds there"
            )
        samples = (sample for shard in shards for sample in _samples(shard))
        return divide(
            ((sample.prompt or f"{sample.shard}/{sample.key}", sample) for sample in samples),
            partial(_task, split=split, size=self.size),
            split=split, part=part, parts=parts, seed=seed, held_out=self.held_out, held_out_val=self.held_out_val,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """Members of one key that lie side by side, by field; or, with `damage`, the rest of a shard."""

    shard: str
    key: str = ""
    members: dict[str, bytes]
    damage: str = ""

    @property
    def prompt(self) -> str:
        """Empty where it cannot be read."""
        try:
            return _text(self, "prompt")
        except (KeyError, ValueError):
            return ""


def _samples(shard: Path) -> Iterator[_Sample]:
    """Every sample of a shard; one ends where the key changes, or a field comes a second time."""
    key, members = "", {}
    damage = "it holds no sample (KEY.prompt.txt, KEY.good_image.jpg, ...)"
    try:
        for name, field, data in _members(shard):
            if members and (name != key or field in members):
                yield _Sample(shard=shard.name, key=key, members=members)
                members = {}
            key, members[field], damage = name, data, ""
    except Exception as error:  # whatever a damaged header makes tarfile raise
        damage = f"{type(error).__name__}: {error}"
    if members:
        yield _Sample(shard=shard.name, key=key, members=members)
    if damage:
        yield _Sample(shard=shard.name, members={}, damage=damage)


def _members(shard: Path) -> Iterator[tuple[str, str, bytes]]:
    """Key, field and content of each member of a sample; links, devices and other files are passed over.

    Raises:
        tarfile.ReadError, and others of tarfile's: the shard is damaged.
    """
    with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while (info := tar.next()) is not None:
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # else all headers stay in memory
            match = _MEMBER.fullmatch(info.name)
            if info.size < 0 or (match and info.size > _LARGEST):
                raise tarfile.ReadError(f"a member of {info.size} bytes; expected at most {_LARGEST}")
            if match and info.isreg() and (content := tar.extractfile(info)):
                yield match[1], match[2] or match[3], content.read()
        _check_end(file, tar.offset)


def _check_end(file: io.BufferedReader, end: int) -> None:
    """Raises ReadError unless only empty blocks follow, two at least: tarfile takes a damaged header for the end."""
    size = file.seek(0, io.SEEK_END)
    if size < end + 2 * _BLOCK:
        raise tarfile.ReadError(f"cut off at {size} bytes")
    file.seek(end)
    while chunk := file.read(1 << 20):
        if chunk.count(0) < len(chunk):
            raise tarfile.ReadError(f"a damaged header at byte {end}")


def _task(sample: _Sample, rng: np.random.Generator, *, split: str, size: Sequence[int] | None) -> Task | Reject:
    meta = {"source": "genref", "shard": sample.shard, "record": label(sample.key)}
    try:
        if sample.damage:
            raise ValueError(f"damaged shard: {sample.damage}; what follows in it is lost")
        if missing := [field for field in (*_PICTURES, *_TEXTS) if field not in sample.members]:
            raise ValueError(f"incomplete sample: it lacks {', '.join(missing)}")
        prompt, reflection, subset = (_text(sample, field) for field in _TEXTS)
        good, bad = (_picture(sample, field, size) for field in _PICTURES)
    except ValueError as error:
        return Reject(prompt=sample.prompt, reason=str(error), detail=meta)
    pair = Pair(good=good, bad=bad, reflection=reflection)
    return Task(prompt=prompt, split=split, rng=rng, pair=pair, kind=subset, meta=meta)


def _text(sample: _Sample, field: str) -> str:
    try:
        text = sample.members[field].decode().strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"unreadable text: {field} is not UTF-8 ({error})") from error
    if not text:
        raise ValueError(f"unreadable text: {field} is empty")
    return text


def _picture(sample: _Sample, field: str, size: Sequence[int] | None) -> Image:
    try:
        image = PIL.Image.open(io.BytesIO(sample.members[field]), formats=("JPEG", "PNG", "WEBP")).convert("RGB")
    except Exception as error:  # whatever a damaged picture makes Pillow raise
        raise ValueError(f"undecodable image: {field} ({type(error).__name__}: {error})") from error
    return np.asarray(image) if size is None else fitted(image, size)
