"""Instruction-intermediate conflict: does the plan fit the prompt? Plans with what is wrong and how to mend it.

The paper's second subset, by self-sampling (the model's own traces, read by a judge), and by symbolic correction of
scene graphs, its ablation. A "negative" holds a plan that contradicts its prompt, a "positive" does not.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from brushwork.critic.entailment import contradictions, planned_scene
from brushwork.critic.feedback import PLAN_ACCEPTED, plan_feedback
from brushwork.critic.scene import SceneGraph, SceneObject
from brushwork.critic.verdict import JudgeFailure, PlanCritic
from brushwork.data.augment import Edit, change
from brushwork.data.subgraphs import expand
from brushwork.data.subsets.drawing import EMPTY, Drawing, last_image, share
from brushwork.data.subsets.multi_turn import applied, plans_of, trajectory, way
from brushwork.data.tasks import Reject, Task, Unfit, attempt
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.data.worlds.staging import arranged, corrected, pick
from brushwork.tokens.trajectory import Draft, Inspection, Step, Trajectory

_DRAWS = 12


@runtime_checkable
class Sampler(Protocol):
    """The model whose traces are read, such as `brushwork.flow.generate.TrajectoryGenerator`."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        """One trace a prompt; equal prompts and seeds give equal traces."""
        ...


@dataclass(kw_only=True)
class SampledConflicts:
    """Reads the model's own traces and writes down where they leave the prompt.

    The trace is kept up to the first plan that contradicts the prompt. That plan is inspected and refined, and the
    sample ends with the corrected draft: what would have followed is not known. In the embedded world every draft is
    inspected for what it shows as well, and a wrong one mended; elsewhere the model's drafts are context alone, since
    nobody has checked them. A trace in which a plan is wrong from its second step on also gives a positive sample, the
    steps before.

    Attributes:
        sampler: makes the sampler; called once a process, when the first traces are needed.
        critic: says which plan contradicts the prompt.
        drawing: draws corrections.
    """

    sampler: Callable[[], Sampler]
    critic: PlanCritic
    drawing: Drawing
    _loaded: Sampler | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError for a world without critique."""
        if self.drawing.world is not None and not self.drawing.critique:
            raise ValueError("conflicts in the embedded world need drawing.critique=true: its drafts can be inspected")

    @property
    def identity(self) -> str:
        """The weights in the sampler's folder, so that a build is not continued with other ones; empty without any."""
        folder = self.sampler.keywords.get("folder", "") if isinstance(self.sampler, partial) else ""
        digest = hashlib.sha256()
        for path in sorted(Path(folder).glob("*.safetensors")) if folder else []:
            with path.open("rb") as file:  # the end alone: of 29 GB it says enough
                file.seek(max(0, path.stat().st_size - 2**20))
                digest.update(f"{path.name} {path.stat().st_size}".encode() + file.read())
        return digest.hexdigest()[:16] if folder else ""

    def __call__(self, tasks: Sequence[Task]) -> list[Trajectory | Reject]:
        """The samples that a trace for each task gives."""
        if self._loaded is None:
            self._loaded = self.sampler()
        seeds = [int(task.rng.integers(2**31)) for task in tasks]
        traces = _traces(self._loaded, [task.prompt for task in tasks], seeds)
        return [one for task, trace in zip(tasks, traces, strict=True) for one in self._read(task, trace)]

    def _read(self, task: Task, trace: Trajectory | str) -> list[Trajectory | Reject]:
        if isinstance(trace, str):
            return [Reject(prompt=task.prompt, reason=f"the sampler refused the prompt: {trace}")]
        steps = [step for step in trace.steps if step.plan is not None and step.drafts]
        if len(steps) < len(trace.steps):
            return [Reject(prompt=task.prompt, reason="the trace has a step without plan or draft")]
        verdict = self.critic(task.prompt, plans_of(steps))
        if isinstance(verdict, JudgeFailure):
            return [Reject(prompt=task.prompt, reason=f"the judge failed: {verdict.reason}", detail=trace_words(trace))]
        made = partial(self._sample, steps=steps, judge=verdict.judge, analysis=verdict.analysis)
        if verdict.step is None:
            stopped = trace.meta.get("stopped", "end") == "end"
            return [attempt(task, lambda task: made(task, len(steps), refine="", finished=stopped))]
        wrong = verdict.step
        before = [attempt(task, lambda task: made(task, wrong, refine="", finished=False))] if wrong else []
        return [*before, attempt(task, lambda task: made(task, wrong, refine=verdict.refine, finished=False))]

    def _sample(
        self, task: Task, right: int, *, steps: Sequence[Step], judge: str, analysis: str, refine: str, finished: bool
    ) -> Trajectory:
        """The first `right` steps as they are, and with `refine` the next one, corrected."""
        kept: list[Step] = []
        for number in range(right):
            self._check_room(kept)
            kept.append(self._consistent(task, steps, number))
        if refine:
            self._check_room(kept)
            kept.append(self._conflicting(task, steps, right, analysis, refine))
        label = "negative" if refine else "positive"
        meta = {"label": label, "construction": "self_sampling", "judge": judge}
        return trajectory(task, kept, "conflict", finished=finished, **meta)

    def _check_room(self, kept: Sequence[Step]) -> None:
        """Raises Unfit where the model draws without end."""
        if sum(len(step.drafts) for step in kept) >= 2 * self.drawing.max_images:
            raise Unfit("the trace is longer than max_images")

    def _consistent(self, task: Task, steps: Sequence[Step], number: int) -> Step:
        """A step whose plan fits the prompt, its draft inspected as far as anybody can."""
        step, world = steps[number], self.drawing.world
        draft = step.drafts[-1]
        if world is None:
            said = Inspection(plan_check=PLAN_ACCEPTED)
            return replace(step, drafts=(replace(draft, inspection=said, flawed=True),))
        planned = planned_scene(plans_of(steps[: number + 1]), world.parse)
        inspection = self.drawing.inspect(planned, draft.image)
        assert inspection is not None, "the constructor of Drawing asks for critique with a world"
        inspection = replace(inspection, plan_check=PLAN_ACCEPTED)
        if inspection.accepts:
            return replace(step, drafts=(replace(draft, inspection=inspection),))
        wrong = replace(draft, inspection=inspection, flawed=True)
        return replace(step, drafts=(wrong, self._mended(task, world, planned, wrong)))

    def _conflicting(self, task: Task, steps: Sequence[Step], number: int, analysis: str, refine: str) -> Step:
        """The step whose plan contradicts the prompt: analysis, corrective instruction, corrected draft."""
        step, world = steps[number], self.drawing.world
        assert step.plan is not None, "checked when the trace was read"
        draft = replace(
            step.drafts[-1], inspection=Inspection(plan_check=analysis, refine=refine), flawed=True
        )  # whatever it shows, it was drawn for a wrong plan
        plan = replace(step.plan, flawed=True)
        if world is None:
            target = task.scene or EMPTY
            image = self.drawing.edit(draft.image, refine, target, task)
            return replace(step, plan=plan, drafts=(draft, Draft(image=image, inspection=_mended_check())))
        planned = planned_scene(plans_of(steps[: number + 1]), world.parse)
        finished = number + 1 == len(steps)
        wrong = contradictions(world.parse(task.prompt), planned, finished=finished, grid=world.grid)
        mended = self._mended(task, world, corrected(world, planned, wrong, task.rng), draft)
        return replace(step, plan=plan, drafts=(draft, mended))

    def _mended(self, task: Task, world: ShapesWorld, planned: SceneGraph, draft: Draft) -> Draft:
        """A right draft of a planned scene, with things left where the wrong one has them."""
        scene = arranged(world, planned, world.detect(draft.image), task.rng, split=task.split)
        if scene is None:
            raise Unfit("no corrected scene fits what the split may show")
        said = draft.inspection.refine if draft.inspection else ""
        image = self.drawing.edit(draft.image, said, scene, task)
        inspection = _mended_check(self.drawing.inspect(planned, image))
        if not inspection.accepts:
            raise Unfit("the editor did not mend the draft")
        return Draft(image=image, inspection=inspection)


def _traces(sampler: Sampler, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory | str]:
    """A trace for each prompt, or why the sampler refuses it; what it refuses is found one by one."""
    try:
        return list(sampler(prompts, seeds))
    except ValueError as error:
        if len(prompts) == 1:
            return [str(error)]
        return [one for pair in zip(prompts, seeds, strict=True) for one in _traces(sampler, [pair[0]], [pair[1]])]


def _mended_check(seen: Inspection | None = None) -> Inspection:
    return replace(seen or Inspection(), plan_check=PLAN_ACCEPTED)


def trace_words(trace: Trajectory) -> dict[str, list[str]]:
    """The plans of a trace, for the record of rejects."""
    return {"plans": [f"{plan.instruction} | {plan.description}" for plan in plans_of(trace.steps)]}


def symbolic_conflicts(tasks: Sequence[Task], *, drawing: Drawing, positives: float = 0.5) -> list[Trajectory | Reject]:
    """Plans led astray by an edit of their scene graph, and corrected by its inverse (the paper's ablation).

    No model is asked: at one step of a negative, the object that is planned differs from the prompt in colour, shape,
    place or number. The picture shows the wrong plan; the inspection says what the prompt asks for.

    Args:
        tasks: with scenes of the embedded world.
        drawing: with a world and `critique`.
        positives: share of tasks that keep to their prompt, before the build balances the classes.

    Raises:
        ValueError: no world or no critique.
    """
    if drawing.world is None or not drawing.critique:
        raise ValueError("symbolic conflicts need drawing.world and drawing.critique=true")
    drawing = replace(drawing, check_plan=True)
    return [attempt(task, partial(_symbolic, drawing, positives)) for task in tasks]


def _symbolic(drawing: Drawing, positives: float, task: Task) -> Trajectory:
    steps: list[Step] = []
    edits_of_steps, scene = way(drawing, task, None), EMPTY
    wrong = None if share(task.rng, positives) else int(task.rng.integers(len(edits_of_steps)))
    for number, edits in enumerate(edits_of_steps):
        before, scene = scene, applied(scene, edits)
        if number == wrong:
            steps.append(_astray(drawing, task, steps, before, edits, last=number + 1 == len(edits_of_steps)))
            break
        plan = drawing.words(before, edits)
        steps.append(Step(plan=plan, drafts=(drawing.right(last_image(steps), plan, scene, task),)))
    finished = wrong in (None, len(edits_of_steps) - 1)
    label = "positive" if wrong is None else "negative"
    return trajectory(task, steps, "conflict", finished=finished, label=label, construction="scene_graph")


def _astray(
    drawing: Drawing, task: Task, steps: Sequence[Step], before: SceneGraph, edits: Sequence[Edit], *, last: bool
) -> Step:
    """A step whose plan contradicts the prompt, and its correction by the inverse edit."""
    world = drawing.world
    assert world is not None, "checked by the caller"
    right = applied(before, edits)
    wanted = world.parse(task.prompt)
    (asked,) = expand(wanted, max_steps=1)  # with relations said from the later object, as plans say them
    for _ in range(_DRAWS):
        other = _another(world, right, task)
        stray = change(right, len(right.objects) - 1, other)
        scene = stray(right)
        if not world.admits(scene, task.split, finished=False):
            continue
        first = [replace(edits[0], after=other, relations=_true_relations(world, scene, edits[0]))]
        found = contradictions(asked, drawing.said(applied(before, first)), finished=last, grid=world.grid)
        if not found:
            continue
        analysis, refine = plan_feedback(found, grid=world.grid)
        plan = drawing.words(before, first, flawed=True)
        image = drawing.draw(last_image(steps), plan, scene, task)
        draft = Draft(image=image, inspection=Inspection(plan_check=analysis, refine=refine), flawed=True)
        mended = drawing.right(image, drawing.words(scene, [stray.inverse]), right, task)
        return Step(plan=plan, drafts=(draft, mended))
    raise Unfit("no error fits the prompt")


def _another(world: ShapesWorld, scene: SceneGraph, task: Task) -> SceneObject:
    """The last object with another colour, shape or place."""
    one, what = scene.objects[-1], pick(("color", "name", "place"), task.rng)
    if what == "place":
        return world.place(one, pick(world.free_cells(scene), task.rng), task.rng)
    items = world.colors if what == "color" else world.shapes
    return replace(one, **{what: pick(items, task.rng)})


def _true_relations(world: ShapesWorld, scene: SceneGraph, edit: Edit) -> tuple:
    """The edit's relations as they are after the change: a thing put elsewhere stands otherwise to the rest."""
    said = []
    for one in edit.relations:
        true = world.predicates(scene.objects[one.subject], scene.objects[one.object])
        said.append(one if one.predicate in true else replace(one, predicate=true[0]))
    return tuple(said)
