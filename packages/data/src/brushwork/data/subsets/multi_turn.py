"""Multi-turn generation: a scene drawn step by step, with detours, and with planted flaws found and mended on the way.

The paper's first subset: scene graph → nested sub-graphs → incremental prompts, diversified by edit operations.
"""

from collections.abc import Sequence
from functools import partial

from brushwork.critic.scene import SceneGraph
from brushwork.data.augment import Augmentation, Edit, everyday, straight
from brushwork.data.subsets.drawing import EMPTY, Drawing, last_image, share
from brushwork.data.subsets.flaws import plant
from brushwork.data.tasks import Reject, Task, attempt
from brushwork.data.worlds.staging import proposer
from brushwork.tokens.trajectory import Draft, Plan, Step, Trajectory


def multi_turn(
    tasks: Sequence[Task], *, drawing: Drawing, flaw_rate: float = 0.0, augmentation: Augmentation | None = None
) -> list[Trajectory | Reject]:
    """One trajectory a task: a step for each object, in the prompt's order.

    Args:
        tasks: with scenes.
        drawing: words, pictures and inspections.
        flaw_rate: probability that a step's first draft has an error, which its inspection names and the next draft
            mends; above 0 it needs a world and `drawing.critique`.
        augmentation: detours by the operations refine, remove and swap. None adds objects straight.

    Returns:
        In `meta`: subset, kind, split, plan, what the source said, the kinds of the flaws, and the operations.

    Raises:
        ValueError: a flaw rate outside 0 to 1, or flaws that nobody would find.
    """
    if not 0 <= flaw_rate <= 1 or (flaw_rate and not drawing.critique):
        raise ValueError(f"flaw_rate={flaw_rate}: expected 0 to 1, and above 0 a world and drawing.critique=true")
    return [attempt(task, partial(_drawn, drawing, flaw_rate, augmentation)) for task in tasks]


def _drawn(drawing: Drawing, flaw_rate: float, augmentation: Augmentation | None, task: Task) -> Trajectory:
    steps: list[Step] = []
    flaws: list[str] = []
    operations: list[str] = []
    scene = EMPTY
    for edits in way(drawing, task, augmentation):
        plan, scene = drawing.words(scene, edits), applied(scene, edits)
        flawed = flawed_draft(drawing, steps, plan, scene, task) if share(task.rng, flaw_rate) else None
        right = drawing.right(last_image(steps), plan, scene, task)
        flaws += [flawed[0]] if flawed else []
        operations += [edit.operation for edit in edits]
        steps.append(Step(plan=plan, drafts=(flawed[1], right) if flawed else (right,)))
    return trajectory(task, steps, "multi_turn", plan=drawing.plan, flaws=flaws, operations=operations)


def way(drawing: Drawing, task: Task, augmentation: Augmentation | None) -> list[list[Edit]]:
    """The edits of each step from an empty canvas to the task's scene."""
    stages = drawing.stages(task)
    if augmentation is None:
        return [straight(before, after) for before, after in zip((EMPTY, *stages), stages, strict=False)]
    world = drawing.world
    propose = proposer(world, task.split, task.rng) if world is not None else partial(everyday, rng=task.rng)
    return augmentation(stages, task.rng, propose, max_images=drawing.max_images)


def applied(scene: SceneGraph, edits: Sequence[Edit]) -> SceneGraph:
    """The scene after all of the edits."""
    for edit in edits:
        scene = edit(scene)
    return scene


def flawed_draft(
    drawing: Drawing, steps: Sequence[Step], plan: Plan, scene: SceneGraph, task: Task
) -> tuple[str, Draft] | None:
    """A draft of the next step with one planted error, inspected, and the kind of the error; None where none fits."""
    assert drawing.world is not None, "checked by the caller"
    flaw = plant(drawing.world, drawing.said(scene), scene, task.rng, split=task.split)
    if flaw is None:
        return None
    image = drawing.edit(last_image(steps), plan.instruction, flaw.scene, task)
    return flaw.kind, Draft(image=image, inspection=drawing.inspect(drawing.said(scene), image), flawed=True)


def trajectory(
    task: Task, steps: Sequence[Step], subset: str, *, finished: bool = True, goes_on: bool = False, **meta: object
) -> Trajectory:
    """The steps as a sample; the build gives it its key."""
    known = {"kind": task.kind, "subset": subset, "split": task.split, **task.meta, **meta}
    return Trajectory(key="new", prompt=task.prompt, steps=tuple(steps), finished=finished, goes_on=goes_on, meta=known)


def plans_of(steps: Sequence[Step]) -> list[Plan]:
    """The plans of some steps."""
    return [step.plan for step in steps if step.plan is not None]
