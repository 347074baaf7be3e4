"""Builds a data set of trajectories in the embedded world; a build that was killed goes on where it stopped."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from brushwork.data.shards import FORMAT, read_index, shard_path, write_atomically, write_shard
from brushwork.data.worlds.shapes import KINDS, SPLITS, ShapesWorld
from brushwork.tokens.trajectory import Trajectory

logger = logging.getLogger(__name__)

Subset = Callable[..., Trajectory]
"""Called with world, kind, rng and the keywords split and key: a builder with its own settings bound by `partial`."""


def build(
    world: ShapesWorld,
    subset: Subset,
    num_samples: Mapping[str, int],
    out: str | Path,
    seed: int = 0,
    samples_per_shard: int = 1000,
    kinds: Sequence[str] = KINDS,
) -> dict[str, Any]:
    """Builds `num_samples` trajectories of each split, the kinds in equal numbers.

    Sample i of a split depends on the seed, the split and i alone, and shards appear complete or not at all: a build
    started again after a kill skips what is there and ends in the same bytes.

    Args:
        world: where scenes come from.
        subset: makes one trajectory.
        num_samples: split ("train", "val", "test") to number of samples.
        out: the folder; receives the shards, `words.json` (the vocabulary) and, last, `manifest.json`.
        seed: of all randomness.
        samples_per_shard: the last shard of a split may hold fewer.
        kinds: of prompt, taken in turn.

    Returns:
        The manifest: the configuration, and for each split the number of samples, images and samples of each kind.

    Raises:
        ValueError: an unknown split, a number below 1, or a folder that holds a build of another configuration.
    """
    if bad := {split: n for split, n in num_samples.items() if split not in SPLITS or n < 1}:
        raise ValueError(f"num_samples={bad}: expected at least 1 for some of {SPLITS}")
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard={samples_per_shard}: expected at least 1")
    out, kinds = Path(out), tuple(kinds)
    config = {
        "world": {"_target_": _path(type(world)), **asdict(world)},
        "subset": _settings(subset),
        "num_samples": dict(num_samples),
        "seed": seed,
        "samples_per_shard": samples_per_shard,
        "kinds": kinds,
    }
    _claim(out, json.loads(json.dumps(config)))
    write_atomically(out / "words.json", json.dumps(world.words()).encode())

    def sample(split: str, index: int) -> Trajectory:
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        return subset(world, kinds[index % len(kinds)], rng, split=split, key=f"{split}-{index:08d}")

    splits = {
        split: _build_split(partial(sample, split), out, split, total, samples_per_shard)
        for split, total in num_samples.items()
    }
    for split, total in num_samples.items():
        splits[split]["kinds"] = dict(Counter(kinds[index % len(kinds)] for index in range(total)))
    manifest = {"format": FORMAT, "config": config, "splits": splits}
    write_atomically(out / "manifest.json", json.dumps(manifest, indent=1).encode())
    logger.info("built %s in %s", ", ".join(f"{split}: {n:,}" for split, n in num_samples.items()), out)
    return manifest


def _path(thing: Any) -> str:
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def _settings(subset: Subset) -> dict[str, Any]:
    if isinstance(subset, partial):
        return {"_target_": _path(subset.func), **subset.keywords}
    return {"_target_": _path(subset)}


def _claim(out: Path, config: dict[str, Any]) -> None:
    """Marks the folder as this build's.

    Raises:
        ValueError: it is another build's.
    """
    path = out / "build.json"
    if path.exists() and (other := json.loads(path.read_bytes())) != config:
        differing = ", ".join(f"{key} ({other.get(key)!r} there)" for key in config if config[key] != other.get(key))
        raise ValueError(f"{out} holds a build that differs in {differing}; choose another out= or remove the folder")
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(".*.tmp"):  # what a killed build was writing
        leftover.unlink()
    write_atomically(path, json.dumps(config, indent=1).encode())


def _build_split(
    sample: Callable[[int], Trajectory], out: Path, split: str, total: int, samples_per_shard: int
) -> dict[str, Any]:
    """Builds the shards that are not there yet; returns what the split holds."""
    num_images, text = 0, TextColumn("{task.description}")
    with Progress(text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task(f"building {split}", total=total)
        for number, start in enumerate(range(0, total, samples_per_shard)):
            indexes, shard = range(start, min(start + samples_per_shard, total)), shard_path(out, split, number)
            if not _is_complete(shard, len(indexes)):
                write_shard(map(sample, indexes), shard)
            num_images += sum(len(entry.members) - 1 for entry in read_index(shard))
            progress.advance(bar, len(indexes))
    return {"samples": total, "images": num_images}


def _is_complete(shard: Path, num_samples: int) -> bool:
    entries = read_index(shard) if shard.exists() else []
    return len(entries) == num_samples and not any(entry.problem for entry in entries)
