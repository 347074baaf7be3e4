"""The embedded world's benchmark."""

from collections import Counter

import numpy as np
import pytest

from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, OOD_KINDS
from brushwork.eval.benchmarks.shapes import ALL_KINDS, ShapesBenchmark


def test_all_kinds_in_equal_numbers_with_unique_keys(world):
    prompts = ShapesBenchmark(world=world, prompts_per_kind=5).prompts()
    assert Counter(one.kind for one in prompts) == dict.fromkeys((*KINDS, *HARD_KINDS, *OOD_KINDS), 5)
    assert len({one.key for one in prompts}) == len(prompts)
    assert len({one.seed for one in prompts}) == len(prompts)


def test_the_same_prompts_every_time_and_others_for_another_seed(world):
    first, again = (ShapesBenchmark(world=world, prompts_per_kind=4).prompts() for _ in range(2))
    assert first == again != ShapesBenchmark(world=world, prompts_per_kind=4, seed=1).prompts()


def test_more_prompts_begin_with_the_fewer(world):
    few, more = (ShapesBenchmark(world=world, prompts_per_kind=num).prompts() for num in (2, 4))
    assert set(few) <= set(more)


def test_fewer_kinds_leave_the_prompts_of_the_others_as_they_were(world):
    chosen = ("chain", "colors")
    some = ShapesBenchmark(world=world, prompts_per_kind=2, kinds=chosen).prompts()
    every = ShapesBenchmark(world=world, prompts_per_kind=2).prompts()
    assert some == [one for kind in chosen for one in every if one.kind == kind]
    assert ShapesBenchmark(world=world, kinds=chosen).describe()["kinds"] == list(chosen)


def test_prompts_out_of_distribution_ask_for_more_objects_than_training_shows(world):
    prompts = ShapesBenchmark(world=world, prompts_per_kind=4, kinds=OOD_KINDS).prompts()
    assert {len(world.parse(one.prompt).objects) for one in prompts} == {5}
    assert all(one.kind.startswith("ood") for one in prompts)


def test_prompts_are_never_trained_on(world):
    rng = np.random.default_rng(5)
    trained = {world.sample(kind, rng, "train")[0] for kind in KINDS + HARD_KINDS for _ in range(60)}
    assert trained.isdisjoint(one.prompt for one in ShapesBenchmark(world=world, prompts_per_kind=4).prompts())


def test_prompts_are_distinct_where_there_are_enough(world):
    prompts = ShapesBenchmark(world=world, prompts_per_kind=8).prompts()
    assert len({one.prompt for one in prompts if one.kind == "color_attribution"}) == 8


def test_no_prompts_is_refused(world):
    with pytest.raises(ValueError, match="prompts_per_kind"):
        ShapesBenchmark(world=world, prompts_per_kind=0).prompts()


@pytest.mark.parametrize("kinds", [(), ("colors", "seven_objects")])
def test_kinds_that_there_are_not_are_refused(world, kinds):
    with pytest.raises(ValueError, match=f"expected some of .*{ALL_KINDS[-1]}"):
        ShapesBenchmark(world=world, kinds=kinds).prompts()
