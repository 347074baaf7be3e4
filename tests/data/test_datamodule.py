import itertools
import json
import os

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from brushwork.data import datamodule, pictures
from brushwork.data.datamodule import PackedStream
from brushwork.data.index import index_path
from brushwork.data.mixture import Mixture
from brushwork.data.shards import ShardFolder, write_shards
from brushwork.data.views import process
from brushwork.tokens.packing import PackedBatch
from brushwork.tokens.segments import Segmenter
from brushwork.tokens.trajectory import Draft, Step, Trajectory
from brushwork.tokens.vocabulary import WordVocabulary

VOCABULARY = WordVocabulary("a b c d e f g h i j".split())
NUM = 37


def sample(number: int) -> Trajectory:
    """Prompts of different lengths; the picture's first pixel is the sample's number."""
    image = np.full((8, 8, 3), number, dtype=np.uint8)
    prompt = " ".join(VOCABULARY.words[: 1 + number % 9])
    return Trajectory(key=f"{number:03d}", prompt=prompt, steps=(Step(plan=None, drafts=(Draft(image=image),)),))


@pytest.fixture
def folder(tmp_path):
    write_shards(map(sample, range(NUM)), tmp_path, split="train", samples_per_shard=10)
    return tmp_path


def stream(folder, **options) -> PackedStream:
    segmenter = Segmenter(vocabulary=VOCABULARY, stride=8, text_dropout=0.3)
    options = {"max_tokens": 60, "window": 12, "seed": 3, **options}
    mixture = Mixture([ShardFolder(folder, "train")], seed=options["seed"])
    return PackedStream(mixture, process, segmenter, **options)


def numbers(batch: PackedBatch) -> list[int]:
    return [int(image[0, 0, 0]) for image in batch.images]


def equal(one: PackedBatch, other: PackedBatch) -> bool:
    return torch.equal(one.token_ids, other.token_ids) and numbers(one) == numbers(other)


def test_one_pass_uses_every_sample_once(folder):
    batches = list(stream(folder, endless=False))
    assert sorted(n for batch in batches for n in numbers(batch)) == list(range(NUM))
    assert all(batch.num_tokens <= 60 for batch in batches)


def test_an_endless_stream_uses_every_sample_once_an_epoch(folder):
    """Within any span of two epochs' worth of samples each number has come at least once, and none three times."""
    seen = [n for batch in itertools.islice(stream(folder), 30) for n in numbers(batch)][: 2 * NUM]
    counts = np.bincount(seen, minlength=NUM)
    assert counts.min() >= 1
    assert counts.max() <= 3
    assert seen[:NUM] != sorted(seen[:NUM])  # shuffled


@pytest.mark.parametrize("stop", [1, 3, 8, 20])
def test_a_resumed_stream_goes_on_to_the_bit(folder, stop):
    straight = list(itertools.islice(stream(folder), 30))
    second = stream(folder)
    second.go_on_from(json.loads(json.dumps(straight[stop - 1].cursor)))
    for one, other in zip(itertools.islice(second, 30 - stop), straight[stop:], strict=True):
        assert equal(one, other)


def across(
    folder, monkeypatch, ranks: int, workers: int, steps: int, cursor=None, **options
) -> list[list[PackedBatch]]:
    """The batches of each step of a run on so many ranks, each with so many loader workers."""
    runs = []
    for rank in range(ranks):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
        parts = []
        for worker in range(workers):
            place = (rank, ranks, worker, workers)
            monkeypatch.setattr(datamodule, "_place", lambda place=place: place)
            one = stream(folder, **options)
            if cursor:
                one.go_on_from(cursor)
            parts.append(list(itertools.islice(one, -(-steps // workers))))
        runs.append([batch for batches in zip(*parts, strict=True) for batch in batches][:steps])
    return [list(step) for step in zip(*runs, strict=True)]


@pytest.mark.parametrize(("before", "after"), [((1, 0), (3, 2)), ((2, 2), (2, 2)), ((3, 1), (2, 3)), ((4, 2), (1, 1))])
def test_a_run_goes_on_with_other_numbers_of_ranks_and_workers(folder, monkeypatch, before, after):
    """No pack is left out and none comes twice, whoever reads them."""
    straight = [numbers(batch) for batch in itertools.islice(stream(folder), 60)]
    steps = across(folder, monkeypatch, before[0], max(before[1], 1), 5)
    cursors = [batch.cursor for batch in steps[-1]]
    assert all(cursor == cursors[0] for cursor in cursors), "the place is the same on every rank"
    more = across(folder, monkeypatch, after[0], max(after[1], 1), 6, json.loads(json.dumps(cursors[0])))
    seen = [numbers(batch) for step in (*steps, *more) for batch in step]
    assert seen == straight[: len(seen)]


def test_workers_share_the_packs(folder):
    alone = [numbers(batch) for batch in stream(folder, endless=False)]
    loader = DataLoader(stream(folder, endless=False), batch_size=None, num_workers=2)
    shared = [numbers(batch) for batch in loader]
    assert sorted(shared) == sorted(alone)


def test_what_cannot_be_used_is_set_aside_and_counted(folder):
    shard = sorted(folder.glob("*.tar"))[1]
    data = bytearray(shard.read_bytes())
    place = data.index(b"\x89PNG")
    data[place : place + 8] = b"\0" * 8  # the first picture of the second shard is no PNG any more
    shard.write_bytes(data)
    damaged = stream(folder, endless=False, max_tokens=26)
    found = sorted(n for batch in damaged for n in numbers(batch))
    assert "010" in damaged.set_aside
    assert len(found) + len(damaged.set_aside) == NUM
    assert set(range(NUM)) - set(found) == {int(key) for key in damaged.set_aside}


@pytest.fixture
def damaged(folder):
    """The pixels of numbers 30 to 36 cannot be read; their sizes are still known."""
    for shard in folder.glob("*.tar"):
        data = bytearray(shard.read_bytes())
        for number in range(30, 37):
            if (place := data.find(f"{number:03d}.000.png".encode())) >= 0:
                data[place + 512 + 45] ^= 0xFF
        shard.write_bytes(data)
        os.utime(index_path(shard))
    return folder


def test_damaged_pictures_leave_their_samples_out(damaged):
    one = stream(damaged, endless=False, max_tokens=16, window=1)
    seen = [n for batch in one for n in numbers(batch)]
    assert sorted(seen) == sorted(set(seen)) and not set(seen) & set(range(30, 37))
    assert {"030", "036"} <= set(one.set_aside) and len(seen) + len(one.set_aside) == NUM


def test_a_rank_whose_pack_is_damaged_repeats_its_neighbours(damaged, monkeypatch):
    """The other ranks wait for a batch."""
    steps = across(damaged, monkeypatch, 2, 1, 25, max_tokens=16, window=2)
    assert len(steps) == 25 and all(numbers(batch) for step in steps for batch in step)
    assert all(step[0].cursor == step[1].cursor for step in steps), "and all know the same place"


def test_where_nothing_can_be_read_training_says_so(damaged):
    for shard in damaged.glob("*.tar"):
        data = shard.read_bytes()
        shard.write_bytes(data.replace(b"IDAT", b"IDAX"))
        os.utime(index_path(shard))
    with pytest.raises(ValueError, match="none of the 37 samples can be used"):
        list(itertools.islice(stream(damaged), 3))


def test_only_the_pictures_of_a_readers_own_packs_are_read(folder, monkeypatch):
    read: list[int] = []
    decode = pictures.decode
    monkeypatch.setattr(pictures, "decode", lambda data: read.append(1) or decode(data))
    steps = across(folder, monkeypatch, 4, 1, 3)
    drawn = sum(len(numbers(batch)) for step in steps for batch in step)
    assert len(read) == drawn


def test_samples_longer_than_a_pack_are_set_aside_with_the_reason(folder):
    tight = stream(folder, endless=False, max_tokens=16)
    list(tight)
    assert any("exceed max_tokens=16" in reason for reason in tight.set_aside.values())
