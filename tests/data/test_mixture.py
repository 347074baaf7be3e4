"""Folders mixed by weight: nothing left out, nothing twice, from any point on."""

import numpy as np
import pytest

from brushwork.data.mixture import Mixture
from brushwork.data.shards import ShardFolder, write_shards
from brushwork.tokens.trajectory import Draft, Step, Trajectory


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[ShardFolder]:
    """Of 30, 20 and 7 samples in shards of 4."""
    made = []
    for number, size in enumerate((30, 20, 7)):
        image = np.zeros((8, 8, 3), np.uint8)
        samples = (
            Trajectory(
                key=f"{number}-{i}", prompt=f"{number} {i}", steps=(Step(plan=None, drafts=(Draft(image=image),)),)
            )
            for i in range(size)
        )
        path = tmp_path_factory.mktemp("mixture") / str(number)
        write_shards(samples, path, split="train", samples_per_shard=4)
        made.append(ShardFolder(path, "train"))
    return made


def test_samples_are_numbered_through(folders):
    mixture = Mixture(folders)
    assert len(mixture) == 57
    assert [mixture[i].key for i in (0, 29, 30, 49, 50, 56)] == ["0-0", "0-29", "1-0", "1-19", "2-0", "2-6"]
    with pytest.raises(IndexError):
        mixture[57]


def test_by_size_an_epoch_is_every_sample_once(folders):
    mixture = Mixture(folders, seed=1)
    refs, drawn = mixture.draw([0, 0, 0], 3 * 57)
    for epoch in range(3):
        part = refs[57 * epoch : 57 * (epoch + 1)]
        assert {one for one, _ in part} == {epoch} and sorted(index for _, index in part) == list(range(57))
    assert drawn == [90, 60, 21]
    assert refs[:57] != refs[57:114]


def test_weights_hold_at_every_moment(folders):
    weights = np.array([0.5, 0.25, 0.25])
    refs, _ = Mixture(folders, (weights / 5).tolist()).draw([0, 0, 0], 400)
    folder = np.searchsorted([30, 50], [index for _, index in refs], side="right")
    counts = np.cumsum(np.eye(3)[folder], axis=0)
    assert (abs(counts - weights * np.arange(1, 401)[:, None]) <= 1).all()
    for number, start, size in ((0, 0, 30), (1, 30, 20), (2, 50, 7)):
        own = [index - start for (_, index), one in zip(refs, folder, strict=True) if one == number]
        for at in range(0, len(own) - size, size):
            assert sorted(own[at : at + size]) == list(range(size)), "a pass is every sample once"


@pytest.mark.parametrize("cut", [1, 40, 100])
def test_it_goes_on_from_the_counts(folders, cut):
    straight, end = Mixture(folders, [3.0, 1.0, 1.0], seed=5).draw([0, 0, 0], 150)
    first, drawn = Mixture(folders, [3.0, 1.0, 1.0], seed=5).draw([0, 0, 0], cut)
    rest, ended = Mixture(folders, [3.0, 1.0, 1.0], seed=5).draw(drawn, 150 - cut)
    assert first + rest == straight and ended == end


def test_shuffling_keeps_to_a_few_shards_at_a_time(folders):
    refs, _ = Mixture(folders[:1], shuffled_shards=2).draw([0], 30)
    shards = [index // 4 for _, index in refs]
    blocks = [set(shards[:8]), set(shards[8:16])]
    assert all(len(block) <= 3 for block in blocks) and shards != sorted(shards)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0, 1.0], [1.0, -1.0, 1.0]])
def test_weights_that_make_no_mixture_are_refused(folders, weights):
    with pytest.raises(ValueError, match="expected one above 0 for each"):
        Mixture(folders, weights)


def test_a_place_in_another_mixture_is_refused(folders):
    with pytest.raises(ValueError, match="read from 1 folders, this run has 3"):
        Mixture(folders).draw([4], 1)
