"""Shards to packed batches: shuffled, cut into full packs, nothing lost, resumable to the bit."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from brushwork.data.shards import Rejected, ShardFolder
from brushwork.tokens.packing import PackedBatch, best_fit_decreasing, pack
from brushwork.tokens.segments import Segment, Segmenter
from brushwork.tokens.trajectory import Trajectory

log = logging.getLogger(__name__)

View = Callable[[Trajectory], Trajectory]
"""What a run reads of a stored trajectory, see `data.views`."""

_ENDLESS = 1_000_000_000
"""Length that a training stream reports. Lightning prefetches from a loader without a length, and the state that it
saves is then one batch ahead; a length that is never reached avoids this."""


class PackedStream(IterableDataset):
    """Draws samples, packs a window of them best-fit-decreasing, and yields the packs.

    Packs of a window that are less than `min_fill` full are taken apart again and their samples join the next window,
    so every sample of an epoch is used exactly once. The order, and everything random about a sample, depends on
    (seed, epoch, sample) alone. All ranks and workers walk the same windows and take every n-th pack; their state is
    therefore one and the same: where the current window began, and how many of its packs are out.

    Args:
        shards: the samples.
        view: what is read of each sample.
        segmenter: samples to segments.
        max_tokens: capacity of a pack.
        window: samples considered together.
        min_fill: share of the capacity from which a pack may go out.
        seed: of order and dropout.
        endless: start over for ever (training); otherwise one pass in order (validation).
    """

    def __init__(
        self,
        shards: ShardFolder,
        view: View,
        segmenter: Segmenter,
        *,
        max_tokens: int,
        window: int = 256,
        min_fill: float = 0.9,
        seed: int = 0,
        endless: bool = True,
    ) -> None:
        self.shards, self.view, self.segmenter = shards, view, segmenter
        self.max_tokens, self.window, self.min_fill, self.seed = max_tokens, window, min_fill, seed
        self.endless = endless
        self.set_aside: dict[str, str] = {}
        self._start: dict[str, Any] = {"epoch": 0, "cursor": 0, "carry": []}
        self._emitted = 0

    def __len__(self) -> int:
        if not self.endless:
            raise TypeError("the number of packs of one pass is known only after packing")
        return _ENDLESS

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: the beginning of the current window and how many of its packs are out."""
        return {**self._start, "carry": list(self._start["carry"]), "emitted": self._emitted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where `state_dict` was taken."""
        self._start = {"epoch": state["epoch"], "cursor": state["cursor"], "carry": list(state["carry"])}
        self._emitted = state["emitted"]

    def __iter__(self) -> Iterator[PackedBatch]:
        if not self.endless:
            self._start, self._emitted = {"epoch": 0, "cursor": 0, "carry": []}, 0
        part, parts = self._part()
        while True:
            packs, following = self._next_window()
            if not packs and len(self.set_aside) >= len(self.shards):
                reason = next(iter(self.set_aside.values()), "the shards are empty")
                raise ValueError(f"none of the {len(self.shards)} samples can be used; the first one: {reason}")
            skip, self._emitted = self._emitted, 0
            for number, samples in enumerate(packs):
                if number >= skip:
                    self._emitted = number + 1
                    if number % parts == part:
                        yield pack(samples, self.segmenter.vocabulary.control)
            if following is None:
                return
            self._start, self._emitted = following, 0

    def _next_window(self) -> tuple[list[list[list[Segment]]], dict[str, Any] | None]:
        """The packs of the window that begins at `_start`, and where the next one begins (None: the pass is over)."""
        refs, following = self._draw_refs()
        samples = {ref: segments for ref in refs if (segments := self._load(*ref)) is not None}
        kept = list(samples)
        lengths = [sum(map(len, samples[ref])) for ref in kept]
        bins = best_fit_decreasing(lengths, self.max_tokens)
        if following is not None:
            floor = self.min_fill * self.max_tokens
            full = [b for b in bins if sum(lengths[i] for i in b) >= floor] or bins[:1]
            carried = {i for b in bins for i in b} - {i for b in full for i in b}
            following["carry"] = [kept[i] for i in sorted(carried)]
            bins = full
        rng = np.random.default_rng((self.seed, 1, self._start["epoch"], self._start["cursor"]))
        return [[samples[kept[i]] for i in bins[b]] for b in rng.permutation(len(bins))], following

    def _draw_refs(self) -> tuple[list[tuple[int, int]], dict[str, Any] | None]:
        """(epoch, sample) of what the window holds: what was carried over, then what comes next."""
        epoch, cursor = self._start["epoch"], self._start["cursor"]
        refs = [tuple(ref) for ref in self._start["carry"]]
        while len(refs) < self.window:
            if cursor == len(self.shards):
                if not self.endless:
                    return refs, None
                epoch, cursor = epoch + 1, 0
            order = self._order(epoch)
            taken = order[cursor : cursor + self.window - len(refs)]
            refs += [(epoch, int(i)) for i in taken]
            cursor += len(taken)
        return refs, {"epoch": epoch, "cursor": cursor}

    def _order(self, epoch: int) -> np.ndarray:
        if not self.endless:
            return np.arange(len(self.shards))
        return np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.shards))

    def _load(self, epoch: int, index: int) -> list[Segment] | None:
        """One sample as segments; None where it cannot be used, which is recorded in `set_aside`."""
        item = self.shards[index]
        if isinstance(item, Rejected):
            return self._set_aside(item.key, item.reason)
        rng = np.random.default_rng((self.seed, 2, epoch, index))
        try:
            segments = self.segmenter(self.view(item), rng)
        except ValueError as error:
            return self._set_aside(item.key, str(error))
        if sum(map(len, segments)) > self.max_tokens:
            return self._set_aside(item.key, f"{sum(map(len, segments))} tokens exceed max_tokens={self.max_tokens}")
        return segments

    def _set_aside(self, key: str, reason: str) -> None:
        if key not in self.set_aside:
            self.set_aside[key] = reason
            log.warning("sample %s is set aside (%d so far): %s", key, len(self.set_aside), reason)

    @staticmethod
    def _part() -> tuple[int, int]:
        """Which share of the packs this process takes: its number among all loader workers of all ranks."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, ranks = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        return rank * workers + number, ranks * workers


class TrajectoryDataModule(pl.LightningDataModule):
    """The training and validation streams of a folder of shards.

    Args:
        folder: what `lightning build` wrote.
        segmenter: samples to segments.
        view: what is read of each sample.
        max_tokens: capacity of a pack.
        window: samples packed together.
        num_workers: loader processes; 0 loads in the training process.
        seed: of order and dropout.
    """

    def __init__(
        self,
        folder: str,
        segmenter: Segmenter,
        view: View,
        *,
        max_tokens: int,
        window: int = 256,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"max_tokens": max_tokens, "window": window, "seed": seed}
        self.train = PackedStream(ShardFolder(folder, "train"), view, segmenter, **options)
        self.val = PackedStream(ShardFolder(folder, "val"), view, segmenter, **options, endless=False)
        self.num_workers = num_workers

    def train_dataloader(self) -> StatefulDataLoader:
        """Endless shuffled packs; its state is saved in Lightning's checkpoints."""
        return StatefulDataLoader(self.train, batch_size=None, num_workers=self.num_workers)

    def val_dataloader(self) -> StatefulDataLoader:
        """One pass over the held-out samples."""
        return StatefulDataLoader(self.val, batch_size=None)
