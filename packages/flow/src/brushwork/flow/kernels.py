"""How the attention rule is carried out: three lowerings of one pattern, with one signature, and a choice of them.

A `Pattern` says which tokens ask and where the keys are. A lowering turns it into a function (queries, keys, values) →
attended values, which every layer then calls:

    segmented   each segment against exactly the keys it sees, by scaled-dot-product calls (the default; any device)
    flex        FlexAttention with the rule as its block mask (GPU; on a CPU forward only)
    varlen      flash-attn's variable-length kernel (GPU), or anything with its signature
    fastest     varlen or flex on a GPU, segmented elsewhere

The same patterns serve training packs and cached inference, where some keys are remembered in front of the pack.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from brushwork.tokens.attention import Kind, Span, TokenLayout, may_attend, token_layout, visible_spans

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(queries, keys, values), each tokens x heads x head_dim, to the attended values in the shape of the queries.

Fewer heads of keys than of queries are shared in equal groups."""

PAST, PADDING = -1, -2
"""Places of keys that are remembered, and of queries and keys that are none."""
SHORT = 1 << 18
"""Queries x keys of a sample up to which one masked call is quicker than an exact one a segment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pattern:
    """Who asks, and where the keys are.

    Attributes:
        spans: the segments of the pack, sample by sample.
        query_rows: at which row of the queries each token of the sequence stands.
        key_slots: at which row of the keys each token of the sequence stands.
        past: of each sample, the rows of the keys that are remembered in front of it, all of which it sees; empty where
            nothing is remembered.
        device: where the queries are.
    """

    spans: tuple[Span, ...]
    query_rows: Int[np.ndarray, " tokens"]
    key_slots: Int[np.ndarray, " tokens"]
    past: tuple[Int[np.ndarray, " _"], ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


Lowering = Callable[[Pattern], Attend]


@dataclass(frozen=True, slots=True)
class _Unit:
    """Some queries of one sample, and all keys that any of them sees: places in the sequence, and remembered slots."""

    queries: np.ndarray
    keys: np.ndarray
    past: np.ndarray
    masked: bool
    """Some query does not see some key."""

    @property
    def num_keys(self) -> int:
        return len(self.past) + len(self.keys)

    @property
    def area(self) -> int:
        return len(self.queries) * self.num_keys

    def key_slots(self, pattern: Pattern) -> np.ndarray:
        return np.concatenate((self.past, pattern.key_slots[self.keys]))


def _places(spans: Sequence[Span]) -> np.ndarray:
    return np.concatenate([np.arange(s.start, s.start + s.length) for s in spans])


def _past(pattern: Pattern, sample: int) -> np.ndarray:
    return pattern.past[sample] if pattern.past else np.zeros(0, np.int64)


def _segments(pattern: Pattern, spans: Sequence[Span]) -> list[_Unit]:
    """One unit a segment: the keys that it sees, its own last. Only texts are masked, and only inside themselves."""
    units = []
    for span, seen in zip(spans, visible_spans(spans), strict=True):
        keys = _places([spans[i] for i in seen])
        masked = span.kind is Kind.TEXT and span.length > 1
        units.append(_Unit(_places([span]), keys, _past(pattern, span.sample), masked))
    return units


# -- segmented --------------------------------------------------------------------------------------------------------


def segmented(pattern: Pattern) -> Attend:
    """Scaled-dot-product calls without masked-out work, but for short samples, which share masked calls."""
    layout = token_layout(pattern.spans, pattern.device)
    made = [_call(units, pattern, layout) for units in _grouped(_units(pattern))]
    calls, places = [call for call, _ in made], np.concatenate([queries for _, queries in made])
    back = np.empty(len(pattern.query_rows), np.int64)
    back[pattern.query_rows[places[places >= 0]]] = np.flatnonzero(places >= 0)
    restore = torch.from_numpy(back).to(pattern.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outputs = [call(q, k, v) for call in calls]
        return (torch.cat(outputs) if len(outputs) > 1 else outputs[0]).index_select(0, restore)

    return attend


def _units(pattern: Pattern) -> list[_Unit]:
    """A short sample is one masked unit, a long one is cut into its segments."""
    units: list[_Unit] = []
    for sample, group in groupby(pattern.spans, key=lambda span: span.sample):
        spans, past = list(group), _past(pattern, sample)
        length = sum(span.length for span in spans)
        if length * (length + len(past)) > SHORT:
            units += _segments(pattern, spans)
        else:
            places = np.arange(spans[0].start, spans[0].start + length)
            units.append(_Unit(places, places, past, len(spans) > 1 or (spans[0].kind is Kind.TEXT and length > 1)))
    return units


def _grouped(units: list[_Unit]) -> list[list[_Unit]]:
    """Short units of like lengths share a padded call, as long as padding costs less than another call."""
    groups: list[list[_Unit]] = []
    width = area = 0
    for unit in sorted(units, key=lambda unit: (unit.num_keys, len(unit.queries))):
        width, area = max(width, len(unit.queries)), area + unit.area
        padded = (len(groups[-1]) + 1) * width * unit.num_keys if groups else 0
        if groups and unit.area <= SHORT and padded <= area + SHORT // 16:
            groups[-1].append(unit)
        else:
            groups.append([unit])
            width, area = len(unit.queries), unit.area
    return groups


def _call(units: list[_Unit], pattern: Pattern, layout: TokenLayout) -> tuple[Attend, np.ndarray]:
    """One padded call for some units, and the places of its queries in the order of its output."""
    width, num_keys = max(len(unit.queries) for unit in units), max(unit.num_keys for unit in units)
    queries, keys = (np.full((len(units), size), PADDING) for size in (width, num_keys))
    slots = np.zeros((len(units), num_keys), np.int64)
    for row, unit in enumerate(units):
        queries[row, : len(unit.queries)] = unit.queries
        keys[row, : len(unit.past)] = PAST
        keys[row, len(unit.past) : unit.num_keys] = unit.keys
        slots[row, : unit.num_keys] = unit.key_slots(pattern)
    masked = any(unit.masked or unit.num_keys < num_keys for unit in units)
    exact = _bias(queries, keys, layout) if masked else None
    rounded: dict[torch.dtype, Tensor | None] = {}  # of the scores' precision, made once for all layers
    index = torch.from_numpy(np.where(queries < 0, 0, pattern.query_rows[queries]).ravel()).to(pattern.device)
    take = _taker(slots, [unit.num_keys for unit in units], pattern.device)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = q.index_select(0, index).unflatten(0, queries.shape)
        if q.dtype not in rounded:
            rounded[q.dtype] = None if exact is None else exact.to(q.dtype)
        return _sdpa(rows, take(k), take(v), rounded[q.dtype]).flatten(0, 1)

    return call, queries.ravel()


def _bias(queries: np.ndarray, keys: np.ndarray, layout: TokenLayout) -> Float[Tensor, "rows 1 width keys"]:
    """The rule between rows of queries and keys, as what is added to their scores: 0, or minus infinity.

    A row holds one sample. A padding query sees all, so that its softmax, which nobody reads, stays finite.
    """
    query, key = (_at(layout, torch.from_numpy(places).to(layout.index.device)) for places in (queries, keys))
    query, key = query[:, :, None], key[:, None, :]
    allowed = may_attend(query, key) | (query.sample == PADDING)
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, -torch.inf)[:, None]


def _at(layout: TokenLayout, places: Int[Tensor, "rows n"]) -> TokenLayout:
    """The layout at some places; what is remembered is past, clean, and of a segment of its own."""
    real, at = places >= 0, places.clamp(min=0)
    return TokenLayout(
        sample=torch.where(places == PADDING, PADDING, 0),
        segment=torch.where(real, layout.segment[at], PAST),
        index=torch.where(real, layout.index[at], PAST),
        causal=layout.causal[at],
        noised=layout.noised[at] & real,
    )


def _taker(slots: np.ndarray, counts: list[int], device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function that takes rows of keys out of all keys: as a view where the rows lie evenly (a cache), else a copy.

    A view's padding is whatever follows in the cache, which the bias hides.
    """
    (rows, width), starts = slots.shape, slots[:, 0]
    even = all(slots[row, count - 1] - starts[row] == count - 1 for row, count in enumerate(counts))
    even = even and all((np.diff(slots[row, :count]) == 1).all() for row, count in enumerate(counts))
    step = int(starts[1] - starts[0]) if rows > 1 else 0
    even = even and (rows == 1 or (step > 0 and bool((np.diff(starts) == step).all())))
    index: list[Tensor] = []

    def take(x: Tensor) -> Tensor:
        if even and not x.requires_grad and starts[-1] + width <= len(x):
            heads, dim = x.shape[1:]
            strides = (step * x.stride(0), *x.stride())
            return x.as_strided((rows, width, heads, dim), strides, x.storage_offset() + int(starts[0]) * x.stride(0))
        if not index:
            index.append(torch.from_numpy(slots.ravel()).to(device))
        return x.index_select(0, index[0]).unflatten(0, (rows, width))

    return take


def _sdpa(
    q: Float[Tensor, "rows width heads dim"],
    k: Float[Tensor, "rows keys kv_heads dim"],
    v: Float[Tensor, "rows keys kv_heads dim"],
    bias: Float[Tensor, "rows 1 width keys"] | None = None,
) -> Float[Tensor, "rows width heads dim"]:
    """Softmax attention row by row; grouped-query where there are fewer heads of keys."""
    q, k, v = (x.transpose(1, 2) for x in (q, k.to(q.dtype), v.to(q.dtype)))
    groups = q.shape[1] // k.shape[1]
    if groups > 1 and bias is not None and q.is_cuda:  # no fused CUDA kernel takes a mask and fewer heads of keys
        k, v, groups = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1), 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=groups > 1).transpose(1, 2)


def _in_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In the precision that autocast would choose, for kernels that it does not know."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(device)) for x in tensors)


# -- flex -------------------------------------------------------------------------------------------------------------


def _flex_rule(query: TokenLayout, key: TokenLayout, _batch, _head, q_index, k_index):
    return may_attend(query[q_index], key[k_index])


@cache
def _compiled_flex(device_type: str) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # Compiled for any length, torch's CPU kernel has failed on masks of expert-major order ("index out of bounds").
    return torch.compile(flex_attention, dynamic=device_type != "cpu")


def flex(pattern: Pattern) -> Attend:
    """FlexAttention; the rule itself is the mask, and blocks in which nothing is seen are skipped.

    On a CPU torch has no backward for it: a ValueError says so before the first gradient is asked for.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    layout = token_layout(pattern.spans, pattern.device)
    order = torch.from_numpy(np.argsort(pattern.query_rows)).to(pattern.device)  # places in the order of the queries
    slots = torch.from_numpy(np.concatenate((*pattern.past, pattern.key_slots))).to(pattern.device)
    query, key = layout[order], _behind_past(layout, [len(past) for past in pattern.past])
    rule = partial(_flex_rule, _whole_blocks(query), _whole_blocks(key))
    sizes = (_round_up(len(order)), _round_up(len(slots)))
    if pattern.device.type == "cuda":  # compiled, the whole matrix never exists
        create_block_mask = torch.compile(create_block_mask, dynamic=True)
    mask = create_block_mask(rule, None, None, *sizes, device=str(pattern.device))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.device.type == "cpu" and q.requires_grad:
            raise ValueError("FlexAttention has no backward on a CPU; train with the segmented lowering there")
        q, k, v = _in_autocast(q, k, v)
        whole = (q, k.index_select(0, slots).to(q.dtype), v.index_select(0, slots).to(q.dtype))
        padded = [F.pad(x, (0, 0, 0, 0, 0, _round_up(len(x)) - len(x)))[None].transpose(1, 2) for x in whole]
        out = _compiled_flex(q.device.type)(*padded, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        return out.transpose(1, 2)[0, : len(q)]

    return attend


def _round_up(count: int, block: int = 128) -> int:
    return -(-count // block) * block


def _whole_blocks(layout: TokenLayout) -> TokenLayout:
    """Filled up to whole blocks, which the compiled kernels want, by a sample that sees nothing but itself."""
    more = _round_up(len(layout.index)) - len(layout.index)
    return TokenLayout(
        sample=F.pad(layout.sample, (0, more), value=PADDING),
        segment=F.pad(layout.segment, (0, more)),
        index=F.pad(layout.index, (0, more)),
        causal=F.pad(layout.causal, (0, more)),
        noised=F.pad(layout.noised, (0, more)),
    )


def _behind_past(layout: TokenLayout, counts: Sequence[int]) -> TokenLayout:
    """The layout with the remembered keys of each sample in front, as `_at` has them."""
    past = torch.tensor(counts, dtype=torch.long, device=layout.sample.device)
    total = sum(counts)
    owner = torch.arange(len(counts), device=past.device).repeat_interleave(past, output_size=total)
    return TokenLayout(
        sample=torch.cat((owner, layout.sample)),
        segment=F.pad(layout.segment, (total, 0), value=PAST),
        index=F.pad(layout.index, (total, 0), value=PAST),
        causal=F.pad(layout.causal, (total, 0)),
        noised=F.pad(layout.noised, (total, 0)),
    )


# -- varlen -----------------------------------------------------------------------------------------------------------

VarlenKernel = Callable[..., Tensor]
"""flash-attn's signature: (q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=...) → out.

Sequences lie one after the other; causal is aligned at the end of queries and keys."""


def varlen(pattern: Pattern, kernel: VarlenKernel | None = None) -> Attend:
    """Two variable-length calls, one for all texts (causal) and one for all images; each segment is a sequence there.

    Args:
        kernel: flash-attn's by default (extra `flash`; CUDA, half precision).

    Raises:
        ImportError: flash-attn is wanted and not installed.
    """
    kernel = kernel or _flash_kernel()
    units = _segments(pattern, pattern.spans)
    calls = [_varlen_call(group, pattern, causal) for causal in (True, False) if (group := _of(units, causal))]
    places = np.concatenate([unit.queries for causal in (True, False) for unit in _of(units, causal)])
    restore = torch.from_numpy(np.argsort(pattern.query_rows[places])).to(pattern.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = _in_autocast(q, k, v)
        return torch.cat([call(kernel, q, k, v) for call in calls]).index_select(0, restore)

    return attend


def _of(units: list[_Unit], causal: bool) -> list[_Unit]:
    return [unit for unit in units if unit.masked is causal]


def _varlen_call(units: list[_Unit], pattern: Pattern, causal: bool) -> Callable[..., Tensor]:
    device = pattern.device
    index = torch.from_numpy(np.concatenate([pattern.query_rows[u.queries] for u in units])).to(device)
    slots = torch.from_numpy(np.concatenate([u.key_slots(pattern) for u in units])).to(device)
    lengths = [len(u.queries) for u in units], [u.num_keys for u in units]
    ends = [torch.tensor([0, *np.cumsum(part)], dtype=torch.int32, device=device) for part in lengths]

    def call(kernel: VarlenKernel, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.index_select(0, slots).to(q.dtype) for x in (k, v))
        return kernel(q.index_select(0, index), k, v, *ends, *map(max, lengths), causal=causal)

    return call


def _flash_kernel() -> VarlenKernel:
    try:
        from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "the varlen lowering needs flash-attn, which is not installed: pip install 'brushwork-flow[flash]' on a "
            "machine with CUDA, or take the segmented or flex lowering"
        ) from error
    return flash_attn_varlen_func


def varlen_reference(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, *, causal: bool) -> Tensor:
    """What flash-attn's variable-length kernel computes, one sequence at a time, on any device."""
    del max_seqlen_q, max_seqlen_k
    outputs = []
    for number in range(len(cu_seqlens_q) - 1):
        one, many = (slice(*ends[number : number + 2].tolist()) for ends in (cu_seqlens_q, cu_seqlens_k))
        rows, columns = one.stop - one.start, many.stop - many.start
        hidden = torch.ones(rows, columns, dtype=torch.bool, device=q.device).triu(columns - rows + 1)
        bias = torch.zeros(1, 1, rows, columns, dtype=q.dtype, device=q.device).masked_fill_(hidden, -torch.inf)
        outputs.append(_sdpa(q[one][None], k[many][None], v[many][None], bias if causal else None)[0])
    return torch.cat(outputs)


def fastest(pattern: Pattern) -> Attend:
    """On a GPU varlen with flash-attn under autocast (it needs half precision), else flex; elsewhere segmented."""
    return _fastest(pattern.device.type, torch.is_autocast_enabled(pattern.device.type))(pattern)


@cache
def _fastest(device: str, half: bool) -> Lowering:
    lowering = segmented if device != "cuda" else varlen if half and find_spec("flash_attn") else flex
    logging.getLogger(__name__).info("attention on %s: %s", device, lowering.__name__)
    return lowering
