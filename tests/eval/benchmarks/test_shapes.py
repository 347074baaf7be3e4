"""The embedded world's benchmark."""

from collections import Counter

import numpy as np
import pytest

from brushwork.data.worlds.shapes import KINDS
from brushwork.eval.benchmarks.shapes import ShapesBenchmark


def test_six_kinds_in_equal_numbers_with_unique_keys(world):
    prompts = ShapesBenchmark(world=world, prompts_per_kind=5).prompts()
    assert Counter(one.kind for one in prompts) == dict.fromkeys(KINDS, 5)
    assert len({one.key for one in prompts}) == len(prompts)
    assert len({one.seed for one in prompts}) == len(prompts)


def test_the_same_prompts_every_time_and_others_for_another_seed(world):
    first, again = (ShapesBenchmark(world=world, prompts_per_kind=4).prompts() for _ in range(2))
    assert first == again != ShapesBenchmark(world=world, prompts_per_kind=4, seed=1).prompts()


def test_more_prompts_begin_with_the_fewer(world):
    few, more = (ShapesBenchmark(world=world, prompts_per_kind=num).prompts() for num in (2, 4))
    assert set(few) <= set(more)


def test_prompts_are_never_trained_on(world):
    rng = np.random.default_rng(5)
    trained = {world.sample(kind, rng, "train")[0] for kind in KINDS for _ in range(60)}
    assert trained.isdisjoint(one.prompt for one in ShapesBenchmark(world=world, prompts_per_kind=4).prompts())


def test_prompts_are_distinct_where_there_are_enough(world):
    prompts = ShapesBenchmark(world=world, prompts_per_kind=8).prompts()
    assert len({one.prompt for one in prompts if one.kind == "color_attribution"}) == 8


def test_no_prompts_is_refused(world):
    with pytest.raises(ValueError, match="prompts_per_kind"):
        ShapesBenchmark(world=world, prompts_per_kind=0).prompts()
