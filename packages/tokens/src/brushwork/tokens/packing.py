"""Segments of many samples in one flat batch, and the packer that fills batches without losing a sample."""

import dataclasses
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
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
class LossCounts:
    """How many terms each loss is a mean of.

    Attributes:
        text: tokens of texts that are learnt.
        text_weight: the same, each token weighing 1 / sqrt(length) of its text.
        switch: changes of modality, and ends.
        flow: noised patches.
    """

    text: int = 0
    text_weight: float = 0.0
    switch: int = 0
    flow: int = 0

    def __add__(self, other: "LossCounts") -> "LossCounts":
        return LossCounts(
            text=self.text + other.text,
            text_weight=self.text_weight + other.text_weight,
            switch=self.switch + other.switch,
            flow=self.flow + other.flow,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A pack's place among all that one optimiser step is made of, over ranks and accumulated batches.

    Attributes:
        number: of the pack, counted from the beginning of the stream: what is random about it is drawn by this.
        counts: terms of each loss in the whole step, by which its losses are divided.
        balance: mean cost of the packs that go out together over that of the costliest, for which all ranks wait.
        repeat: the pack stands in for one that could not be read, and counts for nothing.
    """

    number: int
    counts: LossCounts
    balance: float = 1.0
    repeat: bool = False


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
        text_span, switch_span: the span that each of them belongs to.
        lengths: tokens of each sample.
        keys: of each sample, as its data set calls it; "" where nobody said.
        groups: of each span, "subset/role" of what it holds, for losses told apart.
        share: of an optimiser step; None outside training.
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
    text_span: Int[Tensor, " texts"]
    switch_span: Int[Tensor, " switches"]
    lengths: tuple[int, ...]
    keys: tuple[str, ...]
    groups: tuple[str, ...]
    share: Share | None = None
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
    def flow_span(self) -> Int[Tensor, " noised"]:
        """The span that each noised patch belongs to, in the order of the sequence."""
        noised = [(number, s.length - 2) for number, s in enumerate(self.spans) if s.kind is Kind.NOISED]
        numbers, counts = zip(*noised, strict=True) if noised else ((), ())
        return torch.from_numpy(np.repeat(np.array(numbers, np.int64), counts)).to(self.token_ids.device)

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
        moved_pictures = {name: _one_by_one(map(function, _stacked(p))) for name, p in pictures.items()}
        return dataclasses.replace(self, **moved, **moved_pictures)

    def __reduce__(self) -> tuple[Any, ...]:
        """Between processes a tensor costs a file descriptor, so pictures travel as one if they are of one size."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return _unpickled, (values | {name: _stacked(values[name]) for name in ("images", "vision_images")},)


def _unpickled(values: dict[str, Any]) -> PackedBatch:
    pictures: dict[str, Any] = {name: _one_by_one(values[name]) for name in ("images", "vision_images")}
    return PackedBatch(**{**values, **pictures})


def _stacked(pictures: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Pictures of one size as one tensor; others as they are."""
    return (torch.stack(pictures),) if len({picture.shape for picture in pictures}) == 1 else pictures


def _one_by_one(stacks: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The inverse of `_stacked`."""
    return tuple(one for stack in stacks for one in (stack.unbind() if stack.ndim == 4 else (stack,)))


def pack(
    samples: Sequence[Sequence[Segment]], control: ControlIds, *, keys: Sequence[str] = (), subsets: Sequence[str] = ()
) -> PackedBatch:
    """Lays the segments of `samples` out in one sequence, in the order given.

    A sample of several documents (see `Segment.begins`) becomes as many samples of the pack.

    Args:
        keys, subsets: names of each sample, where they are known.
    """
    documents = [(row, part) for row, sample in enumerate(samples) for part in split_documents(sample)]
    segments = [segment for _, part in documents for segment in part]
    spans = lay_out([part for _, part in documents])
    rows = [row for row, part in documents for _ in part]
    starts = [span.start for span in spans]
    return PackedBatch(
        spans=spans,
        position_ids=_cat([_positions(segment) for segment in segments]),
        token_ids=_cat([_ids(segment, control) for segment in segments]),
        lengths=tuple(sum(map(len, part)) for _, part in documents),
        keys=tuple(keys[row] if keys else "" for row, _ in documents),
        groups=tuple(
            f"{subsets[row] if subsets else ''}/{segment.role}" for row, segment in zip(rows, segments, strict=True)
        ),
        **_latents(segments, starts),
        **_vision(segments, starts),
        **_labels(segments, starts),
    )


def split_documents(sample: Sequence[Segment]) -> list[list[Segment]]:
    """The documents of a sample: pieces that do not see each other. Most samples are one."""
    documents: list[list[Segment]] = []
    for segment in sample:
        if segment.begins or not documents:
            documents.append([])
        documents[-1].append(segment)
    return documents


def lay_out(documents: Sequence[Sequence[Segment]]) -> tuple[Span, ...]:
    """Where the segments stand when the documents follow one another."""
    spans, start = [], 0
    for number, document in enumerate(documents):
        for segment in document:
            spans.append(Span(kind=segment.kind, sample=number, start=start, length=len(segment)))
            start += len(segment)
    return tuple(spans)


def loss_counts(segments: Sequence[Segment]) -> LossCounts:
    """What a sample has to learn from."""
    texts = [len(segment) - 1 for segment in segments if segment.loss]
    return LossCounts(
        text=sum(texts),
        text_weight=float(sum(count**0.5 for count in texts)),
        switch=sum(segment.switch != IGNORE_INDEX for segment in segments),
        flow=sum(len(segment) - 2 for segment in segments if segment.kind is Kind.NOISED),
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
    text_span, switch_span = [], []
    for number, (segment, start) in enumerate(zip(segments, starts, strict=True)):
        if segment.loss:
            count = len(segment) - 1
            text_index.append(np.arange(start, start + count))
            text_labels.append(segment.ids[1:])
            text_span.append([number] * count)
            weights += [count**-0.5] * count
        if segment.switch != IGNORE_INDEX:
            switch_index.append([start + len(segment) - 1])
            switch_labels.append([segment.switch])
            switch_span.append([number])
    return {
        "text_index": _cat(text_index),
        "text_labels": _cat(text_labels),
        "text_weights": torch.tensor(weights, dtype=torch.float32),
        "switch_index": _cat(switch_index),
        "switch_labels": _cat(switch_labels),
        "text_span": _cat(text_span),
        "switch_span": _cat(switch_span),
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
