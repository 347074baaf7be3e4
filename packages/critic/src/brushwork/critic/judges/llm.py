"""Judges, critics and helpers that ask a language model; for prompts that no parser of the embedded world reads.

Needs the extra `llm` of brushwork-critic.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product

from pydantic import BaseModel, Field, create_model, model_validator

from brushwork.critic.chat import ChatError, ChatModel
from brushwork.critic.scene import PREDICATES, Relation, SceneGraph, SceneObject
from brushwork.critic.untrusted import DATA_RULE, Words, data_block
from brushwork.critic.verdict import JudgeFailure, PlanVerdict, Verdict
from brushwork.tokens.trajectory import Image, Plan

_JUDGE = f"""
You judge whether a picture shows what a prompt asks for. Check each object, number, attribute, colour and relation
that the prompt names; what it leaves open cannot be wrong.
reason: what is right and what is wrong, in at most two sentences.
score: the share of what is asked that the picture shows, from 0 (nothing) to 1 (all).
passed: true only where everything asked is shown.
{DATA_RULE}
""".strip()

_PLAN_CRITIC = f"""
A picture is drawn in steps. Each step has an instruction (what to draw now) and a description (the scene afterwards).
You find the first step that contradicts the prompt: another object, number, attribute, colour or relation than the
prompt asks for, or something that the prompt excludes. A step that leaves things to later steps contradicts nothing.
analysis: what the step says and what the prompt asks instead, or that all steps agree, in at most two sentences.
step: the number of the first contradicting step as given in the data; null where there is none.
refine: one imperative sentence that corrects the step; empty where there is none.
{DATA_RULE}
""".strip()

_REWRITER = f"""
You rewrite an edit instruction, made from a template, as a person would say it. Keep every object, number, attribute,
colour and relation as it is, and add none. Answer with one sentence.
{DATA_RULE}
""".strip()

_SCENE_PARSER = f"""
You write down what a prompt asks to be drawn.
objects: each kind of thing once, in the order of the prompt. name: a singular noun. color: one colour word, or null.
attributes: other adjectives. count: how many are asked for; 1 where the prompt does not say. Things that look
different are different objects.
relations: what the prompt says of two objects, which are given by their places in the list, counted from 0. For
places use {", ".join(f'"{predicate}"' for predicate in PREDICATES)}; otherwise the prompt's own words.
{DATA_RULE}
""".strip()


# Pictures. The answers have no docstrings: these would be sent to the model as part of the schema.


class _JudgeAnswer(BaseModel):  # the reason first: a model writes from left to right
    reason: Words
    score: float = Field(ge=0, le=1)
    passed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LLMJudge:
    """A vision-language model as a judge of any prompt."""

    chat: ChatModel

    @property
    def name(self) -> str:
        """Name, version and model."""
        return f"llm/1:{self.chat.model}"

    def __call__(self, prompt: str, image: Image) -> Verdict | JudgeFailure:
        """The model's verdict; a failure where there is no usable answer."""
        try:
            answer = self.chat.ask(_JudgeAnswer, _JUDGE, data_block(prompt=prompt), [image])
        except ChatError as error:
            return JudgeFailure(reason=str(error), judge=self.name, transient=error.transient)
        return Verdict(passed=answer.passed, score=answer.score, reason=answer.reason, judge=self.name)


# Words


class _PlanAnswer(BaseModel):
    analysis: Words
    step: int | None
    refine: str

    @model_validator(mode="after")
    def _corrects_what_it_finds(self) -> "_PlanAnswer":
        if (self.step is None) != (not self.refine.strip()):
            raise ValueError("expected a corrective instruction where a step is wrong, and only there")
        return self


@lru_cache
def _plan_answer(num_plans: int) -> type[_PlanAnswer]:
    """An answer that names one of these plans or none."""
    return create_model("PlanAnswer", __base__=_PlanAnswer, step=(int | None, Field(ge=0, le=num_plans - 1)))


@dataclass(frozen=True, kw_only=True, slots=True)
class LLMPlanCritic:
    """A language model as a critic of any plans."""

    chat: ChatModel

    @property
    def name(self) -> str:
        """Name, version and model."""
        return f"llm-plan/1:{self.chat.model}"

    def __call__(self, prompt: str, plans: Sequence[Plan]) -> PlanVerdict | JudgeFailure:
        """The first contradiction.

        Raises:
            ValueError: there is no plan.
        """
        if not plans:
            raise ValueError("plans is empty; expected at least one to judge: leave out trajectories without plans")
        steps = [{"step": number, **asdict(plan)} for number, plan in enumerate(plans)]
        try:
            answer = self.chat.ask(_plan_answer(len(plans)), _PLAN_CRITIC, data_block(prompt=prompt, steps=steps))
        except ChatError as error:
            return JudgeFailure(reason=str(error), judge=self.name, transient=error.transient)
        return PlanVerdict(step=answer.step, analysis=answer.analysis, refine=answer.refine.strip(), judge=self.name)


class _RewriterAnswer(BaseModel):
    instruction: Words


@dataclass(frozen=True, kw_only=True, slots=True)
class LLMRewriter:
    """Says a templated edit instruction as a person would."""

    chat: ChatModel

    def __call__(self, instruction: str) -> str:
        """The instruction in natural words, always the same for the same instruction.

        Raises:
            ChatError: there is no usable answer.
        """
        return self.chat.ask(_RewriterAnswer, _REWRITER, data_block(instruction=instruction)).instruction


class _ObjectAnswer(BaseModel):
    name: Words
    color: str | None
    attributes: list[Words]
    count: int = Field(ge=1, le=20)  # a crowd is no list of objects


class _RelationAnswer(BaseModel):
    subject: int
    predicate: Words
    object: int


class _SceneAnswer(BaseModel):
    objects: list[_ObjectAnswer]
    relations: list[_RelationAnswer]

    @model_validator(mode="after")
    def _relates_its_objects(self) -> "_SceneAnswer":
        places = range(len(self.objects))
        for one in self.relations:
            if one.subject not in places or one.object not in places or one.subject == one.object:
                raise ValueError(f"expected a relation between two of {len(places)} objects, counted from 0")
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class LLMSceneParser:
    """Reads any prompt, as `parse_scene` reads those of the embedded world; places are not read, hence None."""

    chat: ChatModel

    def __call__(self, text: str) -> SceneGraph:
        """What the prompt asks for; a relation of several things of a kind is one of each of them.

        Raises:
            ValueError: the prompt names nothing to draw, or there is no usable answer.
        """
        try:
            answer = self.chat.ask(_SceneAnswer, _SCENE_PARSER, data_block(prompt=text))
        except ChatError as error:
            raise ValueError(f"{text!r} cannot be read as a scene: {error}") from error
        objects: list[SceneObject] = []
        places: list[range] = []
        for one in answer.objects:
            places.append(range(len(objects), len(objects) + one.count))
            thing = SceneObject(
                name=one.name.lower(),
                color=(one.color or "").strip().lower() or None,
                attributes=tuple(word.lower() for word in one.attributes),
            )
            objects += [thing] * one.count
        if not objects:
            raise ValueError(f"{text!r} names nothing to draw; expected a prompt such as 'two dogs left of a red car'")
        relations = tuple(
            Relation(subject=subject, predicate=one.predicate, object=reference)
            for one in answer.relations
            for subject, reference in product(places[one.subject], places[one.object])
        )
        return SceneGraph(objects=tuple(objects), relations=relations)
