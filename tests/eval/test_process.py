"""Step-level metrics on examples worked out by hand, and merged over halves and processes."""

import json
import math
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace

import pytest

from brushwork.eval.answers import FinalOutcome, Retention
from brushwork.eval.counting import MAX_STEPS, as_floats
from brushwork.eval.process import METRICS, PlanAgreement, Survival, is_right, process_metrics
from brushwork.eval.verdicts import VERDICTS_FILE, ScoredDraft, ScoredPlan, ScoredTrajectory, write_verdicts


def draft(step: int = 0, **known: object) -> ScoredDraft:
    return ScoredDraft(
        **{"step": step, "draft": 0, "accepts": None, "shows_plan": None, "satisfies_prompt": None, **known}
    )


def trajectory(drafts: Sequence[ScoredDraft] = (), **known: object) -> ScoredTrajectory:
    plain = {
        "key": "k",
        "prompt": "p",
        "kind": "colors",
        "seed": 0,
        "passed": True,
        "score": 1.0,
        "reason": "",
        "judge": "",
    }
    return ScoredTrajectory(**{**plain, **known}, drafts=tuple(drafts), rounds=len(drafts))


def row(*drafts: tuple[int, bool | None, bool | None]) -> ScoredTrajectory:
    """A trajectory of (step, accepts, shows_plan)."""
    return trajectory([draft(step, accepts=accepts, shows_plan=shows) for step, accepts, shows in drafts])


def planned(*consistent: bool | None) -> ScoredTrajectory:
    """A trajectory whose plans were read like this."""
    return trajectory(plans=tuple(ScoredPlan(step=step, consistent=one) for step, one in enumerate(consistent)))


def answered(*satisfies: bool | None) -> ScoredTrajectory:
    """A trajectory whose drafts would be such answers."""
    return trajectory([draft(satisfies_prompt=one) for one in satisfies])


def kept(*objects: tuple[int, int | None, int | None]) -> ScoredTrajectory:
    """A trajectory of (step, stood, survived)."""
    return trajectory([draft(step, stood=stood, survived=survived) for step, stood, survived in objects])


ROWS = [
    row((0, False, False), (0, True, True), (1, True, False)),  # flagged rightly and mended; then a wrong one accepted
    row((0, False, True), (0, True, False)),  # flagged wrongly and spoilt; the spoilt one accepted
    row((0, False, False), (0, False, False), (0, True, True)),  # mended at the second attempt
    row((0, None, False)),  # not inspected
    row((0, True, None)),  # the judge could not say
    row((0, False, False), (1, True, True)),  # flagged, but the next draft belongs to another step
]
MIXED = [
    *ROWS,
    planned(True, False, None),
    planned(True, True),
    planned(None),
    answered(False, True, False, True),
    answered(True, None),
    kept((0, None, None), (0, 3, 2), (1, 4, 4)),
    trajectory(passed=False, score=0.0),
    trajectory([draft()] * 3, passed=False, score=0.25, unfinished=True),
]


def test_inspections_and_refinements():
    metrics = process_metrics(ROWS)
    inspection = metrics["inspection"]
    assert (inspection["drafts"], inspection["wrong"], inspection["flagged"]) == (10, 6, 5)
    assert inspection["precision"] == pytest.approx(4 / 5)
    assert inspection["recall"] == pytest.approx(4 / 6)
    assert inspection["f1"] == pytest.approx(8 / 11)
    assert metrics["refine_success"] == {"rate": pytest.approx(2 / 3), "mended": 2, "refined_wrong": 3}
    assert metrics["over_correction"] == {"rate": 1, "spoilt": 1, "refined_right": 1}


def test_without_plans_the_prompt_says_which_drafts_are_right():
    """As in a row that drafts, inspects and mends: wrong and mended, then a right one that is spoilt and accepted."""
    drawn = [
        trajectory([draft(accepts=False, satisfies_prompt=False), draft(accepts=True, satisfies_prompt=True)], steps=1),
        trajectory([draft(accepts=False, satisfies_prompt=True), draft(accepts=True, satisfies_prompt=False)], steps=1),
    ]
    metrics = process_metrics(drawn)
    assert [metrics["inspection"][name] for name in ("drafts", "wrong", "flagged", "flagged_wrong")] == [4, 2, 2, 1]
    assert metrics["refine_success"] == {"rate": 1, "mended": 1, "refined_wrong": 1}
    assert metrics["over_correction"] == {"rate": 1, "spoilt": 1, "refined_right": 1}


@pytest.mark.parametrize(
    "planned",
    [
        {"plans": (ScoredPlan(step=0, consistent=None),)},
        {"steps": 2},
        {"drafts": (draft(satisfies_prompt=False, reason="cannot read the plan"),)},
    ],
)
def test_with_plans_the_prompt_says_nothing_of_a_draft(planned):
    row = replace(trajectory([draft(satisfies_prompt=False)]), **planned)
    assert is_right(row, row.drafts[0]) is None
    assert is_right(row, draft(shows_plan=True, satisfies_prompt=False)) is True


def test_plans_that_keep_to_the_prompt():
    rows = [planned(True, False, None, None), planned(True, True, True), planned(None, None), planned()]
    assert process_metrics(rows)["plan_consistency"] == {
        "rate": pytest.approx(4 / 5),
        "clean_rate": 1 / 2,
        "plans": 5,
        "consistent": 4,
        "trajectories": 2,
        "clean": 1,
    }


def test_drafts_that_show_their_plans_step_by_step():
    # Step 1: the first draft is right in the second row alone, the last one in the first and the third. Step 2: 1 of 2.
    agreement = process_metrics(ROWS)["plan_agreement"]
    assert agreement == {
        "first_rate": pytest.approx(2 / 7),
        "last_rate": pytest.approx(3 / 7),
        "first_rate_step_1": pytest.approx(1 / 5),
        "first_rate_step_2": pytest.approx(1 / 2),
        "first_drafts_step_1": 5,
        "first_drafts_step_2": 2,
        "last_rate_step_1": pytest.approx(2 / 5),
        "last_rate_step_2": pytest.approx(1 / 2),
        "last_drafts_step_1": 5,
        "last_drafts_step_2": 2,
    }


def test_the_last_entry_holds_all_later_steps():
    metric = PlanAgreement()
    metric.update([row(*((step, True, True) for step in range(MAX_STEPS + 3)))])
    assert metric.compute()["first_drafts_step"].tolist() == [1] * (MAX_STEPS - 1) + [4]


def test_objects_that_stay_step_by_step():
    survival = process_metrics([kept((0, None, None), (0, 2, 1), (1, 3, 3)), kept((0, None, None), (1, 1, 0))])[
        "survival"
    ]
    assert survival == {
        "rate": pytest.approx(4 / 6),
        "stood": 6,
        "survived": 4,
        "rate_step_1": 1 / 2,
        "rate_step_2": 3 / 4,
        "stood_step_1": 2,
        "stood_step_2": 4,
    }


def test_a_step_without_objects_between_others_is_not_known():
    found = Survival()
    found.update([kept((0, None, None), (2, 1, 1))])
    values = as_floats(found.compute())
    assert math.isnan(values["rate_step_2"]) and values["rate_step_3"] == 1 and "rate_step_4" not in values


def test_answers_that_are_kept_and_lost():
    rows = [
        answered(False, True, True),  # reached and kept
        answered(True, False),  # lost: a regression
        answered(True, False, True, False, True),  # lost twice, and found again
        answered(False, False),  # never reached
        answered(True, None),  # not judged throughout
        answered(True),
        trajectory(),
    ]
    assert process_metrics(rows)["retention"] == {
        "rate": pytest.approx(3 / 4),
        "first_rate": pytest.approx(3 / 5),
        "peak_rate": pytest.approx(4 / 5),
        "final_rate": pytest.approx(3 / 5),
        "regression_rate": pytest.approx(3 / 4),
        "lost": 1,
        "trajectories": 5,
        "first": 3,
        "peak": 4,
        "final": 3,
        "passing": 4,
        "regressions": 3,
    }


def test_without_verdicts_on_the_way_nothing_is_said_of_retention():
    found = Retention()
    found.update([answered(None, None, True)])
    assert found.compute()["trajectories"] == 0


def test_each_trajectory_has_one_end():
    image = [draft()]
    rows = [
        trajectory(image),
        trajectory(image),
        trajectory(image, passed=False, unfinished=True),
        trajectory(image, passed=False, unfinished=False),
        trajectory(image, passed=False),  # a judge that does not tell
        trajectory(passed=False),
        trajectory(image, passed=None, score=None, failure="the endpoint is down"),
        trajectory(passed=None, score=None, failure="unreadable"),
    ]
    found = process_metrics(rows)["outcome"]
    ends = {"passed": 2, "unfinished": 1, "wrong": 2, "no_image": 1, "unjudged": 2}
    assert found == {"trajectories": 8, **ends, **{f"{name}_rate": number / 8 for name, number in ends.items()}}


def test_scores_by_rounds():
    one, three = [draft()], [draft()] * 3
    rows = [
        trajectory(one, score=1.0),
        trajectory(one, score=0.5),
        trajectory(three, score=0.25),
        trajectory(score=0.0),
    ]
    rows.append(trajectory(three, passed=None, score=None))
    found = process_metrics(rows)["rounds"]
    assert [found[f"score_rounds_{number}"] for number in (1, 3)] == [0.75, 0.25]
    assert [found[f"answers_rounds_{number}"] for number in (1, 2, 3)] == [2, 0, 1]
    assert math.isnan(found["score_rounds_2"])


def test_an_arm_of_which_nothing_is_known_has_zero_counts_and_no_rates():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = process_metrics([])
    for name, found in metrics.items():
        for key, value in found.items():
            rate = key in ("precision", "recall", "f1") or key.endswith("rate")
            assert math.isnan(value) if rate else value == 0, (name, key)


def test_what_is_computed_does_not_change_with_later_updates():
    found = FinalOutcome()
    found.update(ROWS)
    before = found.compute()
    found.update(ROWS)
    assert (before["trajectories"], found.compute()["trajectories"]) == (len(ROWS), 2 * len(ROWS))


@pytest.mark.parametrize("name", METRICS)
def test_halves_merge_to_the_whole(name):
    whole, first, second = (METRICS[name]() for _ in range(3))
    whole.update(MIXED)
    first.update(MIXED[::2])
    second.update(MIXED[1::4])
    second.update(MIXED[3::4])
    first.merge_state(second)
    assert as_floats(first.compute()) == pytest.approx(as_floats(whole.compute()), nan_ok=True)


RANK = """
import json, sys
from pathlib import Path
import torch.distributed
from brushwork.eval.process import process_metrics
from brushwork.eval.verdicts import VERDICTS_FILE, read_verdicts

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
found = process_metrics(read_verdicts(folder / VERDICTS_FILE)[rank::2])
(folder / f"{rank}.json").write_text(json.dumps(found))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_numbers_of_all_rows(tmp_path):
    write_verdicts(MIXED, tmp_path / VERDICTS_FILE)
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)]) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name, values in process_metrics(MIXED).items():
            assert found[name] == pytest.approx(values, nan_ok=True), name
