import functools
import itertools
import json
import operator
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from brushwork.data import pictures
from brushwork.data import stream as streams
from brushwork.data.index import index_path
from brushwork.data.mixture import Mixture
from brushwork.data.shards import ShardFolder, write_shards
from brushwork.data.stream import PackedStream
from brushwork.data.views import process
from brushwork.tokens.packing import LossCounts, PackedBatch
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
            monkeypatch.setattr(streams, "_place", lambda place=place: place)
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
    seen = [n for batch in one if not batch.share.repeat for n in numbers(batch)]
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


def held(batch: PackedBatch) -> LossCounts:
    """What a batch has to learn from."""
    return LossCounts(
        text=len(batch.text_index), switch=len(batch.switch_index), flow=len(batch.flow_span), text_weight=0.0
    )


@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_each_batch_knows_what_its_whole_step_holds(folder, monkeypatch, ranks, accumulate):
    init = PackedStream.__init__
    monkeypatch.setattr(
        PackedStream,
        "__init__",
        lambda self, *given, **named: init(self, *given, **named) or setattr(self, "accumulate", accumulate),
    )
    batches = across(folder, monkeypatch, ranks, 1, 4 * accumulate)
    steps = [
        [batch for turn in batches[at : at + accumulate] for batch in turn] for at in range(0, len(batches), accumulate)
    ]
    for number, step in enumerate(steps):
        shares = [batch.share for batch in step]
        assert {share.counts for share in shares} == {functools.reduce(operator.add, map(held, step))}
        first = number * ranks * accumulate
        assert [share.number for share in shares] == list(range(first, first + ranks * accumulate))
        before = steps[number - 1][-1].cursor if number else stream(folder).start
        assert all(batch.cursor == before for batch in step[:-ranks]), "a step that is not over is done again"
        assert all(batch.cursor == step[-1].cursor for batch in step[-ranks:])
        assert not any(share.repeat for share in shares)


def test_packs_that_go_out_together_cost_alike(folder, monkeypatch):
    """In rows of four, whoever reads them, the costliest pack is closer to the mean; nothing is lost for it."""
    options = {"window": 36, "pair_cost": 0.2, "min_fill": 0.0}
    plain = across(folder, monkeypatch, 4, 1, 8, **options)
    alike = across(folder, monkeypatch, 4, 1, 8, **options, balance=4)
    before, after = ([step[0].share.balance for step in steps] for steps in (plain, alike))
    assert all(step[0].share.balance == batch.share.balance for step in alike for batch in step)
    assert np.mean(after) > np.mean(before)
    assert all(balance <= 1.0 for balance in before + after)
    seen = [n for step in alike for batch in step for n in numbers(batch)][: 2 * NUM]
    assert set(seen) == set(range(NUM)) and max(np.bincount(seen)) <= 3


def test_at_the_end_of_a_pass_a_rank_without_a_pack_repeats_one_that_counts_for_nothing(folder, monkeypatch):
    """All ranks take part in every forward pass: with sharded weights they need each other's."""
    num_packs = len(list(stream(folder, endless=False)))
    ranks = next(ranks for ranks in (2, 3, 4, 5) if num_packs % ranks)
    steps = across(folder, monkeypatch, ranks, 1, -(-num_packs // ranks), endless=False)
    batches = [batch for step in steps for batch in step]
    counted = sorted(n for batch in batches if not batch.share.repeat for n in numbers(batch))
    assert counted == list(range(NUM))
    assert len(batches) > num_packs


def test_batches_name_their_samples(folder):
    batch = next(iter(stream(folder)))
    assert [int(key) for key in batch.keys] == numbers(batch)
    assert set(batch.groups) == {"/prompt", "/draft"}


def test_nothing_waits_for_long_where_samples_hardly_combine(tmp_path):
    """Samples of more than half a pack: no pack is ever nine tenths full, and still an epoch is an epoch."""

    def long(number: int) -> Trajectory:
        prompt = " ".join(VOCABULARY.words[:5] * 6)[: 2 * (26 + number % 5)].strip()
        return replace(sample(number), prompt=prompt)

    write_shards(map(long, range(NUM)), tmp_path, split="train")
    for balance in (1, 4):
        batches = list(itertools.islice(stream(tmp_path, max_tokens=48, window=12, balance=balance), 2 * NUM))
        seen = [n for batch in batches for n in numbers(batch)]
        first = {n: seen.index(n) for n in range(NUM)}
        assert max(first.values()) < NUM + 24, "twice a window at most"
        assert max(len(batch.cursor["carry"]) for batch in batches) <= 12


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_an_unreadable_pack_keeps_the_order_of_the_others(damaged, workers, monkeypatch):
    """Loader workers take turns: one that skipped its turn would change places with the next."""
    steps = across(damaged, monkeypatch, 1, workers, 24, max_tokens=16, window=2)
    assert [step[0].share.number for step in steps] == list(range(24))
    assert any(step[0].share.repeat for step in steps)
    places = [step[0].cursor for step in steps]
    again = across(damaged, monkeypatch, 1, 1, 10, cursor=json.loads(json.dumps(places[7])), max_tokens=16, window=2)
    assert [step[0].cursor for step in again] == places[8:18]


def test_folders_with_the_same_keys_are_told_apart(damaged):
    for shard in damaged.glob("*.tar"):
        shard.write_bytes(shard.read_bytes().replace(b"IDAT", b"IDAX"))
        os.utime(index_path(shard))
    both = stream(damaged)
    both.mixture = Mixture([ShardFolder(damaged, "train")] * 2)
    both.start = {**both.start, "drawn": [0, 0]}
    with pytest.raises(ValueError, match=f"none of the {2 * NUM} samples can be used"):
        list(itertools.islice(both, 3))


@pytest.mark.slow
def test_a_process_whose_loader_fails_ends(folder, tmp_path):
    """Workers outlive a batch system's signals, but not their process."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from brushwork.data.datamodule import TrajectoryDataModule\n"
        "from brushwork.data.views import process\n"
        "from brushwork.tokens.segments import Segmenter\n"
        "from brushwork.tokens.vocabulary import WordVocabulary\n"
        "segmenter = Segmenter(vocabulary=WordVocabulary('a b c d e f g h i j'.split()), stride=8)\n"
        "data = TrajectoryDataModule(sys.argv[1], segmenter, process, max_tokens=60, window=12, num_workers=2)\n"
        "batches = iter(data.train_dataloader())\n"
        "next(batches)\n"
        "raise SystemExit(7)\n"
    )
    done = subprocess.run([sys.executable, str(script), str(folder)], timeout=60, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
