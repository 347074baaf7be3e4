"""Splits and parts: every record is in one of each, by its words and its number."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brushwork.data.sources.division import SPLITS, check_fractions, divide, label, split_of
from brushwork.data.tasks import Reject, Task


def task(record: str, rng: np.random.Generator, split: str) -> Task | Reject:
    return Task(prompt=record, split=split, rng=rng) if record else Reject(prompt="", reason="empty")


def drawn(records: list[str], split: str, part: int = 0, parts: int = 1, seed: int = 0) -> Iterator[Task | Reject]:
    return divide(
        ((record, record) for record in records), partial(task, split=split),
        split=split, part=part, parts=parts, seed=seed, held_out=0.3, held_out_val=0.3,
    )  # fmt: skip


@given(st.lists(st.text("ab \u00e9\ud800", max_size=4), max_size=12), st.integers(1, 4))
@settings(max_examples=60)
def test_every_record_is_in_one_part_of_one_split(records, parts):
    found = [one.prompt for s in SPLITS for part in range(parts) for one in drawn(records, s, part, parts)]
    assert sorted(found) == sorted(records)
    for split in SPLITS:
        whole = [one.prompt for one in drawn(records, split)]
        for part in range(parts):
            assert [one.prompt for one in drawn(records, split, part, parts)] == whole[part::parts]


def test_the_split_of_words():
    prompts = [f"prompt {number}" for number in range(4000)]
    splits = [split_of(prompt, 0.2, 0.1) for prompt in prompts]
    shares = [splits.count(split) / 4000 for split in ("test", "val")]
    assert shares == pytest.approx([0.2, 0.1], abs=0.02)
    assert splits == [split_of(f"  PROMPT\n {number} ", 0.2, 0.1) for number in range(4000)]
    assert {split_of(prompt, 0.0, 0.0) for prompt in prompts} == {"train"}


def test_randomness_depends_on_seed_split_part_and_number():
    records = [f"prompt {number}" for number in range(60)]
    draws = [
        [one.rng.integers(1 << 40) for one in drawn(records, split, part, 2, seed) if isinstance(one, Task)]
        for split in SPLITS for part in range(2) for seed in (0, 0, 1)
    ]  # fmt: skip
    flat = [number for numbers in draws for number in numbers]
    assert draws[0] == draws[1] and len(set(flat)) == 120 and len(flat) == 180


def test_rejects_are_logged(caplog):
    assert [one.prompt for split in SPLITS for one in drawn([""], split)] == [""]
    assert "rejected {}: empty" in caplog.text


@pytest.mark.parametrize(("split", "part", "parts"), [("all", 0, 1), ("train", 1, 1), ("train", -1, 2)])
def test_no_such_part(split, part, parts):
    with pytest.raises(ValueError, match="expected one of"):
        drawn([], split, part, parts)


@pytest.mark.parametrize("fractions", [(-0.1, 0.0), (0.5, 0.5), (float("nan"), 0.1)])
def test_fractions_leave_something_for_training(fractions):
    with pytest.raises(ValueError, match="expected fractions"):
        check_fractions(*fractions)


def test_labels_are_harmless():
    assert label("../../etc/x y\x00\ud800") == "_etc_x_y_" and len(label("a" * 900)) == 80
