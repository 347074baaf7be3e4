"""How well a model's inspections find flaws that were planted: the same counts as on its own drafts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from brushwork.tokens.trajectory import Inspection, Trajectory

DraftInspector = Callable[[Sequence[Trajectory]], Sequence[tuple[Inspection, float]]]
"""Trajectories to an inspection of each one's last draft, and how sure it is, such as `SelfInspector.last_drafts`."""


def planted_quality(
    inspect: DraftInspector, trajectories: Iterable[Trajectory], *, batch_size: int = 64
) -> dict[str, int | float | None]:
    """Precision, recall and F1 of a model on drafts of a data set, the positive class being "there is a flaw".

    Args:
        inspect: the model.
        trajectories: with inspections, which say what is flawed; what stands before a draft is read with it.
        batch_size: drafts in one call.

    Returns:
        `precision`, `recall` and `f1`, None without a case, and the counts `drafts`, `wrong`, `flagged`,
        `flagged_wrong`, as `InspectionQuality` has them.
    """
    asked = inspected_drafts(trajectories)
    drafts = wrong = flagged = found = 0
    while batch := list(islice(asked, batch_size)):
        said = inspect([trajectory for trajectory, _ in batch])
        for (_, known), (inspection, _) in zip(batch, said, strict=True):
            drafts += 1
            wrong += not known.accepts
            flagged += not inspection.accepts
            found += not known.accepts and not inspection.accepts
    return {
        "precision": found / flagged if flagged else None,
        "recall": found / wrong if wrong else None,
        "f1": 2 * found / (flagged + wrong) if flagged + wrong else None,
        "drafts": drafts,
        "wrong": wrong,
        "flagged": flagged,
        "flagged_wrong": found,
    }


def inspected_drafts(trajectories: Iterable[Trajectory]) -> Iterator[tuple[Trajectory, Inspection]]:
    """The trajectory up to each draft that has an inspection, and that."""
    for trajectory in trajectories:
        for place, step in enumerate(trajectory.steps):
            for number, draft in enumerate(step.drafts):
                if draft.inspection is not None:
                    steps = (*trajectory.steps[:place], replace(step, drafts=step.drafts[: number + 1]))
                    yield replace(trajectory, steps=steps, finished=False), draft.inspection
