"""What the official trainer's packer does with a stream of samples, made again from its description (facts, 8.1)."""

from collections import deque
from collections.abc import Sequence


def official(
    sizes: Sequence[int],
    *,
    expected_num_tokens: int,
    max_num_tokens: int,
    max_num_tokens_per_sample: int,
    prefer_buffer_before: int,
    max_buffer_size: int,
) -> tuple[list[list[int]], list[int], list[int]]:
    """Batches, samples that are too long, and samples that are lost though they would fit; all by index."""
    fresh, buffer = deque(enumerate(sizes)), deque()
    batches, batch, too_long, lost = [], [], [], []
    while fresh or buffer:
        fill = sum(sizes[i] for i in batch)
        from_buffer = fill < prefer_buffer_before and bool(buffer)
        if not from_buffer and not fresh:
            break
        index, size = buffer.popleft() if from_buffer else fresh.popleft()
        if size > max_num_tokens_per_sample:
            too_long.append(index)
        elif fill + size > max_num_tokens:
            if not from_buffer and len(buffer) < max_buffer_size:
                buffer.append((index, size))
            else:
                lost.append(index)
                batches.append(batch)
                batch = []
        else:
            batch.append(index)
            if fill + size >= expected_num_tokens:
                batches.append(batch)
                batch = []
    return batches, too_long, lost
