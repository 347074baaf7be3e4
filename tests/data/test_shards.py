"""Shards: what is written is read back, plain webdataset reads it too, and what is damaged is counted."""

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brushwork.data.index import index_path
from brushwork.data.shards import Rejected, ShardFolder, decode, encode, write_shard, write_shards
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.worlds.shapes import KINDS, ShapesWorld
from brushwork.tokens.trajectory import Draft, Plan, Step, Trajectory


def made(num: int) -> list[Trajectory]:
    world = ShapesWorld()
    tasks = [shapes_task(world, KINDS[i % 6], np.random.default_rng(i), "train") for i in range(num)]
    drawn = multi_turn(tasks, drawing=shapes_drawing(world), flaw_rate=0.3)
    return [replace(one, key=f"t-{i:03d}") for i, one in enumerate(drawn)]


TRAJECTORIES = made(10)


def same(one: Trajectory, other: Trajectory) -> bool:
    return encode(one) == encode(other) and one.key == other.key


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten trajectories in shards of four."""
    write_shards(TRAJECTORIES, tmp_path, split="train", samples_per_shard=4)
    return tmp_path


def read(folder: Path) -> tuple[list[Trajectory], list[Rejected]]:
    samples = list(ShardFolder(folder, "train"))
    return [one for one in samples if isinstance(one, Trajectory)], [
        one for one in samples if isinstance(one, Rejected)
    ]


def rewrite(shard: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> None:
    """Writes the shard anew with each member changed, dropped or multiplied; the index is left to be stale."""
    with tarfile.open(shard) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]
    with tarfile.open(shard, "w") as tar:
        for member in members:
            for name, data in change(*member):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    later = index_path(shard).stat().st_mtime_ns + 1_000_000
    os.utime(shard, ns=(later, later))


# Written and read


def test_what_is_written_is_read_back(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        f"train-0000{number}.{ending}" for number in range(3) for ending in ("index.json", "tar")
    ]
    found, rejected = read(folder)
    assert not rejected and all(map(same, found, TRAJECTORIES)) and len(found) == 10
    assert ShardFolder(folder, "train").keys == [one.key for one in TRAJECTORIES]


@pytest.mark.parametrize("index", [-1, 10])
def test_numbers_outside_are_refused(folder, index):
    with pytest.raises(IndexError):
        ShardFolder(folder, "train")[index]


def test_other_shapes_of_trajectory():
    """Text-only plans, single passes, other words than the world's, no image at all."""
    draft = Draft(image=np.zeros((1, 1, 3), dtype=np.uint8))
    plan = Plan(instruction="mal einen Kreis", description="ein Kreis · 圆")
    unusual = [
        Trajectory(key="text", prompt="", steps=(Step(plan=plan, drafts=()), Step(plan=plan, drafts=(draft,)))),
        Trajectory(key="single", prompt='"quoted"\n', steps=(Step(plan=None, drafts=(draft,)),)),
        Trajectory(key="empty", prompt="a ring", steps=(), meta={"cost": {"seconds": 1.5}, "stopped": None}),
        Trajectory(key="cut", prompt="", steps=(Step(plan=plan, drafts=(draft,)),), finished=False, goes_on=True),
    ]
    for one in unusual:
        back = decode(one.key, encode(one))
        assert same(back, one) and (back.prompt, back.meta) == (one.prompt, dict(one.meta))
        assert [step.plan for step in back.steps] == [step.plan for step in one.steps]


def test_plain_webdataset_reads_it(folder):
    import webdataset

    shards = sorted(map(str, folder.glob("*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [one.key for one in TRAJECTORIES]
    for sample, one in zip(samples, TRAJECTORIES, strict=True):
        assert sample["json"]["prompt"] == one.prompt
        images = [draft.image for draft in one.drafts]
        assert sample["json"]["num_images"] == len(images)
        for number, image in enumerate(images):
            np.testing.assert_array_equal(sample[f"{number:03d}.png"], image)


def test_equal_trajectories_give_equal_bytes(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_shards(made(10), other, split="train", samples_per_shard=4)
    for path in folder.iterdir():
        assert (other / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("key", ["", "a.b", "../up", "a/b", "a b", "x" * 81, "ключ"])
def test_a_key_must_be_a_plain_file_name(tmp_path, key):
    with pytest.raises(ValueError, match="expected a new one of up to 80 letters"):
        write_shard([Trajectory(key=key, prompt="", steps=())], tmp_path / "train-00000.tar")
    assert not list(tmp_path.iterdir()), "nothing half written"


def test_a_key_occurs_once(tmp_path):
    with pytest.raises(ValueError, match="'t-000'"):
        write_shard([TRAJECTORIES[0], TRAJECTORIES[0]], tmp_path / "train-00000.tar")


# The index


@pytest.mark.parametrize("content", [None, "", "[]", '{"format": 0}'])
def test_a_missing_or_unreadable_index_is_made_anew(folder, content):
    path = folder / "train-00001.index.json"
    before = path.read_bytes()
    path.unlink() if content is None else path.write_text(content)
    found, rejected = read(folder)
    assert not rejected and all(map(same, found, TRAJECTORIES))
    assert path.read_bytes() == before


def test_a_stale_index_is_noticed_by_size(folder):
    write_shard(TRAJECTORIES[4:5], folder / "elsewhere.tar")
    (folder / "elsewhere.tar").rename(folder / "train-00001.tar")
    found, rejected = read(folder)
    assert [one.key[-3:] for one in found] == ["000", "001", "002", "003", "004", "008", "009"] and not rejected


def test_a_stale_index_is_noticed_by_time(folder):
    """The same size, other places: members in reverse order within each sample."""
    shard = folder / "train-00000.tar"
    size = shard.stat().st_size
    with tarfile.open(shard) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in reversed(tar.getmembers())]
    queue = iter(members)
    rewrite(shard, lambda name, data: [next(queue)])
    assert shard.stat().st_size == size
    found, rejected = read(folder)
    assert not rejected
    assert all(map(same, found[:4], reversed(TRAJECTORIES[:4])))


def test_a_folder_that_cannot_be_written_is_read_all_the_same(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError

    (folder / "train-00000.index.json").unlink()
    monkeypatch.setattr(os, "replace", refuse)
    found, rejected = read(folder)
    assert len(found) == 10 and not rejected


# Damage


def test_a_missing_folder_says_what_builds_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not exist.*lightning build out="):
        ShardFolder(tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match=r"has no 'val' shards.*lightning build out="):
        ShardFolder(tmp_path, "val")


def test_a_missing_shard_is_told(folder, caplog):
    (folder / "train-00001.tar").unlink()
    assert len(ShardFolder(folder, "train")) == 6
    assert "lacks the train shards number [1]" in caplog.text


@pytest.mark.parametrize("keep", [0, 300, 700, 5_000, 9_000, 10_800])
@pytest.mark.parametrize("indexed", [True, False])
def test_wherever_a_shard_is_cut_off_the_loss_is_counted(folder, keep, indexed):
    shard = folder / "train-00000.tar"
    os.truncate(shard, keep)
    if not indexed:
        index_path(shard).unlink()
    found, rejected = read(folder)
    assert rejected and all(one.shard == shard.name and one.reason for one in rejected)
    assert all(map(same, found[-6:], TRAJECTORIES[4:]))
    assert all(map(same, found[:-6], TRAJECTORIES))
    if indexed:
        assert [one.key for one in found[:-6]] + [one.key for one in rejected] == [one.key for one in TRAJECTORIES[:4]]
    assert read(folder)[1] == rejected, "and is not forgotten"


def test_lost_padding_loses_nothing(folder):
    shard = folder / "train-00000.tar"
    with tarfile.open(shard) as tar:
        end = max(info.offset_data + -(-info.size // 512) * 512 for info in tar)
    os.truncate(shard, end + 1024)
    found, rejected = read(folder)
    assert not rejected and all(map(same, found, TRAJECTORIES)) and len(found) == 10


def damage(folder: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> Rejected:
    """The one sample that is rejected after this change of shard 0; the others must be whole."""
    rewrite(folder / "train-00000.tar", change)
    found, (rejected,) = read(folder)
    others = [one for one in TRAJECTORIES if one.key != rejected.key]
    assert len(found) == len(others) and all(map(same, found, others))
    return rejected


@pytest.mark.parametrize(
    ("member", "data", "reason"),
    [
        ("t-001.json", b"{", "JSONDecodeError"),
        ("t-001.json", b"\xff\xff{}", "UnicodeDecodeError"),
        ("t-001.json", b"[]", "TypeError"),
        ("t-001.json", b"{}", "KeyError"),
        ("t-001.json", b'{"format": 2}', "format 2; this version reads 1"),
        ("t-001.000.png", b"not a picture", "UnidentifiedImageError"),
        ("t-001.000.png", b"", "UnidentifiedImageError"),
        ("t-001.000.png", pickle.dumps(print), "UnidentifiedImageError"),
        ("t-001.json", None, "KeyError: 'json'"),
        ("t-001.000.png", None, "expected"),
    ],
)
def test_a_bad_member_rejects_its_sample_alone(folder, member, data, reason):
    rejected = damage(
        folder, lambda name, old: [(name, old)] if name != member else [(name, data)] if data is not None else []
    )
    assert (rejected.key, rejected.shard) == ("t-001", "train-00000.tar")
    assert reason in rejected.reason


@pytest.mark.parametrize(
    "change",
    [
        {"num_images": 1},
        {"num_images": "2"},
        {"prompt": 7},
        {"meta": []},
        {"steps": [{"plan": {"instruction": "x", "description": 7}, "drafts": []}], "num_images": 0},
        {"steps": None},
        {"steps": []},
        {"steps": [{"plan": {"instruction": "x"}, "drafts": []}]},
        {"steps": [{"plan": None, "drafts": [{"image": 0, "inspection": None, "flawed": False}] * 2}]},
        {"steps": [{"plan": None, "drafts": [{"image": 9, "inspection": None, "flawed": False}]}]},
    ],
)
def test_a_record_that_does_not_fit_rejects_its_sample(folder, change):
    def edit(name: str, data: bytes) -> list[tuple[str, bytes]]:
        return [(name, json.dumps({**json.loads(data), **change}).encode() if name == "t-002.json" else data)]

    assert damage(folder, edit).key == "t-002"


def test_members_of_unknown_kind_are_never_decoded(folder):
    def smuggle(name: str, data: bytes) -> list[tuple[str, bytes]]:
        return [(name, data), ("t-003.pyd", pickle.dumps(print))] if name == "t-003.json" else [(name, data)]

    assert "found the members" in damage(folder, smuggle).reason


@pytest.mark.parametrize("key", ["../../etc/passwd", "/abs/y", "a b"])
def test_a_key_that_is_no_file_name_is_rejected(folder, key):
    rewrite(folder / "train-00000.tar", lambda name, data: [(name.replace("t-001", key), data)])
    found, (rejected,) = read(folder)
    assert len(found) == 9 and "expected up to 80 letters" in rejected.reason


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    """tarfile stops there without an error; the index still knows what is lost, and is kept."""
    world, rng = ShapesWorld(), np.random.default_rng(0)
    image = world.render(world.sample("colors", rng, "train")[1])
    steps = (Step(plan=None, drafts=(Draft(image=image),)),)
    (shard,) = write_shards(
        (Trajectory(key=f"{n:03d}", prompt="a", steps=steps) for n in range(6)), tmp_path, split="train"
    )
    with tarfile.open(shard) as tar:
        place = tar.getmembers()[6].offset
    data = bytearray(shard.read_bytes())
    data[place : place + 512] = bytes(512)
    shard.write_bytes(data)
    read = ShardFolder(tmp_path, "train")
    samples = [read[i] for i in range(len(read))]
    assert len(samples) == 6
    assert sum(isinstance(sample, Rejected) for sample in samples) == 3
