"""A language model in the place of the drawing model's own plans and inspections (paper: GPT planner, GPT inspector).

Needs the extra `llm` of brushwork-critic.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, model_validator

from brushwork.critic.chat import ChatError, ChatModel
from brushwork.critic.untrusted import DATA_RULE, Words, data_block
from brushwork.tokens.roles import NoAnswer
from brushwork.tokens.trajectory import Image, Inspection, Plan, Step
from brushwork.tokens.vocabulary import check_plain

_PLANNER = """
You plan a picture that another model draws in steps. Each step has an instruction (what to draw now) and a description
(the scene afterwards). You are given the prompt, the steps so far and how many steps are left, and you may be shown the
picture as far as it is drawn. Write the next step. Begin with what the rest is placed by, one thing or one group of
like things a step; a step may also change or remove what an earlier one brought. After the last step the picture must
show everything that the prompt asks for, and nothing else of note: what the prompt paraphrases or leaves to knowledge
is named as what it looks like.
finished: true only where the steps so far already show everything that the prompt asks for.
instruction: one imperative sentence; empty where finished.
description: the whole scene after this step in one sentence that stands alone, with numbers, colours and places, and
nothing that is left to later steps; empty where finished.
""".strip()

_INSPECTOR = """
You compare a draft picture with the description of what it should show. Another reviewer's remarks may be given: use
those that the picture bears out, and ignore the others.
draft_check: what in the picture departs from the description, or that nothing does, in at most two sentences.
refine: one imperative sentence that tells an editor what to change in the picture; empty where nothing departs.
""".strip()

_STEP_INSPECTOR = """
A picture is drawn in steps. Each step has an instruction (what to draw now) and a description (the scene afterwards).
You inspect the draft of the last step given. Another reviewer's remarks may be given: use those that the picture bears
out, and ignore the others.
plan_check: what in the last step contradicts the prompt, or that nothing does, in at most two sentences. What is left
to later steps contradicts nothing.
draft_check: what in the picture departs from the last description, or that nothing does, in at most two sentences.
What is left to later steps is not missing.
refine: one imperative sentence that tells an editor what to change in the picture, so that it shows the last
description, corrected where that contradicts the prompt; empty where nothing is to be changed.
""".strip()


def _instructions(task: str, style: str | None) -> str:
    worded = [f"Use the words and the manner of these examples, and no others:\n{style.strip()}"] if style else []
    return "\n".join((task, *worded, DATA_RULE))


def _digest(style: str | None) -> str:
    return f":{hashlib.sha256(style.encode()).hexdigest()[:8]}" if style else ""


def _one_line(text: str) -> str:
    """Raises ValueError for the drawing model's own punctuation, which it takes from nobody."""
    check_plain(text)
    return " ".join(text.split())


_Line = Annotated[str, AfterValidator(_one_line)]
_Said = Annotated[Words, AfterValidator(_one_line)]


def _told(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    return [
        {"step": number, "instruction": plan.instruction, "description": plan.description}
        for number, plan in enumerate(plans, start=1)
    ]


# The answers have no docstrings: these would be sent to the model as part of the schema.


class _PlannerAnswer(BaseModel):
    finished: bool
    instruction: _Line
    description: _Line

    @model_validator(mode="after")
    def _plans_what_is_left(self) -> "_PlannerAnswer":
        if not self.finished and not (self.instruction and self.description):
            raise ValueError("expected an instruction and a description, or finished")
        return self


class _InspectorAnswer(BaseModel):
    draft_check: _Said
    refine: _Line


class _StepInspectorAnswer(BaseModel):  # the checks first: a model writes from left to right
    plan_check: _Said
    draft_check: _Said
    refine: _Line


@dataclass(frozen=True, kw_only=True, slots=True)
class LLMPlanner:
    """Plans the next step of any prompt, whoever planned those before.

    Attributes:
        chat: the language model.
        max_steps: after so many plans the picture is finished, whatever the model would say.
        show: the last draft is shown to the model, which then has to be one that sees.
        style: how plans are worded, such as a few of the training data; for drawing models that know few words.
    """

    chat: ChatModel
    max_steps: int = 5
    show: bool = True
    style: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where nothing could be planned."""
        if self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}; expected at least 1")

    @property
    def name(self) -> str:
        """Name, version, model, and what else the plans depend on."""
        sees = "" if self.show else ":blind"
        return f"llm-planner/1:{self.chat.model}:{self.max_steps}{sees}{_digest(self.style)}"

    def __call__(self, prompt: str, steps: Sequence[Step]) -> Plan | NoAnswer | None:
        """The next plan, see `brushwork.tokens.roles.Planner`."""
        plans = [step.plan for step in steps if step.plan is not None]
        if len(plans) >= self.max_steps:
            return None
        drafts = steps[-1].drafts if steps else ()
        images = [drafts[-1].image] if self.show and drafts else []
        question = data_block(prompt=prompt, steps=_told(plans), steps_left=self.max_steps - len(plans))
        try:
            answer = self.chat.ask(_PlannerAnswer, _instructions(_PLANNER, self.style), question, images)
        except ChatError as error:
            return NoAnswer(reason=str(error), transient=error.transient)
        if not answer.finished:
            return Plan(instruction=answer.instruction, description=answer.description)
        return None if plans else NoAnswer(reason="the planner finds nothing to draw in the prompt")


@dataclass(frozen=True, kw_only=True, slots=True)
class LLMInspector:
    """Says of a draft what an inspection says: what is wrong, and what to change.

    Attributes:
        chat: a language model that sees.
        check_plan: inspections also say whether the plan fits the prompt; False for drawing models that never read so.
        style: how inspections are worded, such as a few of the training data.
    """

    chat: ChatModel
    check_plan: bool = True
    style: str | None = None

    @property
    def name(self) -> str:
        """Name, version, model, and what else the inspections depend on."""
        return f"llm-inspector/1:{self.chat.model}{':plans' if self.check_plan else ''}{_digest(self.style)}"

    def __call__(
        self, prompt: str, plans: Sequence[Plan], image: Image, remarks: str | None = None
    ) -> Inspection | NoAnswer:
        """The inspection of a draft, see `brushwork.tokens.roles.Inspector`.

        Args:
            prompt: the user's words; where there are no plans, the draft is compared with them.
            plans: of all steps so far. Without any, the inspection has no `plan_check`.
            image: the draft.
            remarks: what somebody else said of it, in free words (Gen-Ref).
        """
        try:
            if not plans:
                question = data_block(description=prompt, remarks=remarks)
                said = self.chat.ask(_InspectorAnswer, _instructions(_INSPECTOR, self.style), question, [image])
                return Inspection(draft_check=said.draft_check, refine=said.refine)
            question = data_block(prompt=prompt, steps=_told(plans), remarks=remarks)
            answer = self.chat.ask(_StepInspectorAnswer, _instructions(_STEP_INSPECTOR, self.style), question, [image])
        except ChatError as error:
            return NoAnswer(reason=str(error), transient=error.transient)
        plan_check = answer.plan_check if self.check_plan else ""
        return Inspection(plan_check=plan_check, draft_check=answer.draft_check, refine=answer.refine)
