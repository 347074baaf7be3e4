"""Samples to packed batches: shuffled, nothing lost, resumable to the bit on any number of ranks and workers."""

import functools
import itertools
import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

from brushwork.data.mixture import Mixture, Ref
from brushwork.data.shards import Rejected
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

PATIENCE = 3
"""Windows that a sample waits for a pack that it fills up."""
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

    Packs of a window that are less than `min_fill` full are taken apart again and their samples join the next window, a
    few times: then they go out in whatever pack they are. So every sample of an epoch is used exactly once, and soon.
    The order, and everything random about a sample, depends on (seed, epoch, sample) alone. A window is laid out by
    texts and sizes; pictures are read by whoever yields them.

    There is one sequence of packs, whoever reads it. With R ranks and A accumulated batches, optimiser step s takes
    packs sRA to (s + 1)RA - 1: first one a rank, then the next one a rank, and so on. The loader workers of a rank take
    turns. Each batch says what its whole step holds (`PackedBatch.share`) and carries the place in the sequence from
    which a run goes on (`PackedBatch.cursor`): after the step at its last batch, before it at the others. Both are the
    same for all ranks and workers, so a run may go on with as many as it likes.

    A picture that turns out to be damaged leaves its sample out of its pack; the step is still divided by what was laid
    out. Where a whole pack is unreadable, another one is repeated, and counts for nothing: all ranks wait for a batch,
    and loader workers keep their turns.

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
        self._unusable: set[int] = set()
        self._latest: PackedBatch | None = None
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
                    if (yielded + turn) % workers != worker:
                        continue
                    if batch := self._batch(group, turn * ranks + rank, ranks):
                        is_last = turn + 1 == self.accumulate
                        aside = dict(self.set_aside)
                        yield replace(batch, cursor=after if is_last else before, set_aside=aside)
                yielded += -(-len(group) // ranks)
                before, group = after or before, []
                self._complain_if_nothing_is_left()

    def _batch(self, group: Sequence[_Laid], place: int, ranks: int) -> PackedBatch | None:
        """The pack at a place of a step, or a repeated one; None if none at all can be read."""
        first = place - place % ranks
        costs = [laid.cost for laid in group[first : first + ranks]]
        share = Share(
            number=group[min(place, len(group) - 1)].number,
            counts=functools.reduce(operator.add, (laid.counts for laid in group)),
            balance=sum(costs) / (len(costs) * max(costs)),
        )
        if place < len(group) and (batch := self._read(group[place])):
            return replace(batch, share=share)
        others = itertools.chain(group[place + 1 :], group[:place])
        batch = next(filter(None, map(self._read, others)), None) or self._latest or self._ahead()
        return batch and replace(batch, share=replace(share, repeat=True))

    def _read(self, laid: _Laid) -> PackedBatch | None:
        """A pack with its pictures, as far as they can be read."""
        samples = [sample for ref in laid.refs if (sample := self._load(*ref, self.mixture.__getitem__))]
        if not samples:
            return None
        self._latest = pack(
            [sample.segments for sample in samples],
            self.segmenter.vocabulary.control,
            keys=[sample.key for sample in samples],
            subsets=[sample.subset for sample in samples],
        )
        return self._latest

    def _ahead(self) -> PackedBatch | None:
        """The first pack from the start on that can be read."""
        for laid, _ in self._packs():
            if batch := self._read(laid):
                return batch
            self._complain_if_nothing_is_left()
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
        if len(self._unusable) >= len(self.mixture):
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
            waits = {(epoch, index): times for epoch, index, times in here["carry"]}
            late = {place for place, ref in enumerate(kept) if waits.get(ref, 0) >= PATIENCE}
            bins, rest = self._ready(bins, lengths, late)
            following["carry"] = [[*kept[i], waits.get(kept[i], 0) + 1] for i in sorted(rest)]
            following["number"] = here["number"] + len(bins)
        packs = [self._laid([kept[i] for i in one], samples) for one in bins]
        rng = np.random.default_rng((self.seed, 1, *here["drawn"]))
        ordered = self._alike([packs[i] for i in rng.permutation(len(packs))], rng)
        return [replace(laid, number=here["number"] + place) for place, laid in enumerate(ordered)], following

    def _ready(self, bins: list[list[int]], lengths: Sequence[int], late: set[int]) -> tuple[list[list[int]], set[int]]:
        """The bins that go out, and the samples of the others.

        What has waited for `PATIENCE` windows goes out. Of the rest the fullest do, if they are full enough, as many as
        make whole rows of `balance`. Where nothing would go out, all but the emptiest do.
        """
        fill = [sum(lengths[i] for i in one) for one in bins]
        must = [number for number, one in enumerate(bins) if late & {*one}]
        may = sorted({*range(len(bins))} - {*must}, key=lambda number: -fill[number])
        full = [number for number in may if fill[number] >= self.min_fill * self.max_tokens]
        count = (len(must) + len(full)) // self.balance * self.balance
        if count < len(must):  # a whole row, if there are enough
            count = min(len(must) - len(must) % -self.balance, len(bins))
        out = {*must, *may[: max(0, count - len(must))]} or {*(full or may[:-1] or may)}
        rest = {i for number, one in enumerate(bins) if number not in out for i in one}
        return [one for number, one in enumerate(bins) if number in out], rest

    def _laid(self, refs: list[Ref], samples: Mapping[Ref, _Sample]) -> _Laid:
        segments = [samples[ref].segments for ref in refs]
        documents = [document for one in segments for document in split_documents(one)]
        tokens = sum(len(segment) for one in segments for segment in one)
        pairs = visible_pairs(lay_out(documents)) if self.pair_cost else 0
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
        carried: list[Ref] = [(epoch, index) for epoch, index, _ in here["carry"]]
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
            return self._set_aside(index, item.key, item.reason)
        rng = np.random.default_rng((self.seed, 2, epoch, index))
        try:
            segments = self.segmenter(self.view(item), rng)
        except ValueError as error:
            return self._set_aside(index, item.key, str(error))
        if sum(map(len, segments)) > self.max_tokens:
            return self._set_aside(
                index, item.key, f"{sum(map(len, segments))} tokens exceed max_tokens={self.max_tokens}"
            )
        return _Sample(key=item.key, subset=str(item.meta.get("subset", "")), segments=segments)

    def _set_aside(self, index: int, key: str, reason: str) -> None:
        if index not in self._unusable:
            self._unusable.add(index)
            name = self.mixture.name(index, key)
            self.set_aside[name] = reason
            log.warning("sample %s is set aside (%d so far): %s", name, len(self._unusable), reason)


def _place() -> tuple[int, int, int, int]:
    """Rank, number of ranks, loader worker, number of loader workers of a rank."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, ranks = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)
    worker = get_worker_info()
    return (rank, ranks, worker.id, worker.num_workers) if worker else (rank, ranks, 0, 1)
