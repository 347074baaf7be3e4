"""Instruction-intermediate conflict by self-sampling: does the plan fit the prompt? Read in the model's own traces.

The paper's second subset. A "negative" holds a plan that contradicts its prompt, with what is wrong and how to mend it,
a "positive" does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch

from brushwork.critic.entailment import contradictions, planned_scene
from brushwork.critic.feedback import PLAN_ACCEPTED
from brushwork.critic.scene import SceneGraph
from brushwork.critic.verdict import JudgeFailure, PlanCritic, PlanVerdict
from brushwork.data.subsets.drawing import EMPTY, Drawing
from brushwork.data.subsets.multi_turn import plans_of, trajectory
from brushwork.data.tasks import Reject, Task, Unfit, attempt
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.data.worlds.staging import arranged, corrected
from brushwork.tokens.trajectory import Draft, Image, Inspection, Step, Trajectory


@runtime_checkable
class Sampler(Protocol):
    """The model whose traces are read, such as `brushwork.flow.generate.TrajectoryGenerator`."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        """One trace a prompt; equal prompts and seeds give equal traces."""
        ...


@dataclass(kw_only=True)
class SampledConflicts:
    """Reads the model's own traces and writes down where they leave the prompt.

    The trace is kept up to the first plan that contradicts the prompt for good. That plan is never learnt; it is
    inspected, and the sample ends with the corrected draft. The steps before it, as far as their plans fit the prompt,
    are a positive sample of their own, and so is a trace that keeps to its prompt. In the embedded world a sample that
    stops short of the prompt says that the drawing goes on: else to have mended a draft would mean to be finished.

    In the embedded world every draft is inspected for what it shows as well, and a wrong one is mended. What the model
    draws after a mended draft is not learnt, since it was drawn with the wrong one in view. Of a plan that contradicts
    the prompt for a while (a detour) nothing is said. Elsewhere the drawing's judge has to find each plan in its draft.

    Attributes:
        sampler: makes the sampler; called once a process, when the first traces are needed.
        weights: names the sampler's weights, such as `weights_fingerprint`: a build does not go on with other ones.
        critic: says which plan contradicts the prompt.
        drawing: draws corrections, and inspects or judges drafts.
    """

    sampler: Callable[[], Sampler]
    weights: str = ""
    critic: PlanCritic
    drawing: Drawing
    _loaded: Sampler | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError where nobody would look at the drafts."""
        if self.drawing.world is not None and not self.drawing.critique:
            raise ValueError("conflicts in the embedded world need drawing.critique=true: its drafts can be inspected")
        if self.drawing.world is None and self.drawing.judge is None:
            raise ValueError("conflicts of a corpus need drawing.judge: somebody must say which drafts show their plan")

    def __call__(self, tasks: Sequence[Task]) -> list[Trajectory | Reject]:
        """The samples that a trace for each task gives."""
        if self._loaded is None:
            torch.set_num_threads(1)  # the sums of more threads differ in their last bits, and so would the samples
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
        if trace.meta.get("stopped", "end") != "end":
            return [Reject(prompt=task.prompt, reason=f"the trace was cut off: {trace.meta['stopped']}")]
        verdict = self.critic(task.prompt, plans_of(steps))
        if isinstance(verdict, JudgeFailure):
            reason, detail = f"the judge failed: {verdict.reason}", {"plans": [str(plan) for plan in plans_of(steps)]}
            return [Reject(prompt=task.prompt, reason=reason, detail=detail, transient=verdict.transient)]
        if verdict.step is None:
            return [attempt(task, lambda task: self._positive(task, steps, len(steps), verdict))]
        right = self._fitting(task, steps, verdict.step)
        before = [attempt(task, lambda task: self._positive(task, steps, right, verdict))] if right else []
        return [*before, attempt(task, lambda task: self._negative(task, steps, verdict))]

    def _fitting(self, task: Task, steps: Sequence[Step], end: int) -> int:
        """How many of the first `end` steps end in a plan that fits the prompt."""
        while end and self._strays(task, steps[:end]):
            end -= 1
        return end

    def _strays(self, task: Task, steps: Sequence[Step]) -> bool:
        """Whether what is planned so far contradicts the prompt, be it for a while."""
        world = self.drawing.world
        if world is None:
            return False  # the critic has said so already
        planned = planned_scene(plans_of(steps), world.parse)
        return bool(contradictions(world.parse(task.prompt), planned, finished=False, grid=world.grid))

    def _positive(self, task: Task, steps: Sequence[Step], end: int, verdict: PlanVerdict) -> Trajectory:
        finished = end == len(steps)
        return self._sample(task, self._inspected(task, steps, end, finished=finished), "positive", finished, verdict)

    def _negative(self, task: Task, steps: Sequence[Step], verdict: PlanVerdict) -> Trajectory:
        assert verdict.step is not None, "the caller saw it"
        before = self._inspected(task, steps, verdict.step, finished=False)
        last = verdict.step + 1 == len(steps)
        if self.drawing.world is None:
            step, finished = self._refined(task, steps[verdict.step], verdict, last), False
        else:
            step, finished = self._corrected(task, self.drawing.world, steps[: verdict.step + 1], verdict, last), last
        return self._sample(task, [*before, step], "negative", finished, verdict)

    def _sample(
        self, task: Task, steps: Sequence[Step], label: str, finished: bool, verdict: PlanVerdict
    ) -> Trajectory:
        if sum(len(step.drafts) for step in steps) > 2 * self.drawing.max_images:
            raise Unfit("the trace is longer than max_images")
        meta = {"label": label, "construction": "self_sampling", "judge": verdict.judge}
        goes_on = not finished and self._lacks(task, steps[-1].drafts[-1].image)
        return trajectory(task, steps, "conflict", finished=finished, goes_on=goes_on, **meta)

    def _lacks(self, task: Task, image: Image) -> bool:
        """Whether a picture cannot be the answer yet; of a corpus that is not known."""
        world = self.drawing.world
        if world is None:
            return False
        return bool(contradictions(world.parse(task.prompt), world.detect(image), finished=True, grid=world.grid))

    def _inspected(self, task: Task, steps: Sequence[Step], end: int, *, finished: bool) -> list[Step]:
        """The first `end` steps, whose plans are taken for right, with their drafts inspected."""
        kept: list[Step] = []
        for number in range(end):
            draft, so_far = steps[number].drafts[-1], steps[: number + 1]
            if self.drawing.world is None:
                self.drawing.check(plans_of(so_far)[-1].description, draft.image)
                drafts: tuple[Draft, ...] = (replace(draft, inspection=Inspection(plan_check=PLAN_ACCEPTED)),)
            else:
                mended = any(len(step.drafts) > 1 for step in kept)
                ends = finished and number + 1 == end
                drafts = self._seen(task, self.drawing.world, so_far, imitate=not mended, finished=ends)
            kept.append(replace(steps[number], drafts=drafts))
        return kept

    def _seen(
        self, task: Task, world: ShapesWorld, steps: Sequence[Step], *, imitate: bool, finished: bool
    ) -> tuple[Draft, ...]:
        """The last step's draft, inspected, and mended where it does not show its plan."""
        draft, planned = steps[-1].drafts[-1], planned_scene(plans_of(steps), world.parse)
        inspection = self.drawing.inspect(planned, draft.image)
        assert inspection is not None, "the constructor asks for critique"
        inspection = replace(inspection, plan_check="" if self._strays(task, steps) else PLAN_ACCEPTED)
        if not inspection.accepts:
            wrong = replace(draft, inspection=inspection, flawed=True)
            return wrong, self._mended(task, world, planned, wrong, finished=finished)
        if imitate and not world.admits(world.detect(draft.image), task.split, finished=finished):
            raise Unfit("a draft shows what is held out")
        return (replace(draft, inspection=inspection, flawed=not imitate),)

    def _corrected(
        self, task: Task, world: ShapesWorld, steps: Sequence[Step], verdict: PlanVerdict, last: bool
    ) -> Step:
        """The step that leaves the prompt: what is wrong with its plan, what to change in its draft, a right draft."""
        step, wanted = steps[-1], world.parse(task.prompt)
        assert step.plan is not None, "checked when the trace was read"
        planned = planned_scene(plans_of(steps), world.parse)
        wrong = contradictions(wanted, planned, finished=last, grid=world.grid)
        target = corrected(world, wanted, planned, wrong, task.rng, finished=last)
        if contradictions(wanted, target, finished=last, grid=world.grid):
            raise Unfit("no correction of the plan fits the prompt")
        seen = self.drawing.inspect(target, step.drafts[-1].image)
        assert seen is not None, "the constructor asks for critique"
        if seen.accepts:
            raise Unfit("the draft shows the prompt in spite of its plan")
        said = Inspection(plan_check=verdict.analysis, refine=seen.refine)
        draft = replace(step.drafts[-1], inspection=said, flawed=True)
        mended = self._mended(task, world, target, draft, finished=last)
        return Step(plan=replace(step.plan, flawed=True), drafts=(draft, mended))

    def _mended(self, task: Task, world: ShapesWorld, planned: SceneGraph, draft: Draft, *, finished: bool) -> Draft:
        """A right draft of a planned scene, with things left where the wrong one has them."""
        assert draft.inspection is not None, "it says what to mend"
        scene = arranged(world, planned, world.detect(draft.image), task.rng, split=task.split, finished=finished)
        if scene is None:
            raise Unfit("no corrected scene fits what the split may show")
        image = self.drawing.edit(draft.image, draft.inspection.refine, scene, task)
        inspection = self.drawing.inspect(planned, image)
        if inspection is None or not inspection.accepts:
            raise Unfit("the editor did not mend the draft")
        plan_check = PLAN_ACCEPTED if draft.inspection.plan_check else ""
        return Draft(image=image, inspection=replace(inspection, plan_check=plan_check))

    def _refined(self, task: Task, step: Step, verdict: PlanVerdict, last: bool) -> Step:
        """The step that leaves the prompt, in a corpus.

        Only at the end is it known what the edited picture has to show; before, it is not learnt, nor accepted.
        """
        assert step.plan is not None, "checked when the trace was read"
        said = Inspection(plan_check=verdict.analysis, refine=verdict.refine)
        draft = replace(step.drafts[-1], inspection=said, flawed=True)
        image = self.drawing.edit(draft.image, verdict.refine, task.scene or EMPTY, task)
        if last:
            self.drawing.check(task.prompt, image)
        return Step(plan=replace(step.plan, flawed=True), drafts=(draft, Draft(image=image, flawed=not last)))


def _traces(sampler: Sampler, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory | str]:
    """A trace for each prompt, or why the sampler refuses it; what it refuses is found one by one."""
    try:
        return list(sampler(prompts, seeds))
    except ValueError as error:
        if len(prompts) == 1:
            return [str(error)]
        return [one for pair in zip(prompts, seeds, strict=True) for one in _traces(sampler, [pair[0]], [pair[1]])]
