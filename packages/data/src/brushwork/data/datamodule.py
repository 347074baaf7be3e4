"""Shards to packed batches: shuffled, nothing lost, resumable to the bit on any number of ranks and workers."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch.distributed
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from brushwork.data.mixture import Mixture, Ref
from brushwork.data.shards import Rejected, ShardFolder
from brushwork.tokens.packing import PackedBatch, best_fit_decreasing, pack
from brushwork.tokens.segments import Segment, Segmenter
from brushwork.tokens.trajectory import Trajectory

log = logging.getLogger(__name__)

View = Callable[[Trajectory], Trajectory]
"""What a run reads of a stored trajectory, see `data.views`."""


class PackedStream(IterableDataset):
    """Draws samples, packs a window of them best-fit-decreasing, and yields the packs.

    Packs of a window that are less than `min_fill` full are taken apart again and their samples join the next window,
    so every sample of an epoch is used exactly once. The order, and everything random about a sample, depends on
    (seed, epoch, sample) alone. A window is laid out by texts and sizes; pictures are read by whoever yields them.

    There is one sequence of packs, whoever reads it. With R ranks, step s takes packs sR to sR + R - 1, one a rank, and
    the loader workers of a rank take steps in turn. Each batch carries the place in that sequence after its step
    (`PackedBatch.cursor`), which is the same for all ranks and workers: a run resumes from it on as many as it likes.

    A picture that turns out to be damaged leaves its sample out of its pack. Of several ranks, one whose pack would be
    empty repeats samples of its neighbours', since they wait for a batch; a single rank goes on to the next pack.

    Args:
        mixture: the samples.
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
        mixture: Mixture,
        view: View,
        segmenter: Segmenter,
        *,
        max_tokens: int,
        window: int = 256,
        min_fill: float = 0.9,
        seed: int = 0,
        endless: bool = True,
    ) -> None:
        self.mixture, self.view, self.segmenter = mixture, view, segmenter
        self.max_tokens, self.window, self.min_fill, self.seed = max_tokens, window, min_fill, seed
        self.endless = endless
        self.set_aside: dict[str, str] = {}
        self.start: dict[str, Any] = {"drawn": [0] * len(mixture.folders), "carry": [], "emitted": 0}

    def go_on_from(self, cursor: dict[str, Any]) -> None:
        """Goes on after the batch that carried this cursor."""
        self.start = {"drawn": cursor["drawn"], "carry": cursor["carry"], "emitted": cursor["emitted"]}

    def __iter__(self) -> Iterator[PackedBatch]:
        rank, ranks, worker, workers = _place()
        step, group = 0, []
        for refs, after in self._packs():
            group.append(refs)
            if len(group) == ranks or after is None:
                if step % workers == worker and rank < len(group):
                    candidates = map(self._samples, group[rank:] + group[:rank])  # its own, else a neighbour's
                    if samples := next(filter(None, candidates), None):
                        batch = pack(samples, self.segmenter.vocabulary.control)
                        yield replace(batch, cursor=after, set_aside=dict(self.set_aside))
                step, group = step + 1, []
                self._complain_if_nothing_is_left()

    def _samples(self, refs: Sequence[Ref]) -> list[list[Segment]]:
        """The samples of a pack with their pictures, as far as they can be read."""
        read = self.mixture.__getitem__
        return [segments for ref in refs if (segments := self._load(*ref, read)) is not None]

    def _packs(self) -> Iterator[tuple[list[Ref], dict[str, Any] | None]]:
        """Every pack from the start on, each with the place after it; None after the last one of a single pass."""
        here = self.start
        while True:
            packs, following = self._window(here)
            if not packs:
                self._complain_if_nothing_is_left()
            for number in range(here["emitted"], len(packs)):
                is_last = number + 1 == len(packs)
                yield packs[number], following if is_last else {**here, "emitted": number + 1}
            if following is None:
                return
            here = following

    def _complain_if_nothing_is_left(self) -> None:
        if len(self.set_aside) >= len(self.mixture):
            reason = next(iter(self.set_aside.values()), "the shards are empty")
            raise ValueError(f"none of the {len(self.mixture)} samples can be used; the first one: {reason}")

    def _window(self, here: dict[str, Any]) -> tuple[list[list[Ref]], dict[str, Any] | None]:
        """The packs of the window that begins here, and where the next one begins (None: the pass is over)."""
        refs, following = self._refs(here)
        sketches = {ref: segments for ref in refs if (segments := self._load(*ref, self.mixture.sketch)) is not None}
        kept = list(sketches)
        lengths = [sum(map(len, sketches[ref])) for ref in kept]
        bins = best_fit_decreasing(lengths, self.max_tokens)
        if following is not None:
            floor = self.min_fill * self.max_tokens
            full = [b for b in bins if sum(lengths[i] for i in b) >= floor] or bins[:1]
            carried = {i for b in bins for i in b} - {i for b in full for i in b}
            following["carry"] = [list(kept[i]) for i in sorted(carried)]
            bins = full
        rng = np.random.default_rng((self.seed, 1, *here["drawn"]))
        return [[kept[i] for i in bins[b]] for b in rng.permutation(len(bins))], following

    def _refs(self, here: dict[str, Any]) -> tuple[list[Ref], dict[str, Any] | None]:
        """What the window holds: what was carried over, then what comes next."""
        carried: list[Ref] = [(epoch, index) for epoch, index in here["carry"]]
        if self.endless:
            drawn, after = self.mixture.draw(here["drawn"], self.window - len(carried))
            return carried + drawn, {"drawn": after, "emitted": 0}
        first, end = sum(here["drawn"]), len(self.mixture)
        stop = min(first + self.window - len(carried), end)
        refs = carried + [(0, index) for index in range(first, stop)]
        return refs, None if stop == end else {"drawn": [stop], "emitted": 0}

    def _load(self, epoch: int, index: int, read: Callable[[int], Trajectory | Rejected]) -> list[Segment] | None:
        """One sample as segments; None where it cannot be used, which is recorded in `set_aside`."""
        item = read(index)
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


def _place() -> tuple[int, int, int, int]:
    """Rank, number of ranks, loader worker, number of loader workers of a rank."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, ranks = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)
    worker = get_worker_info()
    return (rank, ranks, worker.id, worker.num_workers) if worker else (rank, ranks, 0, 1)


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
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"max_tokens": max_tokens, "window": window, "seed": seed}
        training = Mixture([ShardFolder(one, "train") for one in (folder, *more)], weights, seed=seed)
        self.train = PackedStream(training, view, segmenter, **options)
        held_out = Mixture([ShardFolder(folder, "val")])
        self.val = PackedStream(held_out, view, segmenter, **options, endless=False)
        self.num_workers = num_workers
        self.set_aside: dict[str, str] = {}
        self._cursor: dict[str, Any] | None = None

    def train_dataloader(self) -> DataLoader:
        """Endless shuffled packs."""
        return DataLoader(self.train, batch_size=None, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        """One pass over the held-out samples."""
        return DataLoader(self.val, batch_size=None)

    def on_after_batch_transfer(self, batch: PackedBatch, dataloader_idx: int) -> PackedBatch:
        """Notes how far training has come: Lightning calls this for the batch that it is about to use."""
        if self.trainer is not None and self.trainer.training and batch.cursor is not None:
            self._cursor = dict(batch.cursor)
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
