"""The unified model itself as a judge: what its own inspection says of a picture, whoever drew it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.tokens.grammar import plan_ids
from brushwork.tokens.trajectory import Image, Inspection, Plan
from brushwork.tokens.vocabulary import Vocabulary


@runtime_checkable
class PictureInspector(Protocol):
    """A model that inspects pictures, such as `brushwork.flow.self_inspection.SelfInspector`."""

    vocabulary: Vocabulary

    def __call__(
        self, prompts: Sequence[str], plans: Sequence[Sequence[Plan]], images: Sequence[Image]
    ) -> Sequence[tuple[Inspection, float]]:
        """The inspection of each picture, and the probability that it accepts."""
        ...


def at_once(prompt: str) -> tuple[Plan, ...]:
    """The plan of a drawing in one step: to draw what the prompt says, which shows what the prompt says."""
    return (Plan(instruction=prompt, description=prompt),)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfJudge:
    """Asks the model what it would ask itself, had it drawn the picture.

    A model inspects a draft by its plan, and a judge has a prompt alone. By default that is the plan, as in alignment
    samples made of pairs of pictures, which have prompts and no plans: nothing is invented that the picture could then
    contradict, such as places or an order of things.

    The verdict is as good as the model knows such a context. One that has only learnt to draw step by step has seen no
    first picture of several things, and no plan that leaves a colour open, and may refuse both. Give it the plans that
    it knows by `plan`, and measure it on pictures whose answers are known. Of what it drew itself no model is an
    independent judge.

    Attributes:
        model: folder or hub id of the model, which `load` is called with.
        load: gives the model, from the second call on without reading it again, such as
            `brushwork.flow.self_inspection.load_inspector`.
        plan: prompt to the plans that the picture is inspected by; raises ValueError on a prompt that it cannot read.
    """

    model: str
    load: Callable[[str], PictureInspector]
    plan: Callable[[str], Sequence[Plan]] = at_once

    @property
    def name(self) -> str:
        """Version of this judge and its model, with the folder above it: every run calls its model "model"."""
        return "self/1:" + "/".join(Path(self.model).parts[-2:])

    def __call__(self, prompt: str, image: Image) -> Verdict | JudgeFailure:
        """Passed where the inspection accepts; the score is the probability of that, the reason the model's own words.

        The score belongs to `<refine>` after the checks that were written, and is close to 0 or 1 where those have
        already said it. An empty prompt, or one that the vocabulary or `plan` cannot read, is a failure of the judge;
        an image of a size that the model does not take is the caller's ValueError.

        Raises:
            FileNotFoundError, ValueError: the model cannot be loaded.
        """
        if not prompt.strip():
            return JudgeFailure(reason="the prompt is empty", judge=self.name)
        inspect = self.load(self.model)
        try:
            plans = self.plan(prompt)
            inspect.vocabulary.encode(prompt)
            for plan in plans:
                plan_ids(plan, inspect.vocabulary)
        except ValueError as error:
            return JudgeFailure(reason=str(error), judge=self.name)
        [(said, acceptance)] = inspect([prompt], [plans], [image])
        reason = ": ".join(filter(None, (said.plan_check, said.draft_check, said.refine)))
        return Verdict(passed=said.accepts, score=acceptance, reason=reason, judge=self.name)
