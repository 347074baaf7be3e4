"""Segments of many samples in one flat batch, and the packer that fills batches without losing a sample."""

import dataclasses
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from brushwork.tokens.attention import TokenLayout
from brushwork.tokens.segments import IGNORE_INDEX, Kind, Segment
from brushwork.tokens.vocabulary import ControlIds

CLEAN = -1
"""Noise draw of a patch that carries no noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBatch:
    """Samples one after the other in one sequence of S tokens; there is no batch dimension (BAGEL).

    Attributes:
        layout: what the attention rule needs of every token.
        position_ids: RoPE position of every token.
        token_ids: vocabulary id of every token; 0 at image patches, which are not looked up.
        patch_index: where the L image patches stand in the sequence.
        patch_grid: row and column of each patch in its image.
        patch_draw: which noise draw a patch belongs to, or `CLEAN`.
        patch_source: which patch of `images` (patches of all images, concatenated) it shows; empty where the
            segments carry no pictures (generation supplies latents itself).
        images: the distinct pictures, height x width x 3.
        text_index, text_labels: where the next token of a text is predicted, and what it is.
        switch_index, switch_labels: where a change of modality (or the end) is predicted, and what it is.
        lengths: tokens of each sample.
    """

    layout: TokenLayout
    position_ids: Int[Tensor, " tokens"]
    token_ids: Int[Tensor, " tokens"]
    patch_index: Int[Tensor, " patches"]
    patch_grid: Int[Tensor, "patches 2"]
    patch_draw: Int[Tensor, " patches"]
    patch_source: Int[Tensor, " sources"]
    images: tuple[UInt8[Tensor, "_ _ 3"], ...]
    text_index: Int[Tensor, " texts"]
    text_labels: Int[Tensor, " texts"]
    switch_index: Int[Tensor, " switches"]
    switch_labels: Int[Tensor, " switches"]
    lengths: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Length of the packed sequence."""
        return len(self.token_ids)

    @property
    def num_draws(self) -> int:
        """Number of noised images, each of which gets its own timestep."""
        return int(self.patch_draw.max()) + 1 if len(self.patch_draw) else 0

    def to(self, *args: Any, **kwargs: Any) -> "PackedBatch":
        """The batch on another device; takes the arguments of `Tensor.to`."""
        return _map_tensors(self, lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> "PackedBatch":
        """The batch in page-locked host memory."""
        return _map_tensors(self, lambda tensor: tensor.pin_memory())


def _map_tensors(value: Any, function) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_map_tensors(item, function) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(
            **{f.name: _map_tensors(getattr(value, f.name), function) for f in dataclasses.fields(value)}
        )
    return value


def pack(samples: Sequence[Sequence[Segment]], control: ControlIds) -> PackedBatch:
    """Lays the segments of `samples` out in one sequence, in the order given."""
    flat = [(row, number, segment) for row, sample in enumerate(samples) for number, segment in enumerate(sample)]
    segments = [segment for _, _, segment in flat]
    counts = np.array([len(segment) for segment in segments], dtype=np.int64)
    starts = np.cumsum(counts) - counts
    is_text = [segment.kind is Kind.TEXT for segment in segments]
    ids = [
        segment.ids if text else (control.vision_start, *[0] * (len(segment) - 2), control.vision_end)
        for segment, text in zip(segments, is_text, strict=True)
    ]
    positions = [
        np.arange(segment.position, segment.position + count) if text else np.full(count, segment.position)
        for segment, count, text in zip(segments, counts, is_text, strict=True)
    ]

    def per_token(values: list, dtype) -> Tensor:
        return torch.from_numpy(np.repeat(np.array(values, dtype=dtype), counts))

    layout = TokenLayout(
        sample=per_token([row for row, _, _ in flat], np.int64),
        segment=per_token([number for _, number, _ in flat], np.int64),
        index=torch.arange(int(counts.sum())),
        causal=per_token(is_text, bool),
        noised=per_token([segment.kind is Kind.NOISED for segment in segments], bool),
    )
    return PackedBatch(
        layout=layout,
        position_ids=_cat(positions),
        token_ids=_cat(ids),
        lengths=tuple(sum(len(segment) for segment in sample) for sample in samples),
        **_patches(segments, starts),
        **_labels(segments, starts),
    )


def _cat(arrays: Sequence[Any]) -> Tensor:
    arrays = [np.asarray(array, dtype=np.int64) for array in arrays]
    return torch.from_numpy(np.concatenate(arrays) if arrays else np.zeros(0, np.int64))


def _patches(segments: Sequence[Segment], starts: np.ndarray) -> dict[str, Any]:
    """Fields of `PackedBatch` that describe image patches.

    A picture that stands several times in the sequence is kept once.
    """
    index, grids, draws, sources, images = [], [], [], [], []
    offsets: dict[int, int] = {}
    num_draws = total = 0
    for segment, start in zip(segments, starts, strict=True):
        if segment.kind is Kind.TEXT:
            continue
        count = len(segment) - 2
        index.append(np.arange(start + 1, start + 1 + count))
        grids.append(np.stack(np.divmod(np.arange(count), segment.grid[1]), axis=1))
        draws.append(np.full(count, num_draws if segment.kind is Kind.NOISED else CLEAN))
        num_draws += segment.kind is Kind.NOISED
        if segment.image is not None:
            if id(segment.image) not in offsets:
                offsets[id(segment.image)] = total
                images.append(torch.tensor(segment.image))
                total += count
            sources.append(offsets[id(segment.image)] + np.arange(count))
    return {
        "patch_index": _cat(index),
        "patch_grid": _cat([grid.reshape(-1) for grid in grids]).reshape(-1, 2),
        "patch_draw": _cat(draws),
        "patch_source": _cat(sources),
        "images": tuple(images),
    }


def _labels(segments: Sequence[Segment], starts: np.ndarray) -> dict[str, Any]:
    """Fields of `PackedBatch` that say where text and switches are predicted.

    The label of a token is its successor (BAGEL); the last token of a segment carries the switch.
    """
    text_index, text_labels, switch_index, switch_labels = [], [], [], []
    for segment, start in zip(segments, starts, strict=True):
        if segment.loss:
            text_index.append(np.arange(start, start + len(segment) - 1))
            text_labels.append(segment.ids[1:])
        if segment.switch != IGNORE_INDEX:
            switch_index.append([start + len(segment) - 1])
            switch_labels.append([segment.switch])
    return {
        "text_index": _cat(text_index),
        "text_labels": _cat(text_labels),
        "switch_index": _cat(switch_index),
        "switch_labels": _cat(switch_labels),
    }


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Sorts items into bins: the longest first, each into the fullest bin that still takes it.

    Args:
        lengths: tokens of each item.
        capacity: tokens a bin holds.

    Returns:
        The indexes of the items of each bin. Every index occurs exactly once.

    Raises:
        ValueError: an item is longer than the capacity.
    """
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room left, bin), sorted, so that the tightest fit is found by bisection
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[item] > capacity:
            raise ValueError(
                f"a sample of {lengths[item]} tokens does not fit into a pack of {capacity}; raise the cap"
            )
        place = bisect_left(free, (lengths[item], -1))
        if place == len(free):
            bins.append([item])
            insort(free, (capacity - lengths[item], len(bins) - 1))
        else:
            room, number = free.pop(place)
            bins[number].append(item)
            insort(free, (room - lengths[item], number))
    return bins
