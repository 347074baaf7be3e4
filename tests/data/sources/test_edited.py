"""Exports of what people edited: all of them become tasks or rejects, whatever the files hold."""

import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brushwork.data.shards import encode, write_members, write_shard
from brushwork.data.sources.division import SPLITS
from brushwork.data.sources.edited import EditedSource
from brushwork.data.tasks import CountedSource, Reject, Task
from brushwork.tokens.trajectory import Draft, Image, Inspection, Plan, Step, Trajectory


def picture(seed: int = 0, size: tuple[int, int] = (16, 16)) -> Image:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)


def drawn(prompt: str, key: str = "edited", seed: int = 0, **fields) -> Trajectory:
    said = Inspection(draft_check="the draft shows the plan")
    steps = (Step(plan=Plan(instruction="a", description="b"), drafts=(Draft(image=picture(seed), inspection=said),)),)
    return Trajectory(key=key, prompt=prompt, **{"steps": steps, "meta": {"edited": [0], "kind": "colors"}, **fields})


def read(folder: Path, **options) -> tuple[list[Task], list[Reject]]:
    source = EditedSource(folder=folder, **options)
    every = [one for split in SPLITS for one in source(split, 0, 1, 0)]
    assert len(every) == sum(map(source.count, SPLITS))
    return [one for one in every if isinstance(one, Task)], [one for one in every if isinstance(one, Reject)]


def test_what_was_exported_comes_back(tmp_path):
    one, *others = [drawn(f"prompt {n}", key=f"t{n}") for n in range(3)]
    write_shard([one], tmp_path / "sample (1).tar").with_suffix(".index.json").unlink()
    write_shard(others, tmp_path / "more.tar")
    before = sorted(path.name for path in tmp_path.iterdir())
    tasks, rejects = read(tmp_path)
    assert not rejects and {task.prompt for task in tasks} == {"prompt 0", "prompt 1", "prompt 2"}
    task = next(task for task in tasks if task.prompt == "prompt 0")
    assert task.drawn is not None and encode(task.drawn) == encode(one) and task.kind == "colors"
    assert task.meta == {"edited": [0], "source": "edited", "file": "sample_1_tar", "record": "t0"}
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing is written there"


def test_pictures_are_brought_to_a_size(tmp_path):
    still = drawn("small")
    wide = drawn("wide", steps=(Step(plan=None, drafts=(Draft(image=picture(1, (20, 40))),)),))
    write_shard([replace(still, key="a"), replace(wide, key="b")], tmp_path / "x.tar")
    tasks, _ = read(tmp_path, size=[16, 16])
    small, fitted = (task.drawn for task in tasks)
    assert small is not None and fitted is not None and fitted.final_image.shape == (16, 16, 3)
    assert np.array_equal(small.final_image, still.final_image)
    assert [task.drawn.final_image.shape for task in read(tmp_path)[0] if task.drawn][1] == (20, 40, 3)
    with pytest.raises(ValueError, match="expected a height and a width"):
        EditedSource(folder=tmp_path, size=[16])


def test_the_same_export_counts_once(tmp_path):
    write_shard([drawn("mine")], tmp_path / "sample.tar")
    write_shard([drawn("mine")], tmp_path / "sample (1).tar")
    write_shard([drawn("mine", seed=1)], tmp_path / "sample (2).tar")
    tasks, (again,) = read(tmp_path)
    assert len(tasks) == 2 and again.prompt == "mine"
    assert again.reason == "exported twice: sample (1).tar/edited is the same" and again.detail["file"] == "sample_tar"


BAD = {
    "empty.tar": b"",
    "text.tar": b"no archive " * 100,
    "zipped.tar": b"\x1f\x8b\x08\0" + bytes(600),
    "pickle.tar": pickle.dumps(print),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_shard_is_counted(tmp_path, name, caplog):
    (tmp_path / name).write_bytes(BAD[name])
    write_shard([drawn("mine")], tmp_path / "x.tar")
    (task,), (bad,) = read(tmp_path)
    assert task.prompt == "mine" and bad.detail["file"] == name.replace(".", "_")
    assert bad.reason.startswith("damaged export: ") and "damaged export" in caplog.text


def test_a_folder_and_an_archive_of_nothing_are_counted(tmp_path):
    (tmp_path / "folder.tar").mkdir()
    write_shard([], tmp_path / "nothing.tar")
    (tmp_path / "gone.tar").symlink_to(tmp_path / "nowhere")
    tasks, rejects = read(tmp_path)
    assert not tasks and len(rejects) == 3
    assert any("it holds no trajectory" in one.reason for one in rejects)


def test_what_is_cut_off_is_counted_and_the_rest_read(tmp_path):
    path = write_shard([drawn(f"prompt {n}", key=f"t{n}", seed=n) for n in range(3)], tmp_path / "x.tar")
    with tarfile.open(path) as tar:
        end = tar.getmember("t2.000.png").offset_data
    path.write_bytes(path.read_bytes()[: end + 100])
    tasks, rejects = read(tmp_path)
    assert {one.prompt for one in tasks} == {"prompt 0", "prompt 1"}
    assert {one.prompt: one.detail["record"] for one in rejects} == {"prompt 2": "t2", "": ""}
    assert all(one.reason.startswith("damaged export: ") for one in rejects)


def record(**change) -> bytes:
    return json.dumps({**json.loads(encode(drawn("mine"))["json"]), **change}).encode()


PNG = encode(drawn("mine"))["000.png"]


@pytest.mark.parametrize(
    "members",
    [
        {"json": b"{", "000.png": PNG},
        {"json": b"[" * 100_000, "000.png": PNG},
        {"json": record(prompt="\ud800"), "000.png": PNG},
        {"json": record(meta={"said": "\udfff"}), "000.png": PNG},
        {"json": record(prompt=None), "000.png": PNG},
        {"json": record(format=9), "000.png": PNG},
        {"json": record()},
        {"000.png": PNG},
        {"json": record(), "000.png": b"GIF89a" + bytes(99)},
        {"json": record(), "000.png": PNG[:-30]},
        {"json": record(), "000.png": PNG, "pkl": pickle.dumps(print)},
    ],
)
def test_a_damaged_trajectory_is_counted(tmp_path, members):
    good = encode(drawn("yours"))
    write_members([("bad", members), ("good", good)], tmp_path / "x.tar")
    (task,), (bad,) = read(tmp_path)
    assert task.prompt == "yours" and bad.reason.startswith("damaged export: ")
    assert bad.detail == {"source": "edited", "file": "x_tar", "record": "bad"}
    json.dumps([bad.prompt, bad.reason], ensure_ascii=False).encode()


def tar_of(path: Path, members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))


def test_names_in_an_archive_do_no_harm(tmp_path):
    """A link, a path that leads out, a name that is no text, and a key that comes twice."""
    link, out, odd = (tarfile.TarInfo(name) for name in ("a.json", "../../out.json", "\udcff\n.json"))
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    twice = [(tarfile.TarInfo("b.json"), b"") for _ in range(2)]
    tar_of(tmp_path / "x.tar", [(link, b""), (out, b""), (odd, b""), *twice])
    tasks, rejects = read(tmp_path)
    assert not tasks and any("b.json twice" in one.reason for one in rejects)
    assert not (tmp_path.parent / "out.json").exists()
    json.dumps([(one.prompt, one.reason, one.detail) for one in rejects], ensure_ascii=False).encode()


@pytest.mark.parametrize("size", [b"\x80" + (1 << 40).to_bytes(11, "big"), b"\xff" * 11 + b"\x00"])
def test_a_size_that_cannot_be_is_no_trap(tmp_path, size):
    """A terabyte, which nobody has room for, and less than nothing, by which a reader would go round for ever."""
    tar_of(tmp_path / "x.tar", [(tarfile.TarInfo("a.json"), b"")])
    data = bytearray((tmp_path / "x.tar").read_bytes())
    data[124:136] = size
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    (tmp_path / "x.tar").write_bytes(data)
    tasks, rejects = read(tmp_path)
    assert not tasks and rejects and all("damaged export" in one.reason for one in rejects)


def test_no_exports_say_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \*\.tar"):
        EditedSource(folder=tmp_path).count("train")
    with pytest.raises(FileNotFoundError, match=r"holds no \*\.tar"):
        EditedSource(folder=tmp_path / "none")("train", 0, 1, 0)


def test_parts_and_splits(tmp_path):
    """Every trajectory is in one part of one split, and no prompt in two splits."""
    assert isinstance(EditedSource(folder=tmp_path), CountedSource) and pickle.dumps(EditedSource(folder=tmp_path))
    every = [drawn(f"prompt {n % 20}", key=f"t{n}", seed=n) for n in range(40)]
    write_shard(every, tmp_path / "x.tar")
    source = EditedSource(folder=tmp_path, held_out=0.2, held_out_val=0.3)
    found = {split: [one for p in range(3) for one in source(split, p, 3, 0)] for split in SPLITS}
    assert {split: len(ones) for split, ones in found.items()} == {split: source.count(split) for split in SPLITS}
    prompts = [{one.prompt for one in ones} for ones in found.values()]
    assert sum(map(len, found.values())) == 40 and all(prompts) and sum(map(len, prompts)) == 20
