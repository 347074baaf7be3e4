"""Trajectories that people edited, passed on as supervision: what somebody wrote or painted is to be learnt."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from brushwork.data.subsets.multi_turn import trajectory
from brushwork.data.tasks import Reject, Task, Unfit, attempt
from brushwork.data.worlds.held_out import asks_for_held_out
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.tokens.trajectory import Draft, Step, Trajectory


def edited(tasks: Sequence[Task], *, world: ShapesWorld | None = None) -> list[Trajectory | Reject]:
    """Each task's own trajectory, whoever wrote its parts, with what is to be learnt of it.

    * A draft that its inspection refuses is context, as in all subsets: nobody is to draw it so.
    * The end is learnt where the trajectory came to one by itself. It did not where somebody stopped it, a limit cut it
      off, or its last draft is refused; plans behind the last picture are left away, since nothing shows them.

    Args:
        tasks: with `drawn`, from `EditedSource`.
        world: whose held-out combinations no prompt may ask for, as they are what its benchmark asks for; None where
            there is none.

    Returns:
        In `meta`: subset, kind, split, all that the export said, its file and key, and how many
        plans were left away, if any.
    """
    return [attempt(task, partial(_passed_on, world)) for task in tasks]


def _passed_on(world: ShapesWorld | None, task: Task) -> Trajectory:
    drawn = task.drawn
    if drawn is None:
        raise Unfit("the task has no trajectory: expected tasks of source=edited")
    if not task.prompt.strip():
        raise Unfit("the prompt is empty")
    if world is not None and asks_for_held_out(world, task.prompt):
        raise Unfit("the world holds it out: its benchmark asks for such prompts")
    shown = max((number for number, step in enumerate(drawn.steps, 1) if step.drafts), default=0)
    if not shown:
        raise Unfit("there is no picture")
    _check(drawn.steps[:shown])
    steps = [replace(step, drafts=tuple(map(_learnt, step.drafts))) for step in drawn.steps[:shown]]
    by_itself = drawn.finished and drawn.meta.get("stopped", "end") == "end"
    known = shown == len(drawn.steps) and not _refused(steps[-1].drafts[-1])  # what follows the last draft
    left_away = {"plans_left_away": len(drawn.steps) - shown} if shown < len(drawn.steps) else {}
    finished, goes_on = known and by_itself, known and drawn.goes_on
    return trajectory(task, steps, "edited", finished=finished, goes_on=goes_on, **left_away)


def _check(steps: Sequence[Step]) -> None:
    """Raises Unfit where parts stand in an order that no trajectory has: none could be sampled so."""
    for number, step in enumerate(steps):
        if step.plan is None and number:
            raise Unfit("the order is wrong: a round without a plan stands behind another one")
        if not all(map(_refused, step.drafts[:-1])):
            raise Unfit("the order is wrong: a draft follows one that is not refused")
        if step.drafts and _refused(step.drafts[-1]) and number + 1 < len(steps):
            raise Unfit("the order is wrong: a plan follows a draft that is refused")


def _refused(draft: Draft) -> bool:
    return draft.inspection is not None and not draft.inspection.accepts


def _learnt(draft: Draft) -> Draft:
    return replace(draft, flawed=draft.flawed or _refused(draft))
