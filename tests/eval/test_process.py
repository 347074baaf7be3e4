"""Step-level metrics on an example worked out by hand."""

import math
import warnings

import pytest
import torch

from brushwork.eval.process import InspectionQuality, process_metrics
from brushwork.eval.verdicts import ScoredDraft, ScoredTrajectory


def row(*drafts: tuple[int, bool | None, bool | None]) -> ScoredTrajectory:
    """A trajectory of (step, accepts, shows_plan)."""
    scored = [
        ScoredDraft(step=step, draft=0, accepts=accepts, shows_plan=shows, satisfies_prompt=None)
        for step, accepts, shows in drafts
    ]
    known = {
        "key": "k",
        "prompt": "p",
        "kind": "colors",
        "seed": 0,
        "passed": True,
        "score": 1.0,
        "reason": "",
        "judge": "",
    }
    return ScoredTrajectory(**known, drafts=tuple(scored))


ROWS = [
    row((0, False, False), (0, True, True), (1, True, False)),  # flagged rightly and mended; then a wrong one accepted
    row((0, False, True), (0, True, False)),  # flagged wrongly and spoilt; the spoilt one accepted
    row((0, False, False), (0, False, False), (0, True, True)),  # mended at the second attempt
    row((0, None, False)),  # not inspected
    row((0, True, None)),  # the judge could not say
    row((0, False, False), (1, True, True)),  # flagged, but the next draft belongs to another step
]


def test_worked_example():
    metrics = process_metrics(ROWS)
    inspection = metrics["inspection"]
    assert (inspection["drafts"], inspection["wrong"], inspection["flagged"]) == (10, 6, 5)
    assert inspection["precision"] == pytest.approx(4 / 5)
    assert inspection["recall"] == pytest.approx(4 / 6)
    assert inspection["f1"] == pytest.approx(8 / 11)
    assert metrics["refine_success"] == {"rate": pytest.approx(2 / 3), "mended": 2, "refined_wrong": 3}
    assert metrics["over_correction"] == {"rate": 1, "spoilt": 1, "refined_right": 1}


def test_an_arm_without_inspections_has_zero_counts_and_no_rates():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = process_metrics([row((0, None, None))])
    assert metrics["inspection"]["drafts"] == 0 and math.isnan(metrics["inspection"]["recall"])
    assert math.isnan(metrics["refine_success"]["rate"]) and math.isnan(metrics["over_correction"]["rate"])


def test_updates_add_up():
    flagged, wrong = torch.rand(2, 40) < 0.5
    whole, parts = InspectionQuality(), InspectionQuality()
    whole.update(flagged, wrong)
    for start in range(0, 40, 7):
        parts.update(flagged[start : start + 7], wrong[start : start + 7])
    assert whole.compute() == parts.compute()
