"""Image-instruction alignment: good and bad drafts of a plan, with what is wrong and how to mend it.

The paper's third subset, from Gen-Ref's pairs of pictures, and from the embedded world.
"""

from collections.abc import Callable, Sequence
from functools import partial

from brushwork.data.subsets.drawing import EMPTY, Drawing, last_image, share
from brushwork.data.subsets.multi_turn import applied, flawed_draft, trajectory, way
from brushwork.data.tasks import Reject, Task, Unfit, attempt
from brushwork.tokens.roles import NoAnswer
from brushwork.tokens.trajectory import Draft, Image, Inspection, Plan, Step, Trajectory

Inspector = Callable[[str, Sequence[Plan], Image, str], Inspection | NoAnswer]
"""(prompt, no plans, picture, reflection) to the inspection that a model should write, such as `LLMInspector`."""
SHOWN = "the draft shows the prompt"


def planted_alignment(
    tasks: Sequence[Task], *, drawing: Drawing, positives: float = 1 / 3
) -> list[Trajectory | Reject]:
    """A whole drawing a task: a "negative" has one draft with a planted error, a "positive" none.

    Args:
        tasks: with scenes of the embedded world.
        drawing: with a world and `critique`.
        positives: share of tasks that stay without error, before the build balances the classes.

    Raises:
        ValueError: no world or no critique.
    """
    if drawing.world is None or not drawing.critique:
        raise ValueError("alignment in the embedded world needs drawing.world and drawing.critique=true")
    return [attempt(task, partial(_planted, drawing, positives)) for task in tasks]


def _planted(drawing: Drawing, positives: float, task: Task) -> Trajectory:
    steps: list[Step] = []
    edits_of_steps, scene = way(drawing, task, None), EMPTY
    wrong = None if share(task.rng, positives) else int(task.rng.integers(len(edits_of_steps)))
    for number, edits in enumerate(edits_of_steps):
        plan, scene = drawing.words(scene, edits), applied(scene, edits)
        right = drawing.right(last_image(steps), plan, scene, task)
        flawed = flawed_draft(drawing, steps, plan, scene, task) if number == wrong else None
        if number == wrong and flawed is None:
            raise Unfit("no error fits the scene")
        steps.append(Step(plan=plan, drafts=(flawed[1], right) if flawed else (right,)))
    return trajectory(task, steps, "alignment", label="positive" if wrong is None else "negative", plan=drawing.plan)


def reflected_alignment(
    tasks: Sequence[Task], *, inspect: Inspector | None = None, positives: float = 1 / 3
) -> list[Trajectory | Reject]:
    """Two pictures of a prompt: the good one accepted ("positive"), or the bad one first, with its reflection.

    Args:
        tasks: with pairs, from `GenRefSource`.
        inspect: turns a reflection into an analysis and a refinement instruction; None takes the reflection for both.
        positives: share of tasks of which only the good picture is shown.
    """
    return [attempt(task, partial(_reflected, inspect, positives)) for task in tasks]


def _reflected(inspect: Inspector | None, positives: float, task: Task) -> Trajectory:
    if task.pair is None:
        raise Unfit("the task has no pair of pictures: expected tasks of source=genref")
    # Gen-Ref has prompts and no plans: the prompt is drawn in one step.
    plan = Plan(instruction=task.prompt, description=task.prompt)
    good = Draft(image=task.pair.good, inspection=Inspection(draft_check=SHOWN))
    if share(task.rng, positives):
        return trajectory(task, [Step(plan=plan, drafts=(good,))], "alignment", label="positive")
    reflection = task.pair.reflection
    said = inspect(task.prompt, (), task.pair.bad, reflection) if inspect else _verbatim(reflection)
    if isinstance(said, NoAnswer):
        raise Unfit(f"the inspector failed: {said.reason}", transient=said.transient)
    if said.accepts:
        raise Unfit("the inspector finds nothing wrong with the bad picture")
    bad = Draft(image=task.pair.bad, inspection=said, flawed=True)
    return trajectory(task, [Step(plan=plan, drafts=(bad, good))], "alignment", label="negative")


def _verbatim(reflection: str) -> Inspection:
    words = " ".join(reflection.split())
    if not words:
        raise Unfit("the bad picture has no reflection")
    return Inspection(draft_check="the draft does not show the prompt", refine=words)
