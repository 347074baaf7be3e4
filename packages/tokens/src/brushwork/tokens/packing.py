"""Segments of many samples in one flat batch, and the packer that fills batches without losing a sample."""

import dataclasses
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from brushwork.tokens.attention import Kind, Span, TokenLayout, token_layout
from brushwork.tokens.segments import IGNORE_INDEX, Segment
from brushwork.tokens.vocabulary import ControlIds

CLEAN = -1
"""Noise draw of a patch that carries no noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBatch:
    """Samples one after the other in one sequence of S tokens; there is no batch dimension (BAGEL).

    Attributes:
        spans: the segments in order, on the host.
        position_ids: RoPE position of every token.
        token_ids: vocabulary id of every token; 0 at image patches, which are not looked up.
        patch_index: where the L latent patches stand in the sequence.
        patch_grid: row and column of each patch in its image.
        patch_draw: which noise draw a patch belongs to, or `CLEAN`.
        patch_source: which patch of `images` (patches of all images, concatenated) it shows; empty where the
            segments carry no pictures (generation supplies latents itself).
        images: the distinct pictures that latents are made of, height x width x 3.
        vision_index, vision_grid: the same for the V patches that the vision encoder reads.
        vision_images: the picture of each vision segment, in order; empty where the caller supplies pixels.
        text_index, text_labels: where the next token of a text is predicted, and what it is.
        text_weights: 1 / sqrt(length) of the text it belongs to, for those who weigh texts so (BAGEL, an option).
        switch_index, switch_labels: where a change of modality (or the end) is predicted, and what it is.
        lengths: tokens of each sample.
        cursor: where the stream that made the batch stands once it has been used, as JSON-able facts; a checkpoint that
            keeps the last batch's resumes exactly, however many batches were fetched ahead.
        set_aside: samples that the reader of the batch could not use so far: key to reason.
    """

    spans: tuple[Span, ...]
    position_ids: Int[Tensor, " tokens"]
    token_ids: Int[Tensor, " tokens"]
    patch_index: Int[Tensor, " patches"]
    patch_grid: Int[Tensor, "patches 2"]
    patch_draw: Int[Tensor, " patches"]
    patch_source: Int[Tensor, " sources"]
    images: tuple[UInt8[Tensor, "_ _ 3"], ...]
    vision_index: Int[Tensor, " vision"]
    vision_grid: Int[Tensor, "vision 2"]
    vision_images: tuple[UInt8[Tensor, "_ _ 3"], ...]
    text_index: Int[Tensor, " texts"]
    text_labels: Int[Tensor, " texts"]
    text_weights: Float[Tensor, " texts"]
    switch_index: Int[Tensor, " switches"]
    switch_labels: Int[Tensor, " switches"]
    lengths: tuple[int, ...]
    cursor: Mapping[str, Any] | None = None
    set_aside: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Length of the packed sequence."""
        return len(self.token_ids)

    @property
    def num_draws(self) -> int:
        """Number of noised images, each of which gets its own timestep."""
        return sum(span.kind is Kind.NOISED for span in self.spans)

    @property
    def layout(self) -> TokenLayout:
        """What the attention rule needs of every token, on the batch's device."""
        return token_layout(self.spans, self.token_ids.device)

    def to(self, *args: Any, **kwargs: Any) -> "PackedBatch":
        """The batch on another device; takes the arguments of `Tensor.to`."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> "PackedBatch":
        """The batch in page-locked host memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "PackedBatch":
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        moved = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        pictures = {"images": self.images, "vision_images": self.vision_images}
        return dataclasses.replace(self, **moved, **{name: tuple(map(function, p)) for name, p in pictures.items()})


def pack(samples: Sequence[Sequence[Segment]], control: ControlIds) -> PackedBatch:
    """Lays the segments of `samples` out in one sequence, in the order given."""
    segments = [segment for sample in samples for segment in sample]
    counts = np.array([len(segment) for segment in segments], dtype=np.int64)
    starts = (np.cumsum(counts) - counts).tolist()
    numbers = [row for row, sample in enumerate(samples) for _ in sample]
    return PackedBatch(
        spans=tuple(
            Span(kind=segment.kind, sample=row, start=start, length=len(segment))
            for segment, row, start in zip(segments, numbers, starts, strict=True)
        ),
        position_ids=_cat([_positions(segment) for segment in segments]),
        token_ids=_cat([_ids(segment, control) for segment in segments]),
        lengths=tuple(sum(len(segment) for segment in sample) for sample in samples),
        **_latents(segments, starts),
        **_vision(segments, starts),
        **_labels(segments, starts),
    )


def expert_major(spans: Sequence[Span]) -> tuple[Int[np.ndarray, " tokens"], int]:
    """An order of a pack's tokens in which each expert's stand together.

    First the texts and the boundary tokens of images, then the patches that the vision encoder reads, then the patches
    of latents; each in the order of the sequence.

    Returns:
        The places in the sequence, and how many of them belong to the understanding expert.
    """
    parts: tuple[list, list, list] = ([], [], [])
    for span in spans:
        places = np.arange(span.start, span.start + span.length)
        if span.kind is Kind.TEXT:
            parts[0].append(places)
        else:
            parts[0].append(places[[0, -1]])
            parts[2 if span.kind.is_latent else 1].append(places[1:-1])
    words, vision, latents = (np.concatenate(part) if part else np.zeros(0, np.int64) for part in parts)
    return np.concatenate((words, vision, latents)), len(words) + len(vision)


def _positions(segment: Segment) -> np.ndarray:
    if segment.kind is Kind.TEXT:
        return np.arange(segment.position, segment.position + len(segment))
    return np.full(len(segment), segment.position)


def _ids(segment: Segment, control: ControlIds) -> Sequence[int]:
    if segment.kind is Kind.TEXT:
        return segment.ids
    return (control.vision_start, *[0] * (len(segment) - 2), control.vision_end)


def _cat(arrays: Sequence[Any]) -> Tensor:
    arrays = [np.asarray(array, dtype=np.int64) for array in arrays]
    return torch.from_numpy(np.concatenate(arrays) if arrays else np.zeros(0, np.int64))


def _cells(segments: Sequence[Segment]) -> Tensor:
    """Row and column of every patch of every image."""
    grids = [np.stack(np.divmod(np.arange(len(s) - 2), s.grid[1]), axis=1) for s in segments]
    return _cat([grid.reshape(-1) for grid in grids]).reshape(-1, 2)


def _latents(segments: Sequence[Segment], starts: Sequence[int]) -> dict[str, Any]:
    """Fields of `PackedBatch` about latents. A picture that stands several times in the sequence is kept once."""
    chosen = [(s, start) for s, start in zip(segments, starts, strict=True) if s.kind.is_latent]
    index, draws, sources, images = [], [], [], []
    offsets: dict[int, int] = {}
    num_draws = total = 0
    for segment, start in chosen:
        count = len(segment) - 2
        index.append(np.arange(start + 1, start + 1 + count))
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
        "patch_grid": _cells([segment for segment, _ in chosen]),
        "patch_draw": _cat(draws),
        "patch_source": _cat(sources),
        "images": tuple(images),
    }


def _vision(segments: Sequence[Segment], starts: Sequence[int]) -> dict[str, Any]:
    """Fields of `PackedBatch` about what the vision encoder reads."""
    chosen = [(s, start) for s, start in zip(segments, starts, strict=True) if s.kind is Kind.VISION]
    return {
        "vision_index": _cat([np.arange(start + 1, start + len(segment) - 1) for segment, start in chosen]),
        "vision_grid": _cells([segment for segment, _ in chosen]),
        "vision_images": tuple(torch.tensor(segment.image) for segment, _ in chosen if segment.image is not None),
    }


def _labels(segments: Sequence[Segment], starts: Sequence[int]) -> dict[str, Any]:
    """Fields of `PackedBatch` that say where text and switches are predicted.

    The label of a token is its successor (BAGEL); the last token of a segment carries the switch.
    """
    text_index, text_labels, weights, switch_index, switch_labels = [], [], [], [], []
    for segment, start in zip(segments, starts, strict=True):
        if segment.loss:
            count = len(segment) - 1
            text_index.append(np.arange(start, start + count))
            text_labels.append(segment.ids[1:])
            weights += [count**-0.5] * count
        if segment.switch != IGNORE_INDEX:
            switch_index.append([start + len(segment) - 1])
            switch_labels.append([segment.switch])
    return {
        "text_index": _cat(text_index),
        "text_labels": _cat(text_labels),
        "text_weights": torch.tensor(weights, dtype=torch.float32),
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
