"""What a failed answer is blamed on: the first wrong step, and plan, inspection or refinement in it."""

from dataclasses import replace

import pytest

from brushwork.eval.failures import count_faults, first_fault
from brushwork.eval.verdicts import ScoredDraft, ScoredPlan, ScoredTrajectory

FAILED = ScoredTrajectory(
    key="a", prompt="two circles", kind="counting", seed=0, passed=False, score=0.0, reason="", judge="oracle 1"
)


def draft(step: int, number: int, shows: bool | None, accepts: bool | None, passes: bool = False) -> ScoredDraft:
    return ScoredDraft(step=step, draft=number, accepts=accepts, shows_plan=shows, satisfies_prompt=passes)


def plans(*consistent: bool | None) -> tuple[ScoredPlan, ...]:
    return tuple(ScoredPlan(step=step, consistent=one) for step, one in enumerate(consistent))


RIGHT = draft(0, 0, True, True)


@pytest.mark.parametrize(
    ("plans", "drafts", "unfinished", "fault"),
    [
        (plans(True, False), (RIGHT, draft(1, 0, True, True)), False, ("plan", 1)),
        (plans(False, None), (draft(0, 0, False, True),), False, ("plan", 0)),
        (plans(True, True), (RIGHT, draft(1, 0, False, True)), False, ("accepted", 1)),
        (plans(True), (draft(0, 0, False, False), draft(0, 1, False, True)), False, ("not_mended", 0)),
        (plans(True), (draft(0, 0, False, False),), False, ("not_mended", 0)),
        (plans(True, True), (draft(0, 0, False, None), draft(1, 0, True, None)), False, ("uninspected", 0)),
        ((), (draft(0, 0, None, None),), False, ("uninspected", 0)),
        ((), (draft(0, 0, None, False), draft(0, 1, None, True)), False, ("not_mended", 0)),
        ((), (draft(0, 0, None, True),), False, ("accepted", 0)),
        (plans(True), (draft(0, 0, False, False), draft(0, 1, True, True)), True, ("stopped", 0)),
        (plans(True, False), (RIGHT,), True, ("plan", 1)),
        ((), (), None, ("stopped", 0)),
        (plans(True), (RIGHT,), False, ("unexplained", 0)),
        (plans(None), (draft(0, 0, None, True),), False, ("unexplained", 0)),
    ],
)
def test_the_first_wrong_step_is_blamed(plans, drafts, unfinished, fault):
    assert first_fault(replace(FAILED, plans=plans, drafts=drafts, unfinished=unfinished)) == fault


def test_a_wrong_step_counts_though_a_later_plan_is_wrong_too():
    row = replace(FAILED, plans=plans(True, False), drafts=(draft(0, 0, False, True), draft(1, 0, False, True)))
    assert first_fault(row) == ("accepted", 0)


def test_what_passed_or_was_not_judged_has_no_fault():
    for passed in (True, None):
        assert first_fault(replace(FAILED, passed=passed, drafts=(draft(0, 0, False, True),))) is None


def test_faults_are_counted_by_kind_cause_and_step():
    second = replace(FAILED, plans=plans(True, True), drafts=(RIGHT, draft(1, 0, False, True)))
    first = replace(FAILED, plans=plans(True), drafts=(draft(0, 0, False, True),))
    rows = [second, second, first, replace(FAILED, kind="colors"), replace(FAILED, passed=True)]
    assert count_faults(rows) == {"counting": {"accepted": [1, 2]}, "colors": {"stopped": [1]}}
