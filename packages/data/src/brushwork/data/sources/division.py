"""Which records of a corpus belong to a split, and which of those to one of several workers."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from brushwork.data.tasks import Reject, Task, task_rng

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
T = TypeVar("T")


def check_fractions(held_out: float, held_out_val: float) -> None:
    """Raises ValueError where these are no fractions that leave something for training."""
    if not (held_out >= 0 and held_out_val >= 0 and held_out + held_out_val < 1):
        raise ValueError(f"held_out={held_out}, held_out_val={held_out_val}: expected fractions of at least 0, sum < 1")


def split_of(words: str, held_out: float, held_out_val: float) -> str:
    """The split of all records with these words, by a hash of them; capitals and spacing make no difference.

    Args:
        words: the prompt, so that no prompt is in two splits.
        held_out: the fraction of all words that is "test".
        held_out_val: the fraction that is "val"; the rest is "train".
    """
    plain = " ".join(words.lower().split()).encode(errors="surrogatepass")
    place = int.from_bytes(hashlib.sha256(plain).digest()[:8], "big") / 2**64
    return "test" if place < held_out else "val" if place < held_out + held_out_val else "train"


def divide(
    records: Iterable[tuple[str, T]],
    make: Callable[[T, np.random.Generator], Task | Reject],
    *,
    split: str,
    part: int,
    parts: int,
    seed: int,
    held_out: float,
    held_out_val: float,
) -> Iterator[Task | Reject]:
    """What a source yields: the tasks of record `part`, `part + parts`, ... of a split; rejected ones are logged.

    A record that cannot be read belongs to a split as well, by whatever name it has, and takes a number: so it is
    counted once over all splits and parts, and moves no other record.

    Args:
        records: the words that decide the split, and the record; always in the same order.
        make: a task or a reject of a record, called for this part's records alone, with the task's randomness.
        split, part, parts, seed: as `Source` has them.
        held_out, held_out_val: see `split_of`.

    Raises:
        ValueError: no such split or part.
    """
    if split not in SPLITS or not 0 <= part < parts:
        raise ValueError(f"part {part} of {parts} of split {split!r}: expected one of {SPLITS} and 0 <= part < parts")
    of_split = (record for words, record in records if split_of(words, held_out, held_out_val) == split)
    outcomes = (
        make(record, task_rng(seed, split, part, number))
        for number, record in enumerate(islice(of_split, part, None, parts))
    )
    return map(_logged, outcomes)


def identity_of(paths: Iterable[Path]) -> str:
    """Sixteen hex digits that change with the names and sizes of files, and with pieces of them, evenly spread."""
    digest, piece = hashlib.sha256(), 1 << 16
    for path in sorted(path for path in paths if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(piece, size // 512)):
                file.seek(start)
                digest.update(file.read(piece))
    return digest.hexdigest()[:16]


def label(name: str) -> str:
    """A name from a data set as a harmless word of letters, digits, - and _: there it may be any path."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[-80:]


def _logged(outcome: Task | Reject) -> Task | Reject:
    if isinstance(outcome, Reject):
        logger.warning("rejected %s: %s", dict(outcome.detail), outcome.reason)
    return outcome
