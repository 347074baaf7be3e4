"""Gen-Ref: what is whole is read, what is damaged is counted, and nothing in an archive does anything."""

import io
import pickle
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brushwork.data.sources.division import SPLITS
from brushwork.data.sources.genref import GenRefSource
from brushwork.data.tasks import Reject, Source, Task


def picture(red: int, size: tuple[int, int] = (4, 6), kind: str = "PNG") -> bytes:
    pixels = np.full((*size, 3), (red, 100, 50), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


GOOD, BAD = picture(200), picture(10)


def sample(words: str, **changed: bytes | None) -> dict[str, bytes]:
    """Members by extension; `field=None` leaves one out."""
    whole: dict[str, bytes | None] = dict(
        good_image=GOOD, bad_image=BAD, reflection=b"make it red", prompt=words.encode(), subset=b"length\n"
    )
    ending = {"good_image": "png", "bad_image": "png"}
    return {f"{k}.{ending.get(k, 'txt')}": data for k, data in (whole | changed).items() if data is not None}


def write(path: Path, samples: dict[str, dict[str, bytes]]) -> bytes:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for key, members in samples.items():
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def read(folder: Path, **settings) -> tuple[list[Task], list[Reject]]:
    source = GenRefSource(folder=folder, **settings)
    every = [one for split in SPLITS for one in source(split, 0, 1, 0)]
    return [one for one in every if isinstance(one, Task)], [one for one in every if isinstance(one, Reject)]


def prompts(tasks: list[Task]) -> list[str]:
    return sorted(task.prompt for task in tasks)


def test_a_sample_becomes_a_task(tmp_path):
    write(tmp_path / "genref_0.tar", {"000": sample("a red dog")})
    write(tmp_path / "other.tar", {"000": sample("not ours")})
    (task,), rejects = read(tmp_path)
    assert task.pair is not None and not rejects
    assert (task.prompt, task.kind, task.pair.reflection) == ("a red dog", "length", "make it red")
    assert task.meta == {"source": "genref", "shard": "genref_0.tar", "record": "000"}
    assert task.pair.good.shape == task.pair.bad.shape == (4, 6, 3) and task.pair.good.dtype == np.uint8
    assert task.pair.good[0, 0].tolist() == [200, 100, 50] and task.pair.bad[0, 0].tolist() == [10, 100, 50]


def test_it_is_a_source_that_workers_can_be_given(tmp_path):
    assert isinstance(GenRefSource(folder=tmp_path), Source) and pickle.dumps(GenRefSource(folder=tmp_path))


@pytest.mark.parametrize(("ending", "kind"), [("jpg", "JPEG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_other_kinds_of_picture(tmp_path, ending, kind):
    members = sample("a dog", good_image=None) | {f"good_image.{ending}": picture(200, kind=kind)}
    write(tmp_path / "genref_0.tar", {"a": members})
    (task,), _ = read(tmp_path)
    assert task.pair is not None and abs(int(task.pair.good[0, 0, 0]) - 200) < 8


def test_pictures_are_cropped_and_scaled(tmp_path):
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 4:12] = 255  # the middle
    PIL.Image.fromarray(wide).save(buffer := io.BytesIO(), "PNG")
    gray = io.BytesIO()
    PIL.Image.new("LA", (3, 3), (7, 0)).save(gray, "PNG")
    write(tmp_path / "genref_0.tar", {"a": sample("dog", good_image=buffer.getvalue(), bad_image=gray.getvalue())})
    (task,), _ = read(tmp_path, size=[4, 4])
    assert task.pair is not None and task.pair.good.shape == task.pair.bad.shape == (4, 4, 3)
    assert (task.pair.good > 240).all() and (task.pair.bad == 7).all(), "the middle; the filter reaches a pixel beyond"


@pytest.mark.parametrize("size", [[4], [4, 0], [4, 4, 4]])
def test_sizes_that_are_none(tmp_path, size):
    with pytest.raises(ValueError, match="expected a height and a width"):
        GenRefSource(folder=tmp_path, size=size)


def test_no_shards(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no genref_\*\.tar"):
        GenRefSource(folder=tmp_path)("train", 0, 1, 0)


# Damage


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (dict(bad_image=None), "incomplete sample: it lacks bad_image"),
        (dict(prompt=None, subset=None), "incomplete sample: it lacks prompt, subset"),
        (dict(good_image=b""), "undecodable image: good_image"),
        (dict(bad_image=GOOD[:50]), "undecodable image: bad_image"),
        (dict(bad_image=b"GIF89a" + GOOD), "undecodable image: bad_image"),
        (dict(reflection=b"\xff\xfe"), "unreadable text: reflection is not UTF-8"),
        (dict(prompt="café".encode("latin-1")), "unreadable text: prompt is not UTF-8"),
        (dict(reflection=b" \n"), "unreadable text: reflection is empty"),
    ],
)
def test_a_damaged_sample_is_counted_and_the_others_are_read(tmp_path, caplog, changed, reason):
    write(tmp_path / "genref_0.tar", {"a": sample("first"), "b": sample("second", **changed), "c": sample("third")})
    tasks, (reject,) = read(tmp_path)
    assert prompts(tasks) == ["first", "third"]
    assert reject.reason.startswith(reason) and reason in caplog.text
    assert reject.detail == {"source": "genref", "shard": "genref_0.tar", "record": "b"}
    assert reject.prompt == ("" if "prompt" in changed else "second")


SHARD = {"a": sample("first"), "b": sample("second"), "c": sample("third")}


def test_a_shard_cut_off_anywhere(tmp_path):
    """Every sample before the cut is read; the one at the cut and the rest of the shard are counted."""
    path = tmp_path / "genref_0.tar"
    data = write(path, SHARD)
    with tarfile.open(path) as tar:
        ends = [info.offset_data + info.size for info in tar if info.name.endswith("subset.txt")]
        end = max(info.offset_data for info in tar) + 512
    for cut in [*range(0, len(data), 512), *range(1, len(data), 1777)]:
        path.write_bytes(data[:cut])
        tasks, rejects = read(tmp_path)
        assert prompts(tasks) == ["first", "second", "third"][: sum(cut >= whole for whole in ends)]
        reasons = Counter(reject.reason.partition(":")[0] for reject in rejects)
        assert reasons["damaged shard"] == (cut < end + 1024) and reasons["incomplete sample"] <= 1
        assert set(reasons) <= {"damaged shard", "incomplete sample"}


def test_bytes_that_are_overwritten(tmp_path):
    """Whatever is damaged, reading ends, and no sample is read with other pictures than were written."""
    path, rng = tmp_path / "genref_0.tar", np.random.default_rng(0)
    whole = write(path, SHARD)
    for _ in range(150):
        data = bytearray(whole)
        start = int(rng.integers(len(data)))
        data[start : start + int(rng.integers(1, 600))] = rng.bytes(int(rng.integers(1, 600)))
        path.write_bytes(data)
        for task in read(tmp_path)[0]:
            assert task.pair is not None and task.pair.good.shape == (4, 6, 3)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "evil",
    [
        header("b.good_image.png", 1 << 40),
        header("b.good_image.png", 1 << 62),
        header("b.good_image.png", -5000),
        header("b" * 99, 1 << 62, tarfile.GNUTYPE_LONGNAME),
        header("b", 600, tarfile.GNUTYPE_LONGNAME) * 2000,
        header("b", 11, tarfile.XHDTYPE) + b"11 size=-1\n".ljust(512, b"\0") + header("b.prompt.txt", 3),
        b"\xff" * 512,
    ],
    ids=["long", "longer", "negative", "long name", "names of names", "pax", "noise"],
)
def test_headers_that_lie(tmp_path, evil):
    path = tmp_path / "genref_0.tar"
    data = write(path, {"a": sample("first")})
    path.write_bytes(data[: len(data.rstrip(b"\0")) // 512 * 512 + 512] + evil + bytes(1024))
    tasks, rejects = read(tmp_path)
    assert prompts(tasks) == ["first"] and any(one.reason.startswith("damaged shard") for one in rejects)


@pytest.mark.parametrize("members", [{}, {"a": {"right_image.jpg": GOOD, "json": b"{}"}}])
def test_a_shard_without_samples_is_counted(tmp_path, members):
    write(tmp_path / "genref_0.tar", members)
    tasks, (reject,) = read(tmp_path)
    assert not tasks and reject.reason.startswith("damaged shard: it holds no sample")


# Archives that are up to something


def test_nothing_is_extracted_or_followed(tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(GOOD)
    folder = tmp_path / "shards"
    folder.mkdir()
    keys = {"../../../x": sample("up"), "/etc/passwd": sample("root"), "a\\..\\b.1 c;$(d)": sample("odd")}
    write(folder / "genref_0.tar", keys)
    with tarfile.open(folder / "genref_1.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("l.good_image.png")
            info.type, info.linkname = kind, str(outside)
            tar.addfile(info)
        for extension, data in sample("linked", good_image=None).items():
            info = tarfile.TarInfo(f"l.{extension}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    before = sorted(tmp_path.rglob("*"))
    tasks, rejects = read(folder)
    assert sorted(tmp_path.rglob("*")) == before
    assert {task.meta["record"] for task in tasks} == {"_x", "_etc_passwd", "a_b_1_c_d_"}
    assert [reject.reason for reject in rejects] == ["incomplete sample: it lacks good_image"]


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


def test_other_members_are_never_opened(tmp_path):
    evil = pickle.dumps(Bomb())
    more = dict.fromkeys(("pickle", "pyd", "pth", "good_image.pkl", "prompt.json", "cls"), evil)
    write(tmp_path / "genref_0.tar", {"a": sample("first") | more, "readme": {"md": b"hello"}, "b": sample("second")})
    tasks, rejects = read(tmp_path)
    assert prompts(tasks) == ["first", "second"] and not rejects


def test_a_field_that_comes_again_begins_a_sample(tmp_path):
    path = tmp_path / "genref_0.tar"
    with tarfile.open(path, "w") as tar:
        for prompt in ("first", "second"):
            for extension, data in sample(prompt).items():
                info = tarfile.TarInfo(f"same.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    assert prompts(read(tmp_path)[0]) == ["first", "second"]


# Splits and parts


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """30 samples of 12 prompts in three shards, every seventh damaged."""
    folder = tmp_path_factory.mktemp("corpus")
    samples = {f"{i:03d}": sample(f"prompt {i % 12}", **({"bad_image": None} if i % 7 == 6 else {})) for i in range(30)}
    for shard in range(3):
        write(
            folder / f"genref_{shard}.tar", {key: samples[key] for key in list(samples)[10 * shard : 10 * shard + 10]}
        )
    return folder


def records(source: GenRefSource, split: str, part: int = 0, parts: int = 1, seed: int = 0) -> list[str]:
    """Every outcome by record; also draws from the randomness of tasks."""
    outcomes = source(split, part, parts, seed)
    return [one.meta["record"] if isinstance(one, Task) else one.detail["record"] + " rejected" for one in outcomes]


@given(parts=st.integers(1, 7), held_out=st.sampled_from([0.0, 0.2, 0.45]), held_out_val=st.sampled_from([0.1, 0.5]))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_are_disjoint_and_complete(corpus, parts, held_out, held_out_val):
    source, found = GenRefSource(folder=corpus, held_out=held_out, held_out_val=held_out_val), []
    for split in SPLITS:
        whole = records(source, split)
        for part in range(parts):
            assert records(source, split, part, parts) == whole[part::parts]
        found += whole
    assert sorted(found) == [f"{i:03d}" + " rejected" * (i % 7 == 6) for i in range(30)]


def test_splits_share_no_prompt(corpus):
    source = GenRefSource(folder=corpus, held_out=0.3, held_out_val=0.3)
    of = [{one.prompt for one in source(split, 0, 1, 0)} for split in SPLITS]
    assert all(of) and sum(map(len, of)) == len(set.union(*of)) == 12


def test_every_call_gives_the_same(corpus):
    source = GenRefSource(folder=corpus)
    one, other = (list(source("train", 1, 2, 3)) for _ in range(2))
    assert [task.rng.integers(1 << 40) for task in one if isinstance(task, Task)] == [
        task.rng.integers(1 << 40) for task in other if isinstance(task, Task)
    ]
    assert records(source, "train") == records(source, "train", seed=5)
