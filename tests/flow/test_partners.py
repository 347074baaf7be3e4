"""Others' plans and inspections in the model's place: read as its own are, and kept as they were said."""

import json

import numpy as np
import pytest
import torch

from brushwork.flow.checkpoint import Bundle, save_pretrained, weights_fingerprint
from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.flow.guidance import Guidance
from brushwork.tokens.roles import NoAnswer
from brushwork.tokens.trajectory import Inspection, Plan

PROMPTS, SEEDS = ["a red circle", "a blue square left of a circle", "a", "the blue circle"], [5, 6, 7, 8]
PLANS = [
    Plan(instruction="Add a red circle", description="a red circle"),
    Plan(instruction="add a blue square left of it", description="a red circle and a blue square"),
]
ACCEPTED = Inspection(plan_check="the plan", draft_check="the draft shows the plan")
REFUSED = Inspection(draft_check="the circle", refine="make it red")


class Likes(TrajectoryGenerator):
    """Untrained, but fond of some tokens."""

    liked: dict[str, float]

    def following(self, fed, logits, rows):
        wish = torch.zeros(logits.shape[1])
        for name, by in self.liked.items():
            wish[getattr(self.vocabulary.control, name)] = by
        return super().following(fed, logits + wish, rows)


INSPECTS = {"bos": 50.0, "ins": -50.0, "refine": 1.0, "refine_end": 1.0}
"""Inspects every draft, accepts some, and goes on until it is stopped."""


def make(model, vocabulary, liked=None, *, planner=None, inspector=None, **changes):
    settings = dict(image_size=(16, 16), num_steps=3, temperature=0.0, max_images=3, max_text=8, max_external_text=20)
    sampling = Sampling(**{**settings, **changes})
    generator = Likes(model, vocabulary, sampling, planner=planner, inspector=inspector)
    generator.liked = liked or {}
    return generator


class Scripted:
    """A planner or an inspector that gives the same answers to every prompt, and remembers what it was asked."""

    def __init__(self, answers, name=""):
        self.answers, self.name, self.asked = list(answers), name, []

    def __call__(self, prompt, steps, image=None):
        self.asked.append((prompt, tuple(steps), image))
        said = [asked for asked, *_ in self.asked].count(prompt)
        return self.answers[said - 1] if said <= len(self.answers) else self.answers[-1]


def plans(trajectory):
    return [step.plan for step in trajectory.steps]


def inspections(trajectory):
    return [draft.inspection for draft in trajectory.drafts]


def same_images(one, other):
    pairs = list(zip(one.drafts, other.drafts, strict=True))
    return all(np.abs(a.image.astype(int) - b.image).max() <= 1 for a, b in pairs)  # rounding to 8 bits


# -- what the model said itself, said by others -----------------------------------------------------------------------


@pytest.mark.parametrize("history", ["full", "last"])
@pytest.mark.parametrize("roles", [("planner",), ("inspector",), ("planner", "inspector")], ids="+".join)
def test_its_own_words_from_others_give_its_own_pictures(seeing_model, vocabulary, history, roles):
    """In every context that guidance compares; and not a token more is read."""
    settings = dict(guidance=Guidance(text_scale=2.0, image_scale=2.0), history=history, num_steps=1, max_text=6)
    prompts, seeds = PROMPTS[:2], SEEDS[:2]
    own = make(seeing_model, vocabulary, INSPECTS, **settings)(prompts, seeds)
    by_prompt = {trajectory.prompt: trajectory for trajectory in own}
    assert len({inspection.accepts for one in own for inspection in inspections(one)[:-1]}) == 2

    def planner(prompt, steps):
        left = plans(by_prompt[prompt])[len(steps) :]
        return left[0] if left else None

    def inspector(prompt, plans, image):
        said = [draft for step in by_prompt[prompt].steps[: len(plans)] for draft in step.drafts]
        return min(said, key=lambda draft: np.abs(draft.image.astype(int) - image).sum()).inspection

    others = {name: one for name, one in (("planner", planner), ("inspector", inspector)) if name in roles}
    again = make(seeing_model, vocabulary, INSPECTS, **others, **settings)(prompts, seeds)
    for one, other in zip(own, again, strict=True):
        assert plans(one) == plans(other) and inspections(one) == inspections(other)
        assert same_images(one, other)
        assert one.meta["stopped"] == other.meta["stopped"] == "max_images"
        before, after = one.meta["cost"], other.meta["cost"]
        assert before["prefilled_tokens"] == after["prefilled_tokens"]
        assert before["denoise_steps"] == after["denoise_steps"] and before["images"] == after["images"] == 3
        assert (after["text_tokens"] == 0) == (len(roles) == 2)
        asked = len(plans(one)) * ("planner" in roles) + 2 * ("inspector" in roles)
        assert before["external_calls"] == 0 and after["external_calls"] == asked


# -- who speaks -------------------------------------------------------------------------------------------------------


def test_the_model_only_draws(model, vocabulary):
    planner, inspector = Scripted([*PLANS, None]), Scripted([REFUSED, ACCEPTED, ACCEPTED])
    (trajectory,) = make(model, vocabulary, planner=planner, inspector=inspector, max_images=9)(["a red circle"], [0])
    assert plans(trajectory) == PLANS, "as they were said, not as they were read"
    assert [len(step.drafts) for step in trajectory.steps] == [2, 1]
    assert inspections(trajectory) == [REFUSED, ACCEPTED, ACCEPTED]
    assert trajectory.finished and trajectory.meta["stopped"] == "end"
    cost = trajectory.meta["cost"]
    assert (cost["external_calls"], cost["text_tokens"], cost["images"], cost["denoise_steps"]) == (6, 0, 3, 9)
    histories = [steps for _, steps, _ in planner.asked]
    assert [len(steps) for steps in histories] == [0, 1, 2]
    assert [draft.inspection for draft in histories[1][0].drafts] == [REFUSED, ACCEPTED]
    assert [steps for _, steps, _ in inspector.asked] == [(PLANS[0],), (PLANS[0],), tuple(PLANS)]
    for (*_, image), draft in zip(inspector.asked, trajectory.drafts, strict=True):
        assert np.array_equal(image, draft.image)


@pytest.mark.parametrize("history", ["full", "last"])
@pytest.mark.parametrize("liked", [{"eos": 50.0}, {"bos": 50.0, "ins": 50.0}], ids=["would be done", "would plan"])
def test_a_planner_for_a_model_without_critique(model, vocabulary, liked, history):
    """Where it wants to go on or be done, the planner is asked, and not the model."""
    generator = make(model, vocabulary, liked, planner=Scripted([*PLANS, None]), history=history)
    for trajectory in generator(PROMPTS, SEEDS):
        assert plans(trajectory) == PLANS and inspections(trajectory) == [None, None]
        assert trajectory.meta["stopped"] == "end"
        assert trajectory.meta["cost"]["external_calls"] == 3


def test_a_planner_for_a_model_that_inspects(model, vocabulary):
    planner = Scripted([*PLANS, PLANS[0], None])
    for trajectory in make(model, vocabulary, INSPECTS, planner=planner, max_images=5)(PROMPTS, SEEDS):
        assert plans(trajectory) == [*PLANS, PLANS[0]][: len(trajectory.steps)]
        *seen, last = inspections(trajectory)
        assert None not in seen
        assert trajectory.meta["cost"]["text_tokens"] > 0
        assert last is not None or trajectory.meta["stopped"] == "max_images"


def test_an_inspector_sees_every_draft_that_another_may_follow(model, vocabulary):
    """The model would rather go on planning."""
    inspector = Scripted([REFUSED, ACCEPTED])
    generator = make(model, vocabulary, {"bos": 50.0, "ins": 50.0}, inspector=inspector, max_images=4)
    for trajectory in generator(PROMPTS, SEEDS):
        assert inspections(trajectory) == [REFUSED, ACCEPTED, ACCEPTED, None]
        assert [len(step.drafts) for step in trajectory.steps if step.drafts] == [2, 1, 1]
        assert trajectory.meta["stopped"] == "max_images"
        assert trajectory.meta["cost"]["external_calls"] == 3


def test_a_draft_that_others_leave_as_the_answer_is_drawn_again_in_full(model, vocabulary):
    others = dict(planner=Scripted([PLANS[0], None]), inspector=Scripted([REFUSED, ACCEPTED]))
    quick = make(model, vocabulary, draft_steps=1, **others)(["a"], [0])[0]
    others = dict(planner=Scripted([PLANS[0], None]), inspector=Scripted([REFUSED, ACCEPTED]))
    rough = make(model, vocabulary, num_steps=1, **others)(["a"], [0])[0]
    first, last = quick.drafts
    assert np.array_equal(first.image, next(rough.drafts).image) and last.inspection == ACCEPTED
    assert quick.meta["cost"]["denoise_steps"] == 1 + 1 + 3
    assert quick.meta["cost"]["images"] == 3


# -- who has no answer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (NoAnswer(reason="the endpoint is down", transient=True), "planner: the endpoint is down"),
        (Plan(instruction="add a banana", description="a banana"), "'banana'"),
        (Plan(instruction="add <refine>", description="a"), "control token"),
        (Plan(instruction="add a red circle " * 9, description="a"), "exceed max_external_text=20"),
        (None, "planner: nothing to draw"),
    ],
)
@pytest.mark.parametrize("drawn", [0, 1])
def test_a_planner_without_an_answer_ends_its_row_alone(model, vocabulary, answer, reason, drawn):
    def planner(prompt, steps):
        given = [*PLANS[:drawn], answer] if prompt == "a" else [*PLANS, None]
        return given[len(steps)]

    def plain(prompt, steps):
        return [*PLANS, None][len(steps)]

    settings = dict(inspector=Scripted([ACCEPTED]), draft_steps=1)
    ended = make(model, vocabulary, planner=planner, **settings)(PROMPTS, SEEDS)
    unharmed = make(model, vocabulary, planner=plain, **settings)(PROMPTS, SEEDS)
    for one, other in zip(ended, unharmed, strict=True):
        if one.prompt != "a":
            assert plans(one) == plans(other) and same_images(one, other)
            continue
        expected = "end" if drawn and answer is None else reason
        assert expected in one.meta["stopped"]
        assert one.meta.get("unanswered", False) == isinstance(answer, NoAnswer), "only an outage is told apart"
        assert plans(one) == PLANS[:drawn]
        assert one.finished is bool(drawn)
        assert one.meta["cost"]["external_calls"] == 2 * drawn + 1
        assert one.meta["cost"]["denoise_steps"] == (1 + 3) * drawn, "what stands as the answer is drawn in full"


UNREADABLE = [
    (NoAnswer(reason="the endpoint is down", transient=True), "inspector: the endpoint is down"),
    (Inspection(draft_check="a", refine="add </ins>"), "control token"),
    (Inspection(draft_check="a", refine=" "), "expected words"),
    (Inspection(draft_check="a banana"), "'banana'"),
    (Inspection(draft_check="a " * 40), "exceed max_external_text=20"),
]


@pytest.mark.parametrize(
    ("answer", "reason", "single_pass"),
    [(*one, False) for one in UNREADABLE] + [(*one, True) for one in UNREADABLE[:3]],  # it reads refinements alone
)
def test_an_inspector_without_an_answer_leaves_the_draft(model, vocabulary, answer, reason, single_pass):
    generator = make(model, vocabulary, inspector=Scripted([answer]), single_pass=single_pass)
    for trajectory in generator(PROMPTS, SEEDS):
        assert trajectory.meta["stopped"].startswith("inspector: ") and reason in trajectory.meta["stopped"]
        assert trajectory.finished and trajectory.final_image.shape == (16, 16, 3)
        assert inspections(trajectory) == [None]
        assert trajectory.meta.get("unanswered", False) == isinstance(answer, NoAnswer)


@pytest.mark.parametrize("role", ["planner", "inspector"])
@pytest.mark.parametrize("single_pass", [False, True])
def test_what_a_partner_raises_is_told_at_once(model, vocabulary, role, single_pass):
    """No key, another size of pictures: else every row would end there, and a whole run be drawn in vain."""

    def raises(*asked):
        raise ValueError("there is no key")

    with pytest.raises(ValueError, match="there is no key"):
        make(model, vocabulary, **{role: raises}, single_pass=single_pass)(PROMPTS, SEEDS)


def test_a_partner_that_never_has_enough_is_stopped(model, vocabulary):
    endless = [
        make(model, vocabulary, planner=Scripted([PLANS[0]]), inspector=Scripted([ACCEPTED])),
        make(model, vocabulary, inspector=Scripted([REFUSED])),
        make(model, vocabulary, inspector=Scripted([REFUSED]), single_pass=True),
    ]
    for generator in endless:
        for trajectory in generator(PROMPTS, SEEDS):
            assert len(list(trajectory.drafts)) == 3 and trajectory.meta["stopped"] == "max_images"


# -- models that draw in a single pass --------------------------------------------------------------------------------


class Watched(Likes):
    """Remembers what was read, and where images were drawn: the marks of the three contexts."""

    def _engine(self, rows, opening, *, edits):
        engine = super()._engine(rows, opening, edits=edits)
        self.drawings, self.read = [], [[] for _ in engine.rows]
        reading = engine.read_text

        def read_text(texts, *more):
            for ids, text in zip(self.read, texts, strict=True):
                ids += text
            return reading(texts, *more)

        engine.read_text = read_text
        return engine

    def _paint(self, engine, rows, look=None):
        views = [row.drawing.view for row in rows]
        contexts = [(view.main, view.without_text, view.without_images) for view in views]
        self.drawings += [[None if one is None else one.mark for one in three] for three in contexts]
        return super()._paint(engine, rows, look)


def single(model, vocabulary, **changes):
    generator = make(model, vocabulary, single_pass=True, num_steps=6, **changes)
    generator.__class__ = Watched
    return generator


def test_all_plans_stand_before_the_one_image(model, vocabulary):
    """As one text of plain words, hidden from both branches of guidance like a thought."""
    guided = dict(guidance=Guidance(text_scale=2.0, image_scale=2.0))
    generator = single(model, vocabulary, planner=Scripted([*PLANS, None]), **guided)
    (trajectory,) = generator(["a red circle"], [0])
    assert plans(trajectory) == PLANS
    assert [len(step.drafts) for step in trajectory.steps] == [0, 1]
    assert trajectory.meta["stopped"] == "end"
    control, words = vocabulary.control, vocabulary.encode
    said = [token for plan in PLANS for token in words(f"{plan.instruction} {plan.description}")]
    prompt = [control.bos, *words("a red circle"), control.eos]
    assert generator.read == [[*prompt, control.bos, *said, control.eos]]
    assert generator.drawings == [[(5 + len(said) + 2,) * 2, (0, 0), (5, 5)]]
    cost = trajectory.meta["cost"]
    assert (cost["denoise_steps"], cost["images"], cost["external_calls"], cost["text_tokens"]) == (6, 1, 3, 0)
    assert cost["model_forwards"] == 2 + 3 * 6


def test_without_guidance_a_plan_is_as_good_as_a_second_prompt(model, vocabulary):
    (planned,) = single(model, vocabulary, planner=Scripted([PLANS[0], None]))(["a red circle"], [0])
    generator = single(model, vocabulary)
    generator._text = lambda words: [
        token
        for text in (words, "add a red circle a red circle")
        for token in (vocabulary.control.bos, *vocabulary.encode(text), vocabulary.control.eos)
    ]
    (prompted,) = generator(["a red circle"], [0])
    assert same_images(planned, prompted)
    (plain,) = single(model, vocabulary)(["a red circle"], [0])
    assert not same_images(planned, plain)


def test_a_single_pass_takes_a_limited_number_of_plans(model, vocabulary):
    (trajectory,) = single(model, vocabulary, planner=Scripted([PLANS[1]]))(["a"], [0])
    assert plans(trajectory) == [PLANS[1]] * 3 and trajectory.meta["cost"]["external_calls"] == 3
    assert len(list(trajectory.drafts)) == 1
    (failed,) = single(model, vocabulary, planner=Scripted([PLANS[1], NoAnswer(reason="busy")]))(["a"], [0])
    assert failed.meta["stopped"] == "planner: busy" and not failed.finished
    assert plans(failed) == PLANS[1:] and not list(failed.drafts)
    assert failed.meta["cost"]["denoise_steps"] == failed.meta["cost"]["images"] == 0


def test_an_accepted_image_of_a_single_pass_is_not_read_back(model, vocabulary):
    (trajectory,) = single(model, vocabulary, inspector=Scripted([ACCEPTED]))(["a red circle"], [0])
    assert inspections(trajectory) == [ACCEPTED] and trajectory.meta["stopped"] == "end"
    assert trajectory.meta["cost"]["model_forwards"] == 1 + 6
    (plain,) = single(model, vocabulary)(["a red circle"], [0])
    assert np.array_equal(trajectory.final_image, plain.final_image)


def test_a_refused_image_of_a_single_pass_is_corrected(seeing_model, vocabulary):
    """Behind it the refinement is read, in plain words: that is the last text, and the only one without images."""
    guided = dict(guidance=Guidance(text_scale=2.0, image_scale=2.0))
    generator = single(seeing_model, vocabulary, inspector=Scripted([REFUSED, ACCEPTED]), **guided)
    (trajectory,) = generator(["a red circle"], [0])
    assert inspections(trajectory) == [REFUSED, ACCEPTED] and plans(trajectory) == [None]
    control, words = vocabulary.control, vocabulary.encode
    texts = ["a red circle", "make it red"]
    assert generator.read == [[token for text in texts for token in (control.bos, *words(text), control.eos)]]
    image = 2 * 2 + 2 + 4 * 4 + 2
    assert generator.drawings == [
        [(5, 5), (0, 0), None],
        [(5 + image + 5, 5 + 2 + 5), (5 + image, 5 + 2), (10, 10)],
    ]
    cost = trajectory.meta["cost"]
    assert (cost["images"], cost["denoise_steps"], cost["external_calls"], cost["text_tokens"]) == (2, 12, 2, 0)


# -- what is said of it -----------------------------------------------------------------------------------------------


def test_settings_and_partners_are_told(model, vocabulary, tmp_path):
    bundle = Bundle(model=model, vocabulary=vocabulary, autoencoder=make(model, vocabulary).autoencoder)
    folder = save_pretrained(bundle, tmp_path / "model")
    sampling, named = Sampling(image_size=(16, 16), num_steps=2), Scripted([None], name="somebody/1")
    alone = TrajectoryGenerator.from_pretrained(folder, sampling)
    planned = TrajectoryGenerator.from_pretrained(folder, sampling, planner=named, inspector=lambda *asked: ACCEPTED)
    told = planned.describe()
    assert json.loads(json.dumps(told)) == told
    assert told["model"] == str(folder) and told["weights"] == weights_fingerprint(folder)
    assert told["image_size"] == [16, 16] and told["num_steps"] == 2 and told["guidance"]["text_scale"] == 1.0
    assert told["planner"] == "somebody/1" and "lambda" in told["inspector"]
    assert alone.describe()["planner"] is None
    assert planned.fingerprint.startswith(alone.fingerprint) and "planner=somebody/1" in planned.fingerprint
