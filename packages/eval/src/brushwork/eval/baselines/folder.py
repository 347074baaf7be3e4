"""Pictures in a folder as a sampler: whatever drew them elsewhere, they are judged like any other answer."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from brushwork.eval.baselines.pictures import decode_picture
from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.tokens.trajectory import Draft, Step, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderSampler:
    """Reads each answer from the place that the benchmark's official layout has for it.

    Attributes:
        folder: what that layout counts from.
        name: of the model that drew the pictures, for the tables.
    """

    folder: str | Path
    name: str

    @property
    def fingerprint(self) -> str:
        """Name, folder, and a digest of the pictures' names, sizes and dates: they may change between two runs."""
        folder = Path(self.folder)
        files = [(path, path.stat()) for path in sorted(folder.rglob("*.png*")) if path.is_file()]
        listed = [(path.relative_to(folder).as_posix(), told.st_size, told.st_mtime_ns) for path, told in files]
        return f"folder {self.name} {self.folder} {hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]}"

    def describe(self) -> dict[str, Any]:
        """For the result files."""
        return {"model": self.name, "settings": "not known: pictures from a folder"}

    def answer(self, samples: Sequence[BenchmarkPrompt]) -> list[Trajectory]:
        """One trajectory of one image a sample, whose cost is not known but for that image.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: there is no picture of a sample, it cannot be read, or its name leads out of the folder.
        """
        if not Path(self.folder).is_dir():
            raise FileNotFoundError(f"there is no folder {str(self.folder)!r}; expected one with the pictures to judge")
        return [self.read(sample) for sample in samples]

    def read(self, sample: BenchmarkPrompt) -> Trajectory:
        """The answer to one sample."""
        path = self.place(sample)
        try:
            image = decode_picture(path.read_bytes())
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error.strerror}); expected the picture of {sample.key}"
            ) from error
        except ValueError as error:
            raise ValueError(f"{path} cannot be judged: {error}") from error
        return Trajectory(
            key=sample.key,
            prompt=sample.prompt,
            steps=(Step(plan=None, drafts=(Draft(image=image),)),),
            meta={"cost": {"images": 1}, "stopped": "end"},
        )

    def place(self, sample: BenchmarkPrompt) -> Path:
        """Where the picture of a sample lies: its official place, or `<key>.png` where it has none."""
        name = sample.file or f"{sample.key}.png"
        outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
        if outside or ".." in PureWindowsPath(name).parts:  # both kinds of slash divide a Windows path
            raise ValueError(f"the benchmark names {name!r} for {sample.key}; expected a place inside {self.folder}")
        return Path(self.folder, name)
