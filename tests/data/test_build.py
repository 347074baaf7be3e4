"""The build: what it writes, that it can be killed, and that it never mixes two configurations."""

import json
from functools import partial
from pathlib import Path

import pytest

from brushwork.data.build import build
from brushwork.data.shards import Rejected, ShardFolder
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.worlds.shapes import KINDS, ShapesWorld

WORLD = ShapesWorld()
SUBSET = partial(multi_turn, plan="located", flaw_rate=0.5)


def run(out: Path, subset=SUBSET, **settings) -> dict:
    return build(WORLD, subset, **{"num_samples": {"train": 14, "val": 6}, "samples_per_shard": 4, **settings}, out=out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "new"
    run(folder)
    return folder


def test_what_is_built(built):
    shards = [f"train-0000{number}" for number in range(4)] + ["val-00000", "val-00001"]
    files = [f"{shard}.{ending}" for shard in shards for ending in ("index.json", "tar")]
    assert sorted(contents(built)) == sorted([*files, "build.json", "manifest.json", "words.json"])
    assert json.loads((built / "words.json").read_text()) == list(WORLD.words())
    train, val = ShardFolder(built, "train"), ShardFolder(built, "val")
    assert train.keys == [f"train-{index:08d}" for index in range(14)] and len(val) == 6
    assert [one.meta["kind"] for one in train][:7] == [*KINDS, KINDS[0]]
    assert {one.meta["split"] for one in val} == {"val"}
    assert not any(isinstance(one, Rejected) for one in (*train, *val))


def test_the_manifest_counts_what_is_there(built):
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["config"]["subset"] == {
        "_target_": "brushwork.data.subsets.multi_turn.multi_turn",
        "plan": "located",
        "flaw_rate": 0.5,
    }
    assert manifest["config"]["world"]["canvas"] == 32 and manifest["config"]["seed"] == 0
    for split in ("train", "val"):
        samples = list(ShardFolder(built, split))
        found = manifest["splits"][split]
        assert found["samples"] == len(samples) == sum(found["kinds"].values())
        assert found["images"] == sum(len(list(one.drafts)) for one in samples)
        assert found["kinds"] == {kind: sum(one.meta["kind"] == kind for one in samples) for kind in KINDS}


class Mortal:
    """The subset, until it has been called too often."""

    def __init__(self, lives: int) -> None:
        self.lives, self.calls = lives, 0

    def __call__(self, *arguments, **settings):
        self.calls += 1
        if self.calls > self.lives:
            raise KeyboardInterrupt
        return multi_turn(*arguments, **settings)


@pytest.mark.parametrize(("lives", "left"), [(0, 20), (3, 20), (6, 16), (15, 6)])
def test_a_killed_build_goes_on_and_ends_in_the_same_bytes(built, tmp_path, lives, left):
    mortal = Mortal(lives)
    subset = partial(mortal, plan="located", flaw_rate=0.5)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, subset)
    assert not (tmp_path / "manifest.json").exists()
    (tmp_path / ".train-00003.tar.1.tmp").write_bytes(b"half")
    mortal.lives, mortal.calls = 100, 0
    run(tmp_path, subset)
    assert mortal.calls == left, "complete shards are not built again"
    shards = [name for name in contents(built) if name.startswith(("train", "val"))]
    assert all(contents(tmp_path)[name] == contents(built)[name] for name in shards)
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_damaged_shard_is_built_anew(built, tmp_path):
    run(tmp_path)
    whole = contents(tmp_path)
    (tmp_path / "train-00001.tar").write_bytes(whole["train-00001.tar"][:3000])
    (tmp_path / "train-00002.index.json").unlink()
    run(tmp_path)
    assert contents(tmp_path) == whole == contents(built)


def test_a_sample_depends_on_its_number_alone(built, tmp_path):
    run(tmp_path, num_samples={"train": 6}, samples_per_shard=5)
    few, many = list(ShardFolder(tmp_path, "train")), list(ShardFolder(built, "train"))
    assert [(one.key, one.prompt, one.meta) for one in few] == [(one.key, one.prompt, one.meta) for one in many[:6]]
    assert all((one.final_image == other.final_image).all() for one, other in zip(few, many, strict=False))


def test_another_seed_gives_other_samples(built, tmp_path):
    run(tmp_path, seed=1)
    assert contents(tmp_path)["train-00000.tar"] != contents(built)["train-00000.tar"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"num_samples": {"train": 15}}, "num_samples"),
        ({"subset": partial(SUBSET, plan="relational")}, "subset"),
        ({"kinds": ("colors",)}, "kinds"),
    ],
)
def test_a_folder_is_not_mixed_from_two_configurations(built, settings, named):
    before = contents(built)
    with pytest.raises(ValueError, match=f"differs in {named} .*choose another out="):
        run(built, **settings)
    assert contents(built) == before


@pytest.mark.parametrize(
    "settings",
    [{"num_samples": {"training": 4}}, {"num_samples": {"train": 0}}, {"samples_per_shard": 0}],
)
def test_settings_out_of_range_are_refused(tmp_path, settings):
    with pytest.raises(ValueError, match="expected at least 1"):
        run(tmp_path, **settings)
    assert not contents(tmp_path)
