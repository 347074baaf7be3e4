"""What an arm of an experiment reads of a stored trajectory: one data set serves them all."""

from dataclasses import replace

from brushwork.tokens.trajectory import Draft, Step, Trajectory


def process(trajectory: Trajectory) -> Trajectory:
    """All of it: plan, sketch, inspection, refinement."""
    return trajectory


def single_pass(trajectory: Trajectory) -> Trajectory:
    """The prompt and the final image, nothing in between.

    Raises:
        ValueError: the trajectory holds no image.
    """
    answer = Step(plan=None, drafts=(Draft(image=trajectory.final_image),))
    return replace(trajectory, steps=(answer,))


def text_plan(trajectory: Trajectory) -> Trajectory:
    """All plans in text, then the final image: the control for what the drafts add to the words.

    Raises:
        ValueError: the trajectory holds no image.
    """
    answer = (Draft(image=trajectory.final_image),)
    *before, last = trajectory.steps
    return replace(trajectory, steps=(*(replace(step, drafts=()) for step in before), replace(last, drafts=answer)))


def no_critique(trajectory: Trajectory) -> Trajectory:
    """Plans and the accepted draft of each step: no inspection, no flawed draft."""
    return replace(trajectory, steps=tuple(map(_accepted, trajectory.steps)))


def _accepted(step: Step) -> Step:
    return replace(step, drafts=tuple(Draft(image=draft.image) for draft in step.drafts[-1:]))
