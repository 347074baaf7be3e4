"""The training and validation streams of folders of shards, for Lightning."""

import atexit
import functools
import logging
import multiprocessing
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from brushwork.data.mixture import Mixture
from brushwork.data.shards import ShardFolder
from brushwork.data.stream import PackedStream, View
from brushwork.tokens.packing import PackedBatch
from brushwork.tokens.segments import Segmenter

log = logging.getLogger(__name__)


def _outlive_signals(worker: int) -> None:
    """A batch system signals the loader workers too, but the trainer needs them until its step is done."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _end_loaders() -> None:
    """At exit Python asks its children to end by SIGTERM and waits for them; those would not hear it."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


class TrajectoryDataModule(pl.LightningDataModule):
    """The training and validation streams of one or several folders of shards.

    Args:
        folder: what `lightning build` wrote; its "val" split validates.
        segmenter: samples to segments.
        view: what is read of each sample.
        max_tokens: capacity of a pack.
        more: further folders, mixed in for training.
        weights: how often each folder is drawn from, `folder` first; None draws by size, so that an epoch uses every
            sample once.
        window: samples packed together.
        balance, pair_cost: see `PackedStream`.
        num_workers: loader processes a rank; 0 loads in the training process.
        seed: of order and dropout.

    Attributes:
        set_aside: training samples that could not be used, by key, with the reason, as far as this rank has read: all
            that are damaged in their texts, and of damaged pictures those of its own packs.
    """

    def __init__(
        self,
        folder: str,
        segmenter: Segmenter,
        view: View,
        *,
        max_tokens: int,
        more: Sequence[str] = (),
        weights: Sequence[float] | None = None,
        window: int = 256,
        balance: int = 1,
        pair_cost: float = 0.0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"max_tokens": max_tokens, "window": window, "seed": seed, "pair_cost": pair_cost}
        self._training = lambda: PackedStream(
            Mixture([ShardFolder(one, "train") for one in (folder, *more)], weights, seed=seed),
            view,
            segmenter,
            balance=balance,
            **options,
        )
        self._held_out = lambda: PackedStream(
            Mixture([ShardFolder(folder, "val")]), view, segmenter, **options, endless=False
        )
        self._validates = any(Path(folder).glob("val-[0-9]*.tar"))
        self.num_workers = num_workers
        self.set_aside: dict[str, str] = {}
        self._cursor: dict[str, Any] | None = None

    @functools.cached_property
    def train(self) -> PackedStream:
        """The training stream; FileNotFoundError without shards."""
        return self._training()

    @functools.cached_property
    def val(self) -> PackedStream:
        """The validation stream; FileNotFoundError without shards."""
        return self._held_out()

    def setup(self, stage: str) -> None:
        """Lays steps out for as many accumulated batches as the trainer takes."""
        if self.trainer is not None and stage == "fit":
            self.train.accumulate = self.trainer.accumulate_grad_batches

    @property
    def subsets(self) -> list[str]:
        """The subsets that the samples of training and validation name, "" among them where some name none."""
        return sorted(self.train.mixture.subsets | (self.val.mixture.subsets if self._validates else set()))

    def train_dataloader(self) -> DataLoader:
        """Endless shuffled packs."""
        if self.num_workers:
            atexit.register(_end_loaders)
        return DataLoader(self.train, batch_size=None, num_workers=self.num_workers, worker_init_fn=_outlive_signals)

    def val_dataloader(self) -> DataLoader | list:
        """One pass over the held-out samples; nothing in training without any."""
        if self.trainer is not None and self.trainer.state.fn == "fit" and not self._validates:
            log.warning("there are no val shards: nothing is validated")
            return []
        return DataLoader(self.val, batch_size=None)

    def on_after_batch_transfer(self, batch: PackedBatch, dataloader_idx: int) -> PackedBatch:
        """Notes how far training has come: Lightning calls this for the batch that it is about to use."""
        if self.trainer is not None and self.trainer.training and batch.cursor is not None:
            self._cursor = dict(batch.cursor)
            self.train.go_on_from(self._cursor)  # where the next epoch begins, if the trainer cuts this one short
            self.set_aside |= batch.set_aside
        return batch

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoints; the place is the same on every rank."""
        return {"cursor": self._cursor, "set_aside": self.set_aside}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on after the last batch that was used."""
        self._cursor, self.set_aside = state_dict["cursor"], dict(state_dict["set_aside"])
        if self._cursor is not None:
            self.train.go_on_from(self._cursor)
