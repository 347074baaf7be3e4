"""Planted flaws: a draft is inspected after what stood before it, and the data say which answers are right."""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from brushwork.eval.planted import inspected_drafts, planted_quality
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory

ACCEPTS, OBJECTS = Inspection(draft_check="yes"), Inspection(draft_check="no", refine="mend it")
PLAN = Plan(instruction="add a circle", description="a circle")


def draft(inspection: Inspection | None, level: int = 0) -> Draft:
    return Draft(image=np.full((8, 8, 3), level, np.uint8), inspection=inspection)


FLAWED = Trajectory(
    key="flawed",
    prompt="a circle",
    steps=(Step(plan=PLAN, drafts=(draft(ACCEPTS),)), Step(plan=PLAN, drafts=(draft(OBJECTS, 1), draft(ACCEPTS, 2)))),
)
CLEAN = Trajectory(key="clean", prompt="a circle", steps=(Step(plan=PLAN, drafts=(draft(ACCEPTS), draft(None))),))


def test_a_draft_is_asked_as_it_was_new():
    places = [
        (so_far.key, [len(step.drafts) for step in so_far.steps], so_far.finished, known.accepts)
        for so_far, known in inspected_drafts([FLAWED, CLEAN])
    ]
    assert places == [
        ("flawed", [1], False, True),
        ("flawed", [1, 1], False, False),
        ("flawed", [1, 2], False, True),
        ("clean", [1], False, True),
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_answers_are_counted_by_the_datas_own(batch_size):
    """It objects to the flawed draft and to one that is right."""
    sizes = []

    def inspect(trajectories: Sequence[Trajectory]) -> list[tuple[Inspection, float]]:
        sizes.append(len(trajectories))
        objects = [one.steps[-1].drafts[-1].image.max() == 1 or one.key == "clean" for one in trajectories]
        return [(OBJECTS if yes else ACCEPTS, 0.5) for yes in objects]

    found = planted_quality(inspect, [FLAWED, CLEAN], batch_size=batch_size)
    assert sum(sizes) == 4 and max(sizes) <= batch_size
    assert found == {
        "drafts": 4, "wrong": 1, "flagged": 2, "flagged_wrong": 1, "precision": 0.5, "recall": 1.0, "f1": 2 / 3,
    }  # fmt: skip


def test_nothing_to_inspect_tells_nothing():
    found = planted_quality(lambda trajectories: [], [])
    assert found["precision"] is found["recall"] is found["f1"] is None and found["drafts"] == 0


@pytest.mark.parametrize("segmenter", ["context: blank", "context: both\n  history: last", "context: latent"])
def test_a_model_that_reads_drafts_in_its_own_way_is_refused(tmp_path, monkeypatch, segmenter):
    for row, settings in (("all_subsets", "context: both\n  history: full"), ("no_image_feedback", segmenter)):
        (tmp_path / row / "seed-0" / "model").mkdir(parents=True)
        (tmp_path / row / "seed-0" / "fit.yaml").write_text(f"segmenter:\n  {settings}\n")
    out = tmp_path / "results"
    options = ["--runs", str(tmp_path), "--rows", "all_subsets", "no_image_feedback", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["inspection.py", *options])
    with pytest.raises(ValueError, match=r"no_image_feedback.seed-0 was trained with segmenter"):
        runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "inspection.py"), run_name="__main__")
    assert not out.exists(), "before any model is measured"
