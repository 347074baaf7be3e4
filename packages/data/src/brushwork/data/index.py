"""The index beside a shard: where each sample lies and how large its pictures are; made anew where it does not fit."""

import json
import logging
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from brushwork.data.pictures import HEADER_BYTES, picture_size

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of the samples."""
INDEX_FORMAT = 2
BLOCK = 512
"""A tar header, and what tar pads members to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Where one sample lies in its shard.

    Attributes:
        key: of the sample.
        members: extension ("json", "000.png") to offset and size in bytes; empty for a sample that is lost.
        sizes: height and width of each picture, so that a sample's tokens can be counted without reading its pictures.
        problem: why it cannot be read, where the scan found that out already.
    """

    key: str
    members: dict[str, tuple[int, int]]
    sizes: tuple[tuple[int, int], ...] = ()
    problem: str = ""


def index_path(shard: Path) -> Path:
    """The index beside a shard."""
    return shard.with_suffix(".index.json")


def write_index(shard: Path, entries: list[Entry]) -> None:
    """Writes the index of a shard that is complete."""
    samples = [[entry.key, entry.members, entry.sizes] for entry in entries]
    content = {"format": INDEX_FORMAT, "shard_bytes": shard.stat().st_size, "samples": samples}
    write_atomically(index_path(shard), json.dumps(content, separators=(",", ":")).encode())


def read_index(shard: Path) -> list[Entry]:
    """Where the samples of a shard lie: from the index beside it or, where that is missing or stale, from the shard.

    An index is stale when the shard has another size or was changed later.
    """
    path = index_path(shard)
    size, known = _load_index(path)
    if known is not None and size == shard.stat().st_size and path.stat().st_mtime_ns >= shard.stat().st_mtime_ns:
        return known
    logger.warning("%s has no index that fits; reading the whole shard", shard)
    scanned, problem = scan(shard)
    if not problem:
        with suppress(OSError):  # a folder that cannot be written to is scanned each time
            write_index(shard, scanned)
        return scanned
    there = {entry.key for entry in scanned}
    # The old index still knows what the damaged shard should hold.
    lost = [shard.name] if known is None else [entry.key for entry in known if entry.key not in there]
    return scanned + [Entry(key=key, members={}, problem=f"lost: {problem}") for key in lost]


def _load_index(path: Path) -> tuple[int, list[Entry] | None]:
    """The size that the shard had and its samples; None where there is no readable index."""
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != INDEX_FORMAT:
            return 0, None
        entries = [
            Entry(
                key=key,
                members={name: (offset, size) for name, (offset, size) in members.items()},
                sizes=tuple((height, width) for height, width in sizes),
            )
            for key, members, sizes in content["samples"]
        ]
        return content["shard_bytes"], entries
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0, None


def scan(shard: Path) -> tuple[list[Entry], str]:
    """Every sample that the shard's headers name, and what is wrong with the shard, if anything.

    Nothing is written, and a file of any name, which need be no shard at all, may be scanned.
    """
    found: dict[str, dict[str, tuple[int, int]]] = {}
    problem, size, end = "", shard.stat().st_size, 0
    try:
        with tarfile.open(shard, mode="r:") as tar:
            for info in tar:
                if info.size < 0:  # tarfile would go back, and round for ever
                    raise tarfile.ReadError(f"a member of {info.size} bytes")
                end = info.offset_data + -(-info.size // BLOCK) * BLOCK
                key, _, extension = info.name.partition(".")
                if info.isfile():
                    if extension in found.setdefault(key, {}):
                        problem = f"the shard has {info.name} twice"
                    found[key][extension] = (info.offset_data, info.size)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        problem = f"the shard is damaged ({error})"
    if not problem and size < end + 2 * BLOCK:  # two empty blocks end an archive
        problem = f"the shard is cut off at {size} bytes"
    if not problem and _has_more(shard, end):  # tarfile takes a damaged header for the end
        problem = f"the shard has a damaged header at byte {end}"
    return [Entry(key=key, members=members, sizes=_sizes(shard, members)) for key, members in found.items()], problem


def _sizes(shard: Path, members: dict[str, tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The sizes of a sample's pictures, read from their headers; (0, 0) for what is none."""
    with shard.open("rb") as file:
        return tuple(_size_at(file, offset) for name, (offset, _) in sorted(members.items()) if name != "json")


def _size_at(file: BinaryIO, offset: int) -> tuple[int, int]:
    file.seek(offset)
    return picture_size(file.read(HEADER_BYTES))


def _has_more(shard: Path, end: int) -> bool:
    """Whether anything but padding follows what was read as the archive's last member."""
    with shard.open("rb") as file:
        file.seek(end)
        return any(file.read())


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that a reader, or a kill, sees all of it or nothing."""
    with atomically(path) as file:
        file.write(data)


@contextmanager
def atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place once all went well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
