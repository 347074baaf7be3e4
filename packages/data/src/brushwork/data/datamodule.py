"""Shards to packed batches: shuffled, nothing lost, resumable to the bit on any number of ranks and workers."""

import functools
import logging
import operator
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch.distributed
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from brushwork.data.mixture import Mixture, Ref
from brushwork.data.shards import Rejected, ShardFolder
from brushwork.tokens.attention import visible_pairs
from brushwork.tokens.packing import (
    LossCounts,
    PackedBatch,
    Share,
    best_fit_decreasing,
    lay_out,
    loss_counts,
    pack,
    split_documents,
)
from brushwork.tokens.segments import Segment, Segmenter
from brushwork.tokens.trajectory import Trajectory

log = logging.getLogger(__name__)

View = Callable[[Trajectory], Trajectory]
"""What a run reads of a stored trajectory, see `data.views`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Laid:
    """A pack before its pictures are read: its samples, what they have to learn from, and what they cost."""

    number: int
    refs: list[Ref]
    counts: LossCounts
    cost: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """A sample that can be used."""

    key: str
    subset: str
    segments: list[Segment]


class PackedStream(IterableDataset):
    """Draws samples, packs a window of them best-fit-decreasing, and yields the packs.

    Packs of a window that are less than `min_fill` full are taken apart again and their samples join the next window,
    so every sample of an epoch is used exactly once. The order, and everything random about a sample, depends on
    (seed, epoch, sample) alone. A window is laid out by texts and sizes; pictures are read by whoever yields them.

    There is one sequence of packs, whoever reads it. With R ranks and A accumulated batches, optimiser step s takes
    packs sRA to (s + 1)RA - 1: first one a rank, then the next one a rank, and so on. The loader workers of a rank take
    turns. Each batch says what its whole step holds (`PackedBatch.share`) and carries the place in the sequence from
    which a run goes on (`PackedBatch.cursor`): after the step at its last batch, before it at the others. Both are the
    same for all ranks and workers, so a run may go on with as many as it likes.

    A picture that turns out to be damaged leaves its sample out of its pack. Where a whole pack is unreadable, a
    neighbour's is repeated, and counts for nothing: all ranks wait for a batch.

    Args:
        mixture: the samples.
        view: what is read of each sample.
        segmenter: samples to segments.
        max_tokens: capacity of a pack.
        window: samples considered together.
        min_fill: share of the capacity from which a pack may go out.
        balance: so many packs in a row cost alike; the number of ranks, or a multiple of it.
        pair_cost: of a query and a key that sees it, in tokens, see `flow.flops.pair_cost`.
        seed: of order and dropout.
        endless: start over for ever (training); otherwise one pass in order (validation).

    Attributes:
        accumulate: batches of a rank in an optimiser step.
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
        balance: int = 1,
        pair_cost: float = 0.0,
        seed: int = 0,
        endless: bool = True,
    ) -> None:
        self.mixture, self.view, self.segmenter = mixture, view, segmenter
        self.max_tokens, self.window, self.min_fill, self.seed = max_tokens, window, min_fill, seed
        self.balance, self.pair_cost, self.endless, self.accumulate = balance, pair_cost, endless, 1
        self.set_aside: dict[str, str] = {}
        self.start: dict[str, Any] = {"drawn": [0] * len(mixture.folders), "carry": [], "emitted": 0, "number": 0}

    def go_on_from(self, cursor: dict[str, Any]) -> None:
        """Goes on after the batch that carried this cursor."""
        self.start = {name: cursor[name] for name in self.start}

    def __iter__(self) -> Iterator[PackedBatch]:
        rank, ranks, worker, workers = _place()
        before, group, yielded = self.start, [], 0
        for laid, after in self._packs():
            group.append(laid)
            if len(group) == ranks * self.accumulate or after is None:
                for turn in range(-(-len(group) // ranks)):
                    if (yielded + turn) % workers == worker and (batch := self._batch(group, turn * ranks + rank)):
                        is_last = turn + 1 == self.accumulate
                        aside = dict(self.set_aside)
                        yield replace(batch, cursor=after if is_last else before, set_aside=aside)
                yielded += -(-len(group) // ranks)
                before, group = after or before, []
                self._complain_if_nothing_is_left()

    def _batch(self, group: Sequence[_Laid], place: int) -> PackedBatch | None:
        """The pack at a place of a step, or the next one of the step that can be read; None if there is none."""
        ranks = _place()[1]
        first = place - place % ranks
        costs = [laid.cost for laid in group[first : first + ranks]]
        share = Share(
            number=group[min(place, len(group) - 1)].number,
            counts=functools.reduce(operator.add, (laid.counts for laid in group)),
            balance=sum(costs) / (len(costs) * max(costs)),
        )
        own = group[place : place + 1]
        for laid in [*own, *group[place + 1 :], *group[:place]]:
            samples = [sample for ref in laid.refs if (sample := self._load(*ref, self.mixture.__getitem__))]
            if samples:
                batch = pack(
                    [sample.segments for sample in samples],
                    self.segmenter.vocabulary.control,
                    keys=[sample.key for sample in samples],
                    subsets=[sample.subset for sample in samples],
                )
                return replace(batch, share=replace(share, repeat=laid not in own))
        return None

    def _packs(self) -> Iterator[tuple[_Laid, dict[str, Any] | None]]:
        """Every pack from the start on, each with the place after it; None after the last one of a single pass."""
        here = self.start
        while True:
            packs, following = self._window(here)
            if not packs:
                self._complain_if_nothing_is_left()
            for place in range(here["emitted"], len(packs)):
                is_last = place + 1 == len(packs)
                yield packs[place], following if is_last else {**here, "emitted": place + 1}
            if following is None:
                return
            here = following

    def _complain_if_nothing_is_left(self) -> None:
        if len(self.set_aside) >= len(self.mixture):
            reason = next(iter(self.set_aside.values()), "the shards are empty")
            raise ValueError(f"none of the {len(self.mixture)} samples can be used; the first one: {reason}")

    def _window(self, here: dict[str, Any]) -> tuple[list[_Laid], dict[str, Any] | None]:
        """The packs of the window that begins here, and where the next one begins (None: the pass is over)."""
        refs, following = self._refs(here)
        samples = {ref: sample for ref in refs if (sample := self._load(*ref, self.mixture.sketch))}
        kept = list(samples)
        lengths = [sum(map(len, samples[ref].segments)) for ref in kept]
        bins = best_fit_decreasing(lengths, self.max_tokens)
        if following is not None:
            bins, rest = self._ready(bins, lengths)
            following["carry"] = [list(kept[i]) for i in sorted(rest)]
            following["number"] = here["number"] + len(bins)
        packs = [self._laid([kept[i] for i in one], samples) for one in bins]
        rng = np.random.default_rng((self.seed, 1, *here["drawn"]))
        ordered = self._alike([packs[i] for i in rng.permutation(len(packs))], rng)
        return [replace(laid, number=here["number"] + place) for place, laid in enumerate(ordered)], following

    def _ready(self, bins: list[list[int]], lengths: Sequence[int]) -> tuple[list[list[int]], set[int]]:
        """The fullest bins, if full enough and in whole rows of `balance`; the samples of the others."""
        fill = {number: sum(lengths[i] for i in one) for number, one in enumerate(bins)}
        full = [number for number in fill if fill[number] >= self.min_fill * self.max_tokens]
        rows = len(full) - len(full) % self.balance or len(full)
        out = set(sorted(full, key=lambda number: -fill[number])[:rows] or [0])
        rest = {i for number, one in enumerate(bins) if number not in out for i in one}
        return [one for number, one in enumerate(bins) if number in out], rest

    def _laid(self, refs: list[Ref], samples: Mapping[Ref, _Sample]) -> _Laid:
        segments = [samples[ref].segments for ref in refs]
        documents = [document for one in segments for document in split_documents(one)]
        tokens = sum(len(segment) for one in segments for segment in one)
        pairs = sum(visible_pairs(lay_out([document])) for document in documents) if self.pair_cost else 0
        counts = functools.reduce(operator.add, map(loss_counts, segments))
        return _Laid(number=0, refs=refs, counts=counts, cost=tokens + self.pair_cost * pairs)

    def _alike(self, packs: list[_Laid], rng: np.random.Generator) -> list[_Laid]:
        """The packs in rows of `balance` that cost alike, the rows in any order, a row that is not full at the end."""
        if self.balance == 1:
            return packs
        packs = sorted(packs, key=lambda laid: laid.cost)
        rows = [packs[at : at + self.balance] for at in range(0, len(packs), self.balance)]
        whole = [row for row in rows if len(row) == self.balance]
        order = [whole[i] for i in rng.permutation(len(whole))] + [row for row in rows if len(row) < self.balance]
        return [laid for row in order for laid in row]

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

    def _load(self, epoch: int, index: int, read: Callable[[int], Trajectory | Rejected]) -> _Sample | None:
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
        return _Sample(key=item.key, subset=str(item.meta.get("subset", "")), segments=segments)

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


def _outlive_one_sigterm(worker: int) -> None:
    """A batch system sends its signals to the loaders too, but the trainer needs them until its step is done.

    The second SIGTERM is the trainer's own, which ends a worker that does not end by itself.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


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
        training = Mixture([ShardFolder(one, "train") for one in (folder, *more)], weights, seed=seed)
        self.train = PackedStream(training, view, segmenter, balance=balance, **options)
        held_out = Mixture([ShardFolder(folder, "val")])
        self.val = PackedStream(held_out, view, segmenter, **options, endless=False)
        self.num_workers = num_workers
        self.set_aside: dict[str, str] = {}
        self._cursor: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Lays steps out for as many accumulated batches as the trainer takes."""
        if self.trainer is not None:
            self.train.accumulate = self.trainer.accumulate_grad_batches

    @property
    def subsets(self) -> list[str]:
        """The subsets that the samples of training and validation name, "" among them where some name none."""
        return sorted(self.train.mixture.subsets | self.val.mixture.subsets)

    def train_dataloader(self) -> DataLoader:
        """Endless shuffled packs."""
        return DataLoader(
            self.train, batch_size=None, num_workers=self.num_workers, worker_init_fn=_outlive_one_sigterm
        )

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
