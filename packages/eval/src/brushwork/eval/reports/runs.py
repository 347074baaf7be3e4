"""What a report reads of one arm: verdicts, predictions, the training log, the configuration, all from one folder."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from brushwork.data.shards import Rejected, ShardFolder
from brushwork.eval.benchmark import Scale
from brushwork.eval.sampler import PREDICTIONS_FOLDER, read_rejected, read_samples
from brushwork.eval.scores import read_scale, read_scores
from brushwork.eval.verdicts import VERDICTS_FILE, ScoredTrajectory, read_verdicts
from brushwork.tokens.trajectory import Trajectory

METRICS_FILES = "logs/**/metrics.csv"
NOT_CURVES = {"step", "epoch", "minutes"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One column of the training log.

    Attributes:
        name: the column, such as "train/flow".
        points: (optimiser step, training minutes, value); minutes are NaN where the log has none.
    """

    name: str
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One arm of the report.

    Attributes:
        name: what the report calls it.
        folder: the run folder.
        rows: its verdicts.
        curves: its training log; empty where the sampler was not trained here.
        samples: what `predict` recorded: prompts, sampler, machine, command.
        rejected: prompts that the sampler refused.
        settings: file name → text of the configurations kept in the folder.
        scored: what `test` recorded: benchmark, scale, judge, sampler; empty in older runs.
    """

    name: str
    folder: Path
    rows: list[ScoredTrajectory]
    curves: list[Curve]
    samples: dict[str, Any]
    rejected: list[dict[str, str]]
    settings: dict[str, str]
    scored: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def scale(self) -> Scale:
        """How its verdicts become scores."""
        return read_scale(self.scored)

    @property
    def benchmark(self) -> str:
        """Name of what was answered; empty where the run does not tell."""
        return str(self.scored.get("benchmark", {}).get("benchmark", ""))

    @cached_property
    def trajectories(self) -> "TrajectoryByKey":
        """The pictures, read one at a time."""
        return TrajectoryByKey(self.folder / PREDICTIONS_FOLDER, [row.key for row in self.rows])

    @property
    def num_missing(self) -> int:
        """Prompts that were asked but neither drawn nor refused: `predict` was interrupted."""
        return max(0, len(self.samples.get("samples", [])) - len(self.rows) - len(self.rejected))


def facts(scale: Scale) -> dict[str, Any]:
    """The scale's fields so that they compare as they should: the first of the overall scores is the headline."""
    return {one.name: getattr(scale, one.name) for one in fields(Scale)} | {"overalls": list(scale.overalls.items())}


class TrajectoryByKey:
    """Finds the trajectory of a verdict in the shards."""

    def __init__(self, folder: Path, keys: Iterable[str]) -> None:
        """Rows of `verdicts.jsonl` stand in the order of the shards: the place of a key is its number."""
        self.samples = ShardFolder(folder, PREDICTIONS_FOLDER)
        self.places = {key: place for place, key in enumerate(keys)}

    def __getitem__(self, key: str) -> Trajectory | None:
        """The trajectory; None where it cannot be read or the shards have changed since they were scored."""
        place = self.places[key]
        sample = self.samples[place] if place < len(self.samples) else None
        return None if sample is None or isinstance(sample, Rejected) or sample.key != key else sample


def load_runs(runs: str | Path | Mapping[str, str | Path]) -> list[Run]:
    """Load the arms of a report.

    Args:
        runs: arm name → run folder, or one folder whose subfolders with verdicts are the arms, in their order by name.

    Raises:
        FileNotFoundError: a folder has no verdicts.
        ValueError: there is no arm at all, or the arms answered different benchmarks or are scored differently.
    """
    if isinstance(runs, Mapping):
        folders = {str(name): Path(folder) for name, folder in runs.items()}
    else:
        folders = {path.parent.name: path.parent for path in sorted(Path(runs).glob(f"*/{VERDICTS_FILE}"))}
        if not folders:
            raise FileNotFoundError(f"no subfolder of {runs} holds {VERDICTS_FILE}; `lightning test` writes it")
    if not folders:
        raise ValueError("no runs to report; expected e.g. runs={process: outputs/process} or runs=outputs")
    loaded = [load_run(name, folder) for name, folder in folders.items()]
    check_one_benchmark(loaded)
    return loaded


def check_one_benchmark(runs: Sequence[Run]) -> None:
    """See that scores of these runs may stand in one table.

    Raises:
        ValueError: they answered different benchmarks, or their verdicts become scores in different ways.
    """
    told = {run.name: run.benchmark for run in runs if run.benchmark}
    if len(set(told.values())) > 1:
        listed = "; ".join(f"{name}: {benchmark}" for name, benchmark in told.items())
        raise ValueError(f"the runs answered different benchmarks ({listed}); report each benchmark by itself")
    first, *others = runs
    for run in others:
        unequal = [name for name, value in facts(run.scale).items() if value != facts(first.scale)[name]]
        if unequal:
            raise ValueError(
                f"runs {first.name} and {run.name} are scored on different scales: they differ in "
                f"{', '.join(unequal)}; score both with the same benchmark and judge, `lightning test` writes the scale"
            )


def load_run(name: str, folder: Path) -> Run:
    """Load one arm: `verdicts.jsonl` and `predictions/` must be there, `logs/**/metrics.csv` and `*.yaml` may be."""
    predictions = folder / PREDICTIONS_FOLDER
    return Run(
        name=name,
        folder=folder,
        rows=read_verdicts(folder / VERDICTS_FILE),
        curves=read_curves(sorted(folder.glob(METRICS_FILES), key=lambda path: path.stat().st_mtime)),
        samples=read_samples(predictions),
        rejected=read_rejected(predictions),
        settings={path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))},
        scored=read_scores(folder),
    )


def read_curves(paths: Sequence[Path]) -> list[Curve]:
    """Every numeric column of Lightning's CSV logs; blank cells and whole missing columns are in order.

    Lightning writes a row per logging call, most cells blank. Where `minutes` is blank in a row it is taken from the
    last row that had it.

    Args:
        paths: the logs of one run, the oldest first: a run that was interrupted has one for each time it went on.
    """
    points: dict[str, list[tuple[float, float, float]]] = {}
    minutes = math.nan
    for path in paths:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        for number, row in enumerate(rows):
            minutes = parse(row.get("minutes"), minutes)
            step = parse(row.get("step"), float(number))
            for name, cell in row.items():
                value = parse(cell, math.nan)
                if name and name not in NOT_CURVES and math.isfinite(value):
                    points.setdefault(name, []).append((step, minutes, value))
    return [Curve(name=name, points=tuple(values)) for name, values in points.items()]


def parse(cell: Any, otherwise: float) -> float:
    """The cell's number; `otherwise` where it is blank, missing or no number."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return otherwise
