"""Where failed trajectories go wrong first: in which step, and whether by plan, inspection or refinement."""

from collections.abc import Iterable
from itertools import groupby

from brushwork.eval.process import is_right
from brushwork.eval.verdicts import ScoredDraft, ScoredTrajectory

CAUSES = ("plan", "accepted", "not_mended", "uninspected", "stopped", "unexplained")
"""What goes wrong first, see `first_fault`."""


def first_fault(row: ScoredTrajectory) -> tuple[str, int] | None:
    """What went wrong first in an answer that failed, and the number of its step, from 0.

    The cause is one of `CAUSES`, by the first step with a plan that contradicts the prompt ("plan") or whose last draft
    is wrong, see `is_right`: none of the step's inspections objected ("accepted"), one did and redrawing did not help
    ("not_mended"), or there was none ("uninspected"), as in a single pass, which has no plans either. Where all steps
    are right, the answer lacks something or has no image ("stopped"), or the judges do not tell ("unexplained"); the
    step is then the last.

    Returns:
        Cause and step; None for an answer that passed or has no verdict.
    """
    if row.passed is not False:
        return None
    astray = {plan.step for plan in row.plans if plan.consistent is False}
    last = 0
    for last, of_step in groupby(row.drafts, key=lambda draft: draft.step):
        drafts = list(of_step)
        before = [step for step in astray if step <= last]
        if before:
            return "plan", min(before)
        if is_right(row, drafts[-1]) is False:
            return blame(drafts), last
    if astray:
        return "plan", min(astray)
    return "stopped" if row.unfinished or not row.drafts else "unexplained", last


def blame(drafts: list[ScoredDraft]) -> str:
    """Why the drafts of a step ended with a wrong one."""
    if any(draft.accepts is False for draft in drafts):
        return "not_mended"
    return "uninspected" if drafts[-1].accepts is None else "accepted"


def count_faults(rows: Iterable[ScoredTrajectory]) -> dict[str, dict[str, list[int]]]:
    """Kind → cause → how many answers failed by it in the 1st, 2nd, … step; causes without any are left out."""
    found: dict[str, dict[str, list[int]]] = {}
    for row in rows:
        fault = first_fault(row)
        if fault is not None:
            cause, step = fault
            by_step = found.setdefault(row.kind, {}).setdefault(cause, [])
            by_step += [0] * (step + 1 - len(by_step))
            by_step[step] += 1
    return found
