"""Finished runs and data sets, a page at a time: every folder of shards, read anew where it has grown."""

import re
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from brushwork.data.shards import Rejected, ShardFolder
from brushwork.eval.reports.gallery import data_uri
from brushwork.eval.reports.survey import find_splits
from brushwork.eval.sampler import PREDICTIONS_FOLDER
from brushwork.eval.studio.desk import Refused
from brushwork.eval.studio.exchange import trajectory_json
from brushwork.eval.verdicts import VERDICTS_FILE, read_verdicts

MOST = 100
"""Galleries that are found by themselves, and items of a page."""
SHELVES = 8
"""Indices that are kept in memory."""
_Stamp = list[tuple[str, int]]


class Galleries:
    """Trajectories on disk that the page shows. Safe for threads: what is read is opened at each call.

    Args:
        folders: run folders and data sets by name, each split of a data set being a gallery of its own; or a folder
            in which they are looked for, again at each listing; or nothing.

    Raises:
        FileNotFoundError: a folder without shards was named.
        ValueError: a name that cannot stand in an address.
    """

    def __init__(self, folders: Mapping[str, str | Path] | str | Path | None) -> None:
        self._root = None if folders is None or isinstance(folders, Mapping) else Path(folders)
        named = folders if isinstance(folders, Mapping) else {} if self._root is None else find_galleries(self._root)
        if wrong := [name for name in named if not name or "/" in name]:
            raise ValueError(f"a gallery is called {wrong[0]!r}; expected a name without /")
        self._places = _places(named)
        self._shelves: dict[str, tuple[_Stamp, ShardFolder]] = {}  # the last few that were looked at
        self._numbers: dict[str, tuple[_Stamp, int]] = {}

    @property
    def names(self) -> list[str]:
        """What they are called."""
        return [*self._places]

    def listing(self) -> list[dict[str, Any]]:
        """Name, title and number of samples of each that has any."""
        if self._root is not None:
            with suppress(FileNotFoundError):  # a folder is removed meanwhile
                self._places = _places(find_galleries(self._root))
        numbers = {name: self._number(name) for name in self.names}
        return [{"name": name, "title": name.replace(".", " · "), "number": numbers[name]} for name in numbers
                if numbers[name]]  # fmt: skip

    def page(self, name: str, page: int, size: int) -> dict[str, Any]:
        """The samples of one page, each with its last picture, small; those that cannot be read are left out.

        Raises:
            Refused: no gallery of this name.
        """
        shelf, passed = self._shelf(name), self._passed(name)
        items = []
        for index in range(page * size, min((page + 1) * size, len(shelf))):
            one = shelf[index]
            if isinstance(one, Rejected):
                continue
            images = [draft.image for draft in one.drafts]
            thumbnail = data_uri(images[-1]) if images else None
            about = {"prompt": one.prompt, "images": len(images), "thumbnail": thumbnail}
            items.append({"index": index, "key": one.key, **about, "passed": passed.get(one.key)})
        return {"number": len(shelf), "items": items}

    def item(self, name: str, index: int) -> dict[str, Any]:
        """All of one sample.

        Raises:
            Refused: there is none of this name and number, or it cannot be read.
        """
        shelf = self._shelf(name)
        if not 0 <= index < len(shelf):
            raise Refused(404, f"{name} has {len(shelf)} samples, from 0; there is no {index}")
        one = shelf[index]
        if isinstance(one, Rejected):
            raise Refused(404, f"sample {index} of {name} cannot be read: {one.reason}")
        return trajectory_json(one)

    def _number(self, name: str) -> int:
        stamp, number = self._numbers.get(name, ([], 0))
        if stamp == self._stamp(name):
            return number
        try:
            return len(self._shelf(name))
        except Refused:  # removed since
            return 0

    def _stamp(self, name: str) -> _Stamp:
        folder, split = self._places[name]
        return [(path.name, path.stat().st_mtime_ns) for path in sorted(folder.glob(f"{split}-[0-9]*.tar"))]

    def _shelf(self, name: str) -> ShardFolder:
        if name not in self._places:
            raise Refused(404, f"there is no gallery {name!r}")
        stamp = self._stamp(name)
        known, shelf = self._shelves.get(name, (None, None))
        if shelf is None or known != stamp:
            try:
                shelf = ShardFolder(*self._places[name])
            except FileNotFoundError as error:
                raise Refused(404, f"the gallery {name!r} is gone") from error
            self._numbers[name] = stamp, len(shelf)
            self._shelves = dict([*self._shelves.items()][1 - SHELVES :]) | {name: (stamp, shelf)}
        return shelf

    def _passed(self, name: str) -> dict[str, bool | None]:
        folder, split = self._places[name]
        path = folder.parent / VERDICTS_FILE
        if split != PREDICTIONS_FOLDER or not path.is_file():
            return {}
        return {row.key: row.passed for row in read_verdicts(path)}


def find_galleries(root: Path) -> dict[str, Path]:
    """The run folders and data sets below a folder, named by their places; of very many the newest."""
    shards = (path for path in root.rglob("*.tar") if re.fullmatch(r".+-\d+", path.stem))
    folders = {one.parent if one.name == PREDICTIONS_FOLDER else one for one in {path.parent for path in shards}}
    newest = sorted(folders - {root}, key=lambda one: -one.stat().st_mtime)[:MOST]
    named: dict[str, Path] = {}
    for one in sorted(newest):
        named[_distinct(".".join(one.relative_to(root).parts), named)] = one
    return named


def _places(named: Mapping[str, str | Path]) -> dict[str, tuple[Path, str]]:
    """Folder and start of the shards' names of each gallery."""
    places: dict[str, tuple[Path, str]] = {}
    for name, folder in named.items():
        for suffix, place, split in _splits(Path(folder)):
            places[_distinct(name + suffix, places)] = place, split
    return places


def _distinct(name: str, taken: Container[str]) -> str:
    """The name, or one like it where it is taken: a.b/c and a/b.c are not the same."""
    return next(one for one in chain([name], (f"{name}~{n}" for n in count(2))) if one not in taken)


def _splits(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """What is to be added to the name, the folder and the start of the shards' names, for each gallery in a folder."""
    if (folder / PREDICTIONS_FOLDER).is_dir():
        yield "", folder / PREDICTIONS_FOLDER, PREDICTIONS_FOLDER
        return
    for split in find_splits(folder):
        yield "" if split == PREDICTIONS_FOLDER else f".{split}", folder, split
