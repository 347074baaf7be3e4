"""The gallery shows runs and data sets a page at a time, and what is added to them."""

import os
from dataclasses import replace

import pytest

from brushwork.data.shards import write_shards
from brushwork.eval.studio.desk import Refused
from brushwork.eval.studio.gallery import Galleries


def keyed(trajectories):
    return [replace(one, key=f"k{number}") for number, one in enumerate(trajectories)]


@pytest.fixture
def folder(tmp_path, run_folder, trajectories):
    run_folder(tmp_path / "runs" / "mine", trajectories[:6])
    write_shards(keyed(trajectories[:3]), tmp_path / "runs" / "data", split="train")
    write_shards(keyed(trajectories[3:5]), tmp_path / "runs" / "data", split="val")
    (tmp_path / "runs" / "archive.tar").write_bytes(b"of another kind")
    return tmp_path / "runs"


def test_runs_and_splits_are_found(folder):
    assert Galleries(folder).listing() == [
        {"name": "data.train", "title": "data · train", "number": 3},
        {"name": "data.val", "title": "data · val", "number": 2},
        {"name": "mine", "title": "mine", "number": 6},
    ]
    assert Galleries({"a": folder / "mine", "b": str(folder / "mine" / "predictions")}).names == ["a", "b"]
    assert Galleries(None).listing() == Galleries(folder / "nowhere").listing() == []


def test_a_page_tells_what_passed(folder, trajectories):
    page = Galleries(folder).page("mine", 1, 4)
    assert page["number"] == 6 and [one["index"] for one in page["items"]] == [4, 5]
    first = page["items"][0]
    assert first["prompt"] == trajectories[4].prompt and first["key"] == "004" and first["passed"] is True
    assert first["images"] == len(list(trajectories[4].drafts)) and first["thumbnail"].startswith("data:image/png")
    assert Galleries(folder).page("mine", 7, 4)["items"] == []
    assert Galleries(folder).page("data.val", 0, 4)["items"][0]["passed"] is None


def test_an_item_is_all_of_a_trajectory(folder, trajectories):
    item = Galleries(folder).item("data.val", 1)
    assert item["prompt"] == trajectories[4].prompt and item["parts"][0]["kind"] == "plan"
    assert sum(part["kind"] == "image" for part in item["parts"]) == len(list(trajectories[4].drafts))


def test_what_is_added_is_seen_and_what_is_gone_is_told(folder, trajectories):
    galleries = Galleries(folder)
    assert galleries.page("data.train", 0, 9)["number"] == 3
    write_shards(keyed(trajectories[:5]), folder / "data", split="train")
    assert galleries.page("data.train", 0, 9)["number"] == 5
    (folder / "data" / "train-00000.tar").unlink()
    with pytest.raises(Refused, match="gone"):
        galleries.page("data.train", 0, 9)
    assert [one["name"] for one in galleries.listing()] == ["data.val", "mine"]


def test_a_run_that_is_made_later_is_listed(folder, run_folder, trajectories):
    galleries = Galleries(folder)
    assert len(galleries.listing()) == 3
    run_folder(folder / "later", trajectories[:2])
    assert {"name": "later", "title": "later", "number": 2} in galleries.listing()
    assert galleries.page("later", 0, 9)["number"] == 2


def test_every_gallery_has_a_name_of_its_own(tmp_path, trajectories):
    for number, place in enumerate(("a.b/c", "a/b.c"), start=1):
        write_shards(keyed(trajectories[:number]), tmp_path / place, split="train")
    galleries = Galleries(tmp_path)
    names = [one["name"] for one in galleries.listing()]
    assert len(set(names)) == 2
    assert sorted(galleries.page(name, 0, 9)["number"] for name in names) == [1, 2]


def test_a_damaged_sample_is_left_out(folder):
    shard = folder / "data" / "train-00000.tar"
    content = bytearray(shard.read_bytes())
    content[512:516] = b"oops"
    stat = shard.stat()
    shard.write_bytes(content)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    galleries = Galleries(folder)
    assert [one["index"] for one in galleries.page("data.train", 0, 9)["items"]] == [1, 2]
    with pytest.raises(Refused, match="cannot be read"):
        galleries.item("data.train", 0)


def test_only_what_is_there_can_be_asked_for(make_studio, folder):
    with pytest.raises(FileNotFoundError, match="no 'train' shards"):
        Galleries({"a": folder / "mine" / "nothing"})
    with pytest.raises(ValueError, match="a name without /"):
        Galleries({"a/b": folder / "mine"})
    with make_studio(galleries={"mine": folder / "mine"}).browser() as browser:
        assert browser.get("/api/gallery/mine?page=0&size=2").json()["number"] == 6
        assert browser.get("/api/gallery/mine/5").json()["key"] == "005"
        for path in ("mine/6", "mine/-1", "yours", "yours/0", "..%2f..%2fetc"):
            assert browser.get(f"/api/gallery/{path}").status_code == 404, path
        for path in ("mine?size=0", "mine?size=101", "mine?page=-1", "mine?page=x", "mine/one"):
            assert browser.get(f"/api/gallery/{path}").status_code == 400, path
