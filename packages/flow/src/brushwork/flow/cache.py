"""Keys and values of what has been read and drawn so far: one preallocated cache, and the contexts that look into it.

A `Context` is a list of stretches of cache slots. Guidance branches share what they have in common by naming the same
slots: nothing is ever copied. Contexts only grow at their end; going back is forgetting the last slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(kw_only=True, slots=True)
class Context:
    """What one sequence remembers.

    Attributes:
        stretches: (start, stop) of the cache slots that hold it, in the order of the sequence.
        position: RoPE position of what comes next.
        free: (start, stop) of the slots that it may still grow into; empty for a view.
        shared: tokens at its beginning that are another context's.
    """

    stretches: list[tuple[int, int]]
    position: int
    free: tuple[int, int] = (0, 0)
    shared: int = 0

    def __len__(self) -> int:
        """Number of remembered tokens."""
        return sum(stop - start for start, stop in self.stretches)

    @property
    def mark(self) -> tuple[int, int]:
        """(tokens, position) to come back to, by `view` or `rollback`."""
        return len(self), self.position

    def slots(self) -> Int[np.ndarray, " tokens"]:
        """The cache slots of its tokens, in order."""
        return np.concatenate([np.arange(*stretch) for stretch in self.stretches] or [np.zeros(0, np.int64)])

    def view(self, mark: tuple[int, int] | None = None) -> "Context":
        """The context as it was at `mark` (now, where there is none), sharing its slots; it cannot grow."""
        length, position = mark or self.mark
        stretches, left = [], length
        for start, stop in self.stretches:
            if taken := min(stop - start, left):
                stretches.append((start, start + taken))
            left -= taken
        assert not left, f"a context of {len(self)} tokens has no {length} to show"
        return Context(stretches=stretches, position=position)

    def behind(self, shared: "Context") -> "Context":
        """An empty context in the slots that are this one's own, behind what another holds now."""
        view, own = shared.view(), len(self) - self.shared
        free = (self.free[0] - own, self.free[1])
        return Context(stretches=view.stretches, position=view.position, free=free, shared=len(view))

    def rollback(self, mark: tuple[int, int]) -> None:
        """Forgets what came after `mark`; the slots are written anew by what follows.

        Views and contexts that share what is forgotten are void from then on.

        Raises:
            ValueError: the mark lies in what is shared with another context, which alone may forget it.
        """
        if mark[0] < self.shared:
            raise ValueError(f"cannot go back to {mark[0]} tokens: the first {self.shared} are another context's")
        kept = self.view(mark)
        self.free = (self.free[0] - (len(self) - len(kept)), self.free[1])
        self.stretches, self.position = kept.stretches, kept.position


class KVCache:
    """Keys and values of a batch of sequences.

    Args:
        num_slots: tokens it holds in all contexts together.
        scratch: tokens that are seen by each other and by nobody afterwards (a noised image), at most at a time.
    """

    def __init__(
        self, *, num_slots: int, scratch: int, num_layers: int, num_kv_heads: int, head_dim: int, dtype, device
    ) -> None:
        shape = (num_layers, num_slots + scratch, num_kv_heads, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self._scratch = (num_slots, num_slots + scratch)
        self._given = 0

    def context(self, capacity: int, shared: Context | None = None) -> Context:
        """A context with room for `capacity` tokens of its own, behind those that it shares with another.

        Raises:
            ValueError: the cache has no room left.
        """
        start, self._given = self._given, self._given + capacity
        if self._given > self._scratch[0]:
            raise ValueError(f"contexts of {self._given} tokens exceed a cache of {self._scratch[0]}; raise num_slots")
        empty = Context(stretches=[], position=0, free=(start, self._given))
        return empty if shared is None else empty.behind(shared)

    def place(self, lengths: Sequence[int], contexts: Sequence[Context], *, keep: bool) -> Int[np.ndarray, " tokens"]:
        """Slots for new tokens: `lengths[i]` behind context i, which then holds them, or scratch.

        Raises:
            ValueError: a context has no room left, or the scratch is too small.
        """
        if not keep:
            _check_room(sum(lengths), self._scratch, "the scratch")
            return np.arange(self._scratch[0], self._scratch[0] + sum(lengths))
        for length, context in zip(lengths, contexts, strict=True):
            _check_room(length, context.free, "a context")
        slots = [np.zeros(0, np.int64)]
        for length, context in zip(lengths, contexts, strict=True):
            start, stop = context.free
            slots.append(np.arange(start, start + length))
            context.free = (start + length, stop)
            _extend(context.stretches, start, start + length)
        return np.concatenate(slots)

    def write(
        self,
        layer: int,
        slots: Int[Tensor, " n"],
        keys: Float[Tensor, "n kv_heads dim"],
        values: Float[Tensor, "n kv_heads dim"],
    ) -> tuple[Tensor, Tensor]:
        """Stores one layer's new keys and values; returns the whole of both (slots, kv_heads, dim)."""
        self.keys[layer].index_copy_(0, slots, keys.detach().to(self.keys.dtype))
        self.values[layer].index_copy_(0, slots, values.detach().to(self.values.dtype))
        return self.keys[layer], self.values[layer]


def _check_room(wanted: int, free: tuple[int, int], where: str) -> None:
    if wanted > free[1] - free[0]:
        raise ValueError(f"{wanted} more tokens exceed the capacity of {where}, {free[1] - free[0]} are left; raise it")


def _extend(stretches: list[tuple[int, int]], start: int, stop: int) -> None:
    if stretches and stretches[-1][1] == start:
        stretches[-1] = (stretches[-1][0], stop)
    else:
        stretches.append((start, stop))
