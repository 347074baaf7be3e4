"""Checkpoints: written whole or not at all, and checked before they are used."""

import contextlib
import itertools
import json
import logging
import os
import re
import shutil
import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy

from brushwork.trainer.signals import StopSignals, requeue_slurm_job

log = logging.getLogger(__name__)

META = "meta.pt"
"""In a sharded checkpoint: all but tensors of the model and the optimiser. Lightning's name."""

MANIFEST = "files.json"
"""In a sharded checkpoint: size in bytes of every file, written when all are on disk."""

_FACTS, _ACCUMULATED = "brushwork", "accumulate_grad_batches"


class Checkpoints(Checkpoint):
    """Saves the state of training at the end of optimiser steps, and when a signal asks to stop.

    Each checkpoint is written under another name, flushed to disk, and renamed: `step-00000250.ckpt`, a file, or a
    folder if the strategy shards. Whatever kills a run, the newest checkpoint in `folder` is whole. SIGTERM, SIGUSR1
    and the first SIGINT let the running step finish on every rank, save, and end the process with 128 + the signal's
    number, before the first step too; after SIGUSR1 a SLURM job is queued again.

    Args:
        folder: of the checkpoints of one run.
        every_steps: optimiser steps between two checkpoints.
        every_minutes: between two checkpoints, besides; None counts steps alone.
        keep: so many of the newest stay. Two, so that a good one is left when the newest turns out to be damaged.

    Attributes:
        facts: plain values about the experiment (`config`, `versions`) that go into each checkpoint.

    Raises:
        ValueError: `every_steps` or `keep` is not positive; the strategy cannot write a checkpoint in one move; ranks
            begin at different steps.
    """

    def __init__(
        self, folder: str, *, every_steps: int = 250, every_minutes: float | None = None, keep: int = 2
    ) -> None:
        if every_steps < 1 or keep < 1:
            raise ValueError(f"every_steps and keep must be at least 1; got {every_steps} and {keep}")
        self.folder, self.every_steps, self.every_minutes, self.keep = Path(folder), every_steps, every_minutes, keep
        self.facts: dict[str, Any] = {}
        self._signals = StopSignals()
        self._seen = self._saved = 0  # optimiser steps
        self._leaving = 0  # number of the signal
        self._saved_at = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Sees to it that checkpoints are written in one move; removes what killed writers left."""
        if stage != "fit":
            return
        if not isinstance(trainer.strategy, ModelParallelStrategy):
            trainer.strategy.checkpoint_io = WholeFile()
        elif not hasattr(trainer.strategy, "finish_writing"):
            name = type(trainer.strategy).__name__
            raise ValueError(f"{name} leaves half a checkpoint when it is killed; use trainer.sharded.ShardedStrategy")
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(unfinished(self.folder / "step-*").name):
                remove(leftover)
        # Lightning's own handlers come once all is restored, and would broadcast from inside the handler.
        trainer._signal_connector.register_signal_handlers = lambda: None
        self._signals.install()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts from where training begins; clears what former runs left; leaves, if a signal came before."""
        self._seen = self._saved = trainer.global_step
        self._saved_at = time.monotonic()
        step = trainer.global_step
        *steps, self._leaving = _agree(trainer, [step, -step, self._signals.received])
        if steps != [step, -step]:
            raise ValueError(
                f"rank {trainer.global_rank} begins at step {step}, others do not; do all see {self.folder}?"
            )
        if trainer.is_global_zero and trainer.ckpt_path is None:
            _move_aside(self.folder)
        self._leave(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves, if it is time to, after a batch with which an optimiser step was made."""
        step = trainer.global_step
        if step == self._seen:  # gradients are still accumulating
            return
        self._seen = step
        is_due = step % self.every_steps == 0 or step == trainer.max_steps
        number, is_late, stops = _agree(trainer, [self._signals.received, self._is_late(), trainer.should_stop])
        if is_due or number or is_late or stops:
            self.save(trainer)
        self._leaving = number

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leaves, if a signal asked to. Not before: the step's values are logged after its checkpoint is written."""
        self._leave(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves, if a signal asked to."""
        self._leave(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves what was trained since the last checkpoint."""
        if trainer.global_step != self._saved:
            self.save(trainer)
        _finish_writing(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        self._signals.restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Gives the signals back."""
        self._signals.restore()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the facts, as JSON has them: no other types, which the reader would refuse."""
        checkpoint[_FACTS] = json.loads(json.dumps(self.facts))
        checkpoint[_ACCUMULATED] = trainer.accumulate_grad_batches

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Counts the batches so far as this run accumulates them: Lightning makes a step at each multiple of that."""
        now = trainer.accumulate_grad_batches
        then = checkpoint.get(_ACCUMULATED, now)
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            steps = counts["processed"] // then
            counts |= {name: count + steps * (now - then) for name, count in counts.items()}

    def save(self, trainer: pl.Trainer) -> None:
        """Writes a checkpoint and removes those that are no longer wanted; every rank has to call it."""
        path = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        self._saved, self._saved_at = trainer.global_step, time.monotonic()
        if trainer.is_global_zero:
            self._prune()

    def _prune(self) -> None:
        """Keeps the newest. What claims to be of a later step is of a future that this run does not share."""
        paths = _candidates(self.folder)
        later = [path for path in paths if _step(path) > self._saved]
        for path in later:
            log.warning("%s is removed: this run is at step %d only", path, self._saved)
        for path in [*later, *[path for path in paths if path not in later][self.keep :]]:
            remove(path)

    def _is_late(self) -> bool:
        return self.every_minutes is not None and time.monotonic() - self._saved_at > 60 * self.every_minutes

    def _leave(self, trainer: pl.Trainer) -> None:
        number = self._leaving
        if not number:
            return
        _finish_writing(trainer)
        name, step = signal.Signals(number).name, trainer.global_step
        if trainer.is_global_zero:
            log.warning("stopped by %s at step %d; the same command goes on", name, step)
            if number == signal.SIGUSR1:
                requeue_slurm_job()
        # A process that Lightning started must not fail: its parent would be killed while it tidies up.
        is_child = isinstance(_environment(trainer), LightningEnvironment) and trainer.local_rank > 0
        raise SystemExit(0 if is_child else 128 + number)


class WholeFile(TorchCheckpointIO):
    """One file a checkpoint, streamed to disk under another name and renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint, over a former one of that name.

        Raises:
            OSError: it cannot be written; nothing is left of it.
        """
        with whole_file(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint.

        Raises:
            ValueError: it is in shards.
        """
        if Path(path).is_dir():
            raise ValueError(f"{path} is in shards, which this trainer does not read; go on with trainer=fsdp")
        return super().load_checkpoint(path, map_location, weights_only)


def last_good(folder: Path) -> Path | None:
    """The newest checkpoint of a run that can be read; None where there is none at all.

    Raises:
        ValueError: all of them are damaged.
    """
    damaged = []
    for path in _candidates(folder):
        if (reason := damage(path)) is None:
            for name, problem in damaged:
                log.warning("%s is damaged (%s); going on from %s instead", name, problem, path)
            return path
        damaged.append((path, reason))
    if damaged:
        listed = "; ".join(f"{name.name}: {problem}" for name, problem in damaged)
        raise ValueError(f"no checkpoint in {folder} can be read ({listed}); resume=null begins anew")
    return None


def checkpoint_at(path: Path) -> Path:
    """The checkpoint that a path names: it, or the newest good one of a folder of them.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path} to go on from")
    if path.is_dir() and (newest := last_good(path)):
        return newest
    if reason := damage(path):
        raise ValueError(f"{path} is no whole checkpoint ({reason}); take another, or resume=auto")
    return path


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole.

    A file is read to its end and its checksums are compared, of shards the sizes.
    """
    try:
        if path.is_dir():
            sizes: dict[str, int] = json.loads((path / MANIFEST).read_text())
            wrong = [name for name, size in sizes.items() if (path / name).stat().st_size != size]
            return f"{wrong[0]} has another size than was written" if wrong else None
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        return f"{broken} is broken" if broken else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return str(error)


def facts(path: Path) -> dict[str, Any]:
    """What a checkpoint says about its experiment; empty if nothing."""
    file = path / META if path.is_dir() else path
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True).get(_FACTS, {})


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that bears its name only once all of it is on disk; if that fails, it is gone."""
    draft = unfinished(path)
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unfinished(path: Path) -> Path:
    """What a checkpoint is called while it is written or removed."""
    return path.with_name(f".{path.name}.unfinished")


def remove(path: Path) -> None:
    """Removes a checkpoint; one that is half removed does not bear its name."""
    doomed = path if path.name.startswith(".") else unfinished(path)
    if doomed != path:
        remove(doomed)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, doomed)
    if doomed.is_dir():
        shutil.rmtree(doomed)
    else:
        doomed.unlink(missing_ok=True)


def _move_aside(folder: Path) -> None:
    """Leaves a run that begins from nothing no checkpoints of a former one: it would go on from them once it died."""
    if paths := _candidates(folder):
        place = folder.resolve()
        names = (place.with_name(f"{place.name}.replaced-{number}") for number in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        aside.mkdir()
        for path in paths:
            shutil.move(path, aside / path.name)
        log.warning("this run begins from nothing; the checkpoints of the former one are now in %s", aside)


def _candidates(folder: Path) -> list[Path]:
    """Checkpoints by name, the newest first."""
    return sorted((path for path in folder.glob("step-*.ckpt") if _step(path) >= 0), key=_step, reverse=True)


def _step(path: Path) -> int:
    match = re.fullmatch(r"step-(\d+)\.ckpt", path.name)
    return int(match[1]) if match else -1


def _agree(trainer: pl.Trainer, numbers: list[int]) -> list[int]:
    """The largest of each number over all ranks."""
    if trainer.world_size == 1:
        return numbers
    tensor = torch.tensor(numbers, dtype=torch.int64, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return tensor.tolist()


def _environment(trainer: pl.Trainer) -> Any:
    return getattr(trainer.strategy, "cluster_environment", None)


def _finish_writing(trainer: pl.Trainer) -> None:
    """Waits for what a sharded strategy still writes."""
    getattr(trainer.strategy, "finish_writing", lambda: None)()
