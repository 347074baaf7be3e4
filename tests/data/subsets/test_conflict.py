"""Conflicts: plans that leave their prompt are found where they do, explained, mended, and never imitated."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest

from brushwork.critic.entailment import contradictions, planned_scene
from brushwork.critic.feedback import PLAN_ACCEPTED, feedback
from brushwork.critic.judges.oracle import OraclePlanCritic
from brushwork.critic.scene import SceneGraph, diff, parse_scene
from brushwork.critic.verdict import JudgeFailure, PlanVerdict, Verdict
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.conflict import SampledConflicts
from brushwork.data.subsets.conflict_scene_graph import symbolic_conflicts
from brushwork.data.subsets.drawing import Drawing, shapes_drawing
from brushwork.data.tasks import Reject, Task
from brushwork.data.worlds.glyphs import BACKGROUND
from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, ShapesWorld
from brushwork.tokens.attention import Kind
from brushwork.tokens.segments import Segmenter
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
    assert positive.goes_on and not made.goes_on, "one ring is no answer yet; what was mended is"
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


def test_wrong_plans_are_read_and_never_learnt_and_a_cut_goes_on():
    astray = step("add a blue ring", "a blue ring", "a blue ring at a1")
    more = step("add a cross above the blue ring", "a blue ring and a green cross", "a blue ring at a2")
    made = sampled("a red ring and a cross", astray, more)[-1]
    segments = Segmenter(vocabulary=VOCABULARY, stride=8)(made, np.random.default_rng(0))
    texts = [one for one in segments if one.kind is Kind.TEXT]
    assert [one.loss for one in texts] == [False, False, True, True], "prompt, wrong plan; two inspections"
    assert [one.kind for one in segments].count(Kind.NOISED) == 1, "only the mended draft is drawn"
    assert segments[-1].switch == VOCABULARY.control.bos, "the cross is still to come"


def test_the_refinement_says_what_to_change_in_the_draft_that_is_seen():
    """Its draft misses the wrong plan as well: what the plan says of colours is not what the picture shows."""
    astray = step("add a blue ring", "a blue ring", "a green cross at b3")
    made = sampled("a red ring", astray)[-1]
    wrong, mended = made.steps[0].drafts
    assert wrong.inspection.plan_check == "the prompt asks for a red ring"
    target = WORLD.detect(mended.image)
    assert wrong.inspection.refine == feedback(diff(planless(target), WORLD.detect(wrong.image))).refine
    assert "cross" in wrong.inspection.refine and "blue" not in wrong.inspection.refine


def planless(scene: SceneGraph) -> SceneGraph:
    """What is there, without places."""
    return SceneGraph(objects=tuple(replace(one, x=None, y=None) for one in scene.objects))


def test_of_a_detour_nothing_is_said_and_no_sample_ends_in_one():
    ring = step("add a red ring", "a red ring", "a red ring at a1")
    cross = step("add a blue cross", "a red ring and a blue cross", "a red ring at a1 and a blue cross at c1")
    gone = step("remove the blue cross", "a red ring", "a red ring at a1")
    (made,) = sampled("a red ring", ring, cross, gone)
    assert [one.inspection.plan_check for one in made.drafts] == [PLAN_ACCEPTED, "", PLAN_ACCEPTED]
    astray = step("add a green square", "a red ring and a green square", "a red ring at a1 and a green square at c3")
    assert [one.meta["label"] for one in sampled("a red ring", cross, astray)] == ["negative"], "no step before fits"


def test_what_is_drawn_after_a_mended_draft_is_not_imitated():
    wrong = step("add a red ring", "a red ring", "a red cross at b2")
    (made,) = sampled("a red ring left of a blue cross", wrong, RIGHT[1])
    assert [one.flawed for one in made.drafts] == [True, False, True]
    assert made.steps[1].drafts[0].inspection.accepts


def test_a_draft_that_shows_what_is_held_out_makes_no_sample():
    key = next(key for key, split in WORLD.split_of.items() if key[0] == "colors" and split == "test")
    color, name = key[1].split()
    drawn = step(f"add a {color} {name}", f"a {color} {name}", f"a {color} {name} at b2")
    traces = Traces({f"a {name}": [drawn]})
    subset = SampledConflicts(sampler=lambda: traces, critic=OraclePlanCritic(), drawing=DRAWING)
    training = replace(task(f"a {name}"), split="train")
    assert subset([training])[0].reason == "a draft shows what is held out"
    assert isinstance(subset([task(f"a {name}")])[0], Trajectory), "the test split may show it"


def test_a_trace_that_was_cut_off_is_no_conflict():
    class Cut(Traces):
        def __call__(self, prompts, seeds):
            return [replace(one, meta={"stopped": "max_images"}) for one in super().__call__(prompts, seeds)]

    subset = SampledConflicts(
        sampler=lambda: Cut({"two rings": [RIGHT[0]]}), critic=OraclePlanCritic(), drawing=DRAWING
    )
    assert [one.reason for one in subset([task("two rings")])] == ["the trace was cut off: max_images"]


def test_a_correction_may_refer_to_what_is_corrected_as_well():
    made = sampled(
        "a square left of a ring",
        step("add a green square", "a green square", "a green square at b2"),
        step(
            "add a green triangle left of the green square",
            "a green square and a green triangle",
            "a green square at b2 and a green triangle at a2",
        ),
    )[-1]
    shown = WORLD.detect(made.steps[-1].drafts[1].image)
    assert not diff(parse_scene("a square left of a ring"), shown)


def test_only_what_the_refinement_names_is_moved():
    for seed in range(8):
        wrong = step(
            "add a blue cross above the red ring",
            "a red ring and a blue cross",
            "a red ring at c2 and a blue cross at c4",
        )
        trace = Traces({"a blue cross above a red ring": [RIGHT[0], wrong]})
        subset = SampledConflicts(sampler=lambda trace=trace: trace, critic=OraclePlanCritic(), drawing=DRAWING)
        (made,) = subset([task("a blue cross above a red ring", seed)])
        before, after = (WORLD.detect(draft.image) for draft in made.steps[1].drafts)
        assert made.steps[1].drafts[0].inspection.refine == "move the blue cross above the red ring"
        assert next(o for o in before.objects if o.name == "ring") == next(o for o in after.objects if o.name == "ring")


@pytest.mark.parametrize("kind", ("color_attribution", *HARD_KINDS))
def test_what_no_inspection_names_keeps_its_pixels(kind):
    """Also off the middles of cells. The last plan names another colour than the prompt, and is mended."""
    world, corrections = ShapesWorld(jitter=1), 0
    for seed in range(8):
        made = shapes_task(world, kind, np.random.default_rng(seed), "train")
        objects = made.scene.objects
        color = next(one for one in world.colors if all(f"{one} {objects[-1].name}" != each.noun for each in objects))
        astray = SceneGraph(objects=(*objects[:-1], replace(objects[-1], color=color)))
        words = [f"a {one.noun}" for one in astray.objects]
        plans = [
            Plan(instruction=f"add {one}", description=" and ".join(words[: n + 1])) for n, one in enumerate(words)
        ]
        drafts = [world.render(SceneGraph(objects=astray.objects[: n + 1])) for n in range(len(words))]
        steps = [Step(plan=p, drafts=(Draft(image=image),)) for p, image in zip(plans, drafts, strict=True)]
        prompt = " and ".join(f"a {one.noun}" for one in objects)
        subset = SampledConflicts(
            sampler=lambda prompt=prompt, steps=steps: Traces({prompt: steps}),
            critic=OraclePlanCritic(),
            drawing=shapes_drawing(world),
        )
        for one in subset([task(prompt, seed)]):
            if isinstance(one, Trajectory) and one.meta["label"] == "negative":
                wrong, mended = one.steps[-1].drafts
                there = (world.render(SceneGraph(objects=objects[:-1])) != BACKGROUND).any(-1)
                np.testing.assert_array_equal(wrong.image[there], mended.image[there])
                np.testing.assert_array_equal(mended.image, world.render(made.scene), "in the same place")
                corrections += 1
    assert corrections > 5


@pytest.mark.parametrize("shown", ["a red cross at b2", ""])
def test_a_plan_that_leaves_a_colour_open_is_mended_in_some_colour(shown):
    blank = Draft(image=WORLD.render(SceneGraph(objects=())))
    drawn = (
        step("add a triangle", "a triangle", shown)
        if shown
        else Step(plan=Plan(instruction="add a triangle", description="a triangle"), drafts=(blank,))
    )
    (made,) = sampled("a triangle", drawn)
    assert [one.name for one in WORLD.detect(made.final_image).objects] == ["triangle"]


def test_a_trace_that_lacks_the_object_of_a_relation_gets_both():
    (made,) = sampled("a ring below a cross", step("add a purple ring", "a purple ring", "a purple ring at c3"))[-1:]
    assert made.finished and not diff(parse_scene("a ring below a cross"), WORLD.detect(made.final_image))


def test_a_plan_that_rambles_on_is_no_plan():
    many = " and ".join(f"a red {name}" for name in ("ring", "cross") * 9)
    (made,) = sampled("a ring", step("add a red ring", many, "a red ring at a1"))
    assert made.reason.startswith("the judge failed: too many things") and not made.transient


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


def test_without_a_world_a_judge_looks_and_the_editor_mends():
    """As with photographs: judges read the plans and see the drafts, nobody has seen the edited picture."""
    edited = np.full((32, 32, 3), 7, np.uint8)

    def judge(prompt, image):
        seen = "ring" in prompt or bool((image == edited).all())
        return Verdict(passed=seen, score=1.0, reason="" if seen else "no ring", judge="j")

    drawing = Drawing(editor=lambda image, instruction, *, target, seed: edited, judge=judge)
    verdict = PlanVerdict(step=1, analysis="The cat is asked for.", refine="Turn the dog into a cat.", judge="j")
    made = sampled("a cat", RIGHT[0], RIGHT[1], drawing=drawing, critic=lambda prompt, plans: verdict)[-1]
    first, wrong, mended = made.drafts
    assert not first.flawed and wrong.flawed and not mended.flawed and (mended.image == edited).all()
    assert first.inspection.plan_check == PLAN_ACCEPTED and mended.inspection is None and not made.finished
    assert wrong.inspection == Inspection(plan_check="The cat is asked for.", refine="Turn the dog into a cat.")
    down = JudgeFailure(reason="down", judge="j", transient=True)
    failing = sampled("a cat", RIGHT[0], drawing=drawing, critic=lambda prompt, plans: down)
    assert failing[0].reason == "the judge failed: down" and failing[0].transient
    cat = step("add a cat", "a cat", "a red ring at a1")
    fits = PlanVerdict(step=None, analysis="", refine="", judge="j")
    (unseen,) = sampled("a cat", cat, drawing=drawing, critic=lambda prompt, plans: fits)
    assert unseen.reason == "a draft does not show its plan: no ring"
    with pytest.raises(ValueError, match=r"need drawing\.judge"):
        sampled("a cat", cat, drawing=replace(drawing, judge=None))


@pytest.mark.parametrize("kind", KINDS + HARD_KINDS)
@pytest.mark.parametrize("plan", ["relational", "located"])
def test_symbolic_conflicts_are_what_they_claim(kind, plan):
    labels = Counter()
    drawing = shapes_drawing(WORLD, plan=plan, max_images=2 if kind == "counting" else 5)
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
        assert made.goes_on == bool(
            contradictions(wanted, WORLD.detect(made.steps[-1].drafts[-1].image), finished=True)
        )
    assert set(labels) == {"positive", "negative"}


def test_settings_are_checked_before_anything_is_drawn():
    blind = replace(DRAWING, critique=False)
    with pytest.raises(ValueError, match=r"need drawing\.critique=true"):
        SampledConflicts(sampler=partial(Traces, {}), critic=OraclePlanCritic(), drawing=blind)
    with pytest.raises(ValueError, match="critique=true"):
        symbolic_conflicts([], drawing=blind)
