"""Conflicts: plans that leave their prompt are found where they do, explained, mended, and never imitated."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest

from brushwork.critic.entailment import contradictions, planned_scene
from brushwork.critic.feedback import PLAN_ACCEPTED
from brushwork.critic.judges.oracle import OraclePlanCritic
from brushwork.critic.scene import diff, parse_scene
from brushwork.critic.verdict import JudgeFailure, PlanVerdict
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.conflict import SampledConflicts, symbolic_conflicts
from brushwork.data.subsets.drawing import Drawing, shapes_drawing
from brushwork.data.tasks import Reject, Task
from brushwork.data.worlds.shapes import KINDS, ShapesWorld
from brushwork.tokens.attention import Kind
from brushwork.tokens.segments import IGNORE_INDEX, Segmenter
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import WordVocabulary

WORLD = ShapesWorld()
DRAWING = shapes_drawing(WORLD)
VOCABULARY = WordVocabulary(WORLD.words())


def task(prompt: str, seed: int = 0) -> Task:
    return Task(prompt=prompt, split="test", rng=np.random.default_rng(seed), kind="free")


def step(instruction: str, description: str, shown: str) -> Step:
    """A step of a trace: its plan, and a picture of what is `shown`, cells and all."""
    plan = Plan(instruction=instruction, description=description)
    return Step(plan=plan, drafts=(Draft(image=WORLD.render(parse_scene(shown))),))


@dataclass
class Traces:
    """A model that has drawn before."""

    steps: dict[str, list[Step]]

    def __call__(self, prompts, seeds):
        if any("<" in prompt for prompt in prompts):
            raise ValueError("control tokens in a prompt")
        return [Trajectory(key="t", prompt=p, steps=tuple(self.steps[p]), meta={"stopped": "end"}) for p in prompts]


def sampled(prompt: str, *steps: Step, drawing: Drawing = DRAWING, critic=None) -> list[Trajectory | Reject]:
    subset = SampledConflicts(
        sampler=lambda: Traces({prompt: list(steps)}), critic=critic or OraclePlanCritic(), drawing=drawing
    )
    return list(subset([task(prompt)]))


RIGHT = (
    step("add a red ring", "a red ring", "a red ring at a1"),
    step(
        "add a blue cross right of the red ring",
        "a red ring and a blue cross",
        "a red ring at a1 and a blue cross at c1",
    ),
)


def test_a_trace_that_keeps_to_its_prompt_is_a_positive():
    (made,) = sampled("a red ring left of a blue cross", *RIGHT)
    assert made.meta["label"] == "positive" and made.finished
    assert [one.inspection for one in made.drafts] == [
        Inspection(plan_check=PLAN_ACCEPTED, draft_check="the draft shows the plan")
    ] * 2
    assert not any(one.flawed for one in made.drafts)


def test_the_first_wrong_plan_is_explained_and_mended_and_the_sample_ends_there():
    positive, made = sampled(
        "a red ring and a blue cross",
        RIGHT[0],
        step(
            "add a blue square above the red ring",
            "a red ring and a blue square",
            "a red ring at a3 and a blue square at a1",
        ),
        step("add a green ring", "a red ring and a blue square and a green ring", "a red ring at a1"),
    )
    assert positive.meta["label"] == "positive" and positive.steps[0].plan == RIGHT[0].plan and not positive.finished
    assert made.meta["label"] == "negative" and len(made.steps) == 2 and not made.finished
    wrong, mended = made.steps[1].drafts
    assert made.steps[1].plan.flawed and wrong.flawed and not mended.flawed
    assert wrong.inspection == Inspection(
        plan_check="the prompt asks for a cross", refine="turn the blue square into a cross"
    ) or wrong.inspection == Inspection(
        plan_check="the prompt asks for a blue cross", refine="turn the blue square into a cross"
    )
    shown = WORLD.detect(mended.image)
    assert not diff(parse_scene("a red ring at a3 and a blue cross at a1"), shown), "the rest stays where it was"
    assert mended.inspection.accepts and mended.inspection.plan_check == PLAN_ACCEPTED


def test_a_relation_that_was_turned_around_is_mended_by_a_move():
    made = sampled(
        "a red ring left of a blue cross",
        RIGHT[0],
        step(
            "add a blue cross left of the red ring",
            "a red ring and a blue cross",
            "a red ring at c1 and a blue cross at a1",
        ),
    )[-1]
    inspection = made.steps[1].drafts[0].inspection
    assert inspection.plan_check == "the prompt asks for the red ring left of the blue cross"
    assert inspection.refine == "move the red ring left of the blue cross"
    assert not diff(parse_scene("a red ring left of a blue cross"), WORLD.detect(made.steps[1].drafts[1].image))


def test_a_trace_that_ends_too_early_is_completed():
    (made,) = sampled("two rings", step("add a red ring", "a red ring", "a red ring at b2"))[-1:]
    assert made.meta["label"] == "negative"
    names = Counter(one.name for one in WORLD.detect(made.steps[0].drafts[1].image).objects)
    assert names == {"ring": 2}


def test_a_draft_that_does_not_show_a_right_plan_is_mended_and_is_no_conflict():
    wrong = step("add a red ring", "a red ring", "a red cross at b2")
    (made,) = sampled("a red ring", wrong)
    first, second = made.steps[0].drafts
    assert made.meta["label"] == "positive" and first.flawed and not made.steps[0].plan.flawed
    assert first.inspection.plan_check == PLAN_ACCEPTED
    assert first.inspection.refine == "turn the red cross into a ring"
    assert not diff(parse_scene("a red ring at b2"), WORLD.detect(second.image))


def test_wrong_plans_are_read_and_never_learnt_and_a_cut_has_no_end():
    made = sampled("a red ring", step("add a blue ring", "a blue ring", "a blue ring at a1"))[-1]
    segments = Segmenter(vocabulary=VOCABULARY, stride=8)(made, np.random.default_rng(0))
    texts = [one for one in segments if one.kind is Kind.TEXT]
    assert [one.loss for one in texts] == [False, False, True, True], "prompt, wrong plan; two inspections"
    assert [one.kind for one in segments].count(Kind.NOISED) == 1, "only the mended draft is drawn"
    assert segments[-1].switch == IGNORE_INDEX, "nobody knows what would have followed"


def test_nothing_is_lost_silently():
    subset = SampledConflicts(
        sampler=lambda: Traces({"a ring": [step("", "a banana", "a red ring at a1")], "a cross": []}),
        critic=OraclePlanCritic(),
        drawing=DRAWING,
    )
    outcomes = subset([task("a ring"), task("a <ring>"), task("a cross")])
    assert [type(one) for one in outcomes] == [Reject] * 3
    assert [one.reason.partition(":")[0] for one in outcomes] == [
        "the judge failed", "the sampler refused the prompt", "the judge failed",
    ]  # fmt: skip


def test_without_a_world_drafts_are_context_and_the_editor_mends():
    """As with photographs: a judge reads the plans, nobody knows what the drafts show."""
    edited = np.full((32, 32, 3), 7, np.uint8)
    drawing = Drawing(editor=lambda image, instruction, *, target, seed: edited)
    verdict = PlanVerdict(step=1, analysis="The cat is asked for.", refine="Turn the dog into a cat.", judge="j")
    made = sampled("a cat", RIGHT[0], RIGHT[1], drawing=drawing, critic=lambda prompt, plans: verdict)[-1]
    first, wrong, mended = made.drafts
    assert first.flawed and wrong.flawed and not mended.flawed and (mended.image == edited).all()
    assert wrong.inspection == Inspection(plan_check="The cat is asked for.", refine="Turn the dog into a cat.")
    failing = sampled("a cat", RIGHT[0], drawing=drawing, critic=lambda p, q: JudgeFailure(reason="down", judge="j"))
    assert failing[0].reason == "the judge failed: down"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plan", ["relational", "located"])
def test_symbolic_conflicts_are_what_they_claim(kind, plan):
    drawing, labels = shapes_drawing(WORLD, plan=plan), Counter()
    tasks = [shapes_task(WORLD, kind, np.random.default_rng(seed), "train") for seed in range(20)]
    for made in symbolic_conflicts(tasks, drawing=drawing, positives=0.5):
        if isinstance(made, Reject):
            continue
        labels[made.meta["label"]] += 1
        wanted, plans = parse_scene(made.prompt), []
        for number, one in enumerate(made.steps):
            plans.append(one.plan)
            finished = made.finished and number == len(made.steps) - 1
            found = contradictions(wanted, planned_scene(plans), finished=finished)
            assert bool(found) == one.plan.flawed
            assert len(one.drafts) == 1 + one.plan.flawed
            shown = WORLD.detect(one.drafts[0].image)
            assert not diff(planned_scene(plans), shown), "the picture shows the plan, right or wrong"
            mended = WORLD.detect(one.drafts[-1].image)
            assert not contradictions(wanted, mended, finished=finished)
        assert made.meta["label"] == ("negative" if any(one.plan.flawed for one in made.steps) else "positive")
    assert set(labels) == {"positive", "negative"}


def test_settings_are_checked_before_anything_is_drawn():
    blind = replace(DRAWING, critique=False)
    with pytest.raises(ValueError, match=r"need drawing\.critique=true"):
        SampledConflicts(sampler=partial(Traces, {}), critic=OraclePlanCritic(), drawing=blind)
    with pytest.raises(ValueError, match="critique=true"):
        symbolic_conflicts([], drawing=blind)
