"""A drawing that is watched, stopped and changed: equal to what the generator gives, and nothing computed twice."""

import gc
import re
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.flow.guidance import Guidance
from brushwork.tokens.live import LiveSampler, Placed, Session, Sketched, Wrote
from brushwork.tokens.trajectory import Inspection, Plan

PROMPT = "a red circle"


def picture(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


PLAN = (Plan(instruction="add a blue square", description="a blue square"),)
SETTINGS = {
    "plain": Sampling(image_size=(16, 16), num_steps=3, temperature=1.0, max_images=4, max_text=6),
    "guided": Sampling(
        image_size=(16, 16),
        num_steps=3,
        temperature=1.0,
        max_images=4,
        max_text=6,
        guidance=Guidance(text_scale=2.0, image_scale=1.5),
    ),
    "drafts": Sampling(image_size=(16, 16), num_steps=4, draft_steps=2, temperature=1.0, max_images=4, max_text=6),
    "last": Sampling(image_size=(16, 16), num_steps=3, temperature=1.0, max_images=4, max_text=6, history="last"),
}


@pytest.fixture(params=["guided", pytest.param("drafts", marks=pytest.mark.slow), "last"])
def generator(request, model, vocabulary):
    return TrajectoryGenerator(model, vocabulary, SETTINGS[request.param])


def told(trajectory):
    return [(step.plan, [(d.image.tolist(), d.inspection) for d in step.drafts]) for step in trajectory.steps]


def opened(generator, images):
    """A drawing that will hold at least so many images, and its seed."""
    drawn = generator([PROMPT] * 16, range(16))
    seed = next(seed for seed, one in enumerate(drawn) if len(list(one.drafts)) >= images)
    return generator.open(PROMPT, seed), seed


def test_the_protocols_hold(generator):
    assert isinstance(generator, LiveSampler)
    assert isinstance(generator.open(PROMPT, 0), Session)


@pytest.mark.parametrize("seed", range(2))
def test_it_draws_what_the_generator_draws(generator, seed):
    (expected,) = generator([PROMPT], [seed])
    drawn = generator.open(PROMPT, seed).go_on()
    assert told(drawn) == told(expected)
    assert drawn.finished
    costs = [{k: v for k, v in one.meta["cost"].items() if k != "seconds"} for one in (drawn, expected)]
    assert costs[0] == costs[1]


def test_everything_is_told_in_order(generator):
    events, (session, _) = [], opened(generator, 2)
    session.go_on(listen=events.append)
    placed = [event for event in events if isinstance(event, Placed)]
    numbers = [event.part for event in placed]
    last = {event.part: event.value for event in placed}  # the answer is told twice if it was drawn again in full
    assert sorted(set(numbers)) == list(range(len(session.parts)))
    assert numbers == sorted(numbers)
    assert all(np.array_equal(last[n], part) for n, part in enumerate(session.parts) if isinstance(part, np.ndarray))
    for n, part in enumerate(session.parts):
        of_part = [event for event in events if not isinstance(event, Placed) and event.part == n]
        assert of_part
        assert all(isinstance(event, Sketched if isinstance(part, np.ndarray) else Wrote) for event in of_part)
    texts = [event for event in events if isinstance(event, Wrote) and event.part == 0]
    if texts:
        assert texts[-1].text.startswith("<ins>") and texts[-1].text.endswith("</des>")
        assert [event.tokens for event in texts] == sorted({event.tokens for event in texts})


def test_going_on_from_any_place_makes_the_same_again_and_reads_nothing_twice(generator):
    session, _ = opened(generator, 2)
    first = session.go_on()
    parts, prefilled = list(session.parts), session.cost["prefilled_tokens"]
    for kept in range(len(parts), -1, -1):
        again = session.go_on(parts[:kept])
        assert told(again) == told(first), kept
        if generator.sampling.history == "full":
            assert session.cost["prefilled_tokens"] <= prefilled + first.meta["cost"]["prefilled_tokens"]
        prefilled = session.cost["prefilled_tokens"]


@pytest.mark.parametrize("name", ["plain", "guided"])
def test_an_edit_reads_no_more_than_what_is_new(model, vocabulary, name):
    """The tokens that are prefilled behind an edit are those of the edited text and of what comes after it."""
    generator = TrajectoryGenerator(model, vocabulary, SETTINGS[name])
    session, _ = opened(generator, 3)
    session.go_on()
    parts = list(session.parts)
    place = next(n for n in range(2, len(parts)) if isinstance(parts[n - 1], np.ndarray))
    before, marked = session.cost["prefilled_tokens"], session._places[place].mark.main[0]
    session.go_on([*parts[:place], PLAN])
    read = session._row.branches.main.mark[0] - marked
    own = len(vocabulary.encode(PLAN[0].instruction)) + len(vocabulary.encode(PLAN[0].description)) + 4 + 2
    added = session.cost["prefilled_tokens"] - before
    assert own <= read <= added
    again = 2 if name == "guided" else 1  # the branch without images reads texts by itself
    assert added <= again * read
    assert session.parts[place] == PLAN


def test_a_continuation_is_what_a_fresh_reading_gives(generator):
    """Going back in a cache equals never having gone further."""
    session, seed = opened(generator, 3)
    fresh = generator.open(PROMPT, seed)
    session.go_on()
    parts = list(session.parts)
    place = next(n for n in range(2, len(parts)) if isinstance(parts[n - 1], np.ndarray))
    one = session.go_on([*parts[:place], PLAN], seed=3)
    other = fresh.go_on([*parts[:place], PLAN], seed=3)
    assert [step.plan for step in one.steps] == [step.plan for step in other.steps]
    for a, b in zip(one.drafts, other.drafts, strict=True):
        assert np.abs(a.image.astype(int) - b.image).max() <= 1


def test_another_seed_makes_something_else(generator):
    session = generator.open(PROMPT, 0)
    first, second = session.go_on(), session.go_on([], seed=1)
    assert told(first) != told(second)
    assert told(session.go_on([], seed=1)) == told(second)


def test_a_picture_from_elsewhere_stands_in_the_trajectory(generator):
    session = generator.open(PROMPT, 0)
    drawn = session.go_on([PLAN, picture(5), Inspection(draft_check="the circle", refine="make it red"), picture(6)])
    images = [draft.image for draft in drawn.drafts]
    assert np.array_equal(images[0], picture(5)) and np.array_equal(images[1], picture(6))
    assert drawn.steps[0].plan == PLAN[0]
    assert next(drawn.drafts).inspection == Inspection(draft_check="the circle", refine="make it red")


def test_it_stops_and_goes_on_as_if_it_had_not(generator):
    session, seed = opened(generator, 2)
    (expected,), seen = generator([PROMPT], [seed]), []

    def stop(event):
        seen.append(event)
        if len(seen) == 5:
            session.stop()

    stopped = session.go_on(listen=stop)
    assert not stopped.finished and stopped.meta["stopped"] == "stopped"
    assert len(seen) <= 6
    assert told(session.go_on()) == told(expected)


def test_it_is_stopped_from_another_thread(generator):
    session, drawing = generator.open(PROMPT, 1), threading.Event()
    stopper = threading.Thread(target=lambda: (drawing.wait(5), session.stop()))
    stopper.start()
    stopped = session.go_on(listen=lambda _: (drawing.set(), stopper.join()))
    assert stopped.meta["stopped"] == "stopped"


WRONG = {
    "behind a plan": [PLAN, PLAN],
    "behind the prompt": [Inspection(draft_check="a circle")],
    "expected (16, 16, 3)": [PLAN, picture(0, 24)],
    "which the vocabulary": [(Plan(instruction="add a zebra", description="a zebra"),)],
    "control token": [(Plan(instruction="add </ins> a circle", description="a circle"),)],
    "is empty": [(Plan(instruction=" ", description="a circle"),)],
    "max_images": [PLAN, picture(0), PLAN, picture(1), PLAN, picture(2), PLAN, picture(3), PLAN],
    "max_external_text": [(Plan(instruction="a " * 300, description="a circle"),)],
}


def test_what_no_trajectory_holds_is_refused_and_changes_nothing(model, vocabulary):
    session = TrajectoryGenerator(model, vocabulary, SETTINGS["guided"]).open(PROMPT, 0)
    first, parts = session.go_on(), len(session.parts)
    for message, wrong in WRONG.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            session.go_on(wrong)
        assert len(session.parts) == parts
    assert told(session.go_on()) == told(first)


def test_a_single_pass_has_nothing_but_its_picture(model, vocabulary):
    generator = TrajectoryGenerator(model, vocabulary, replace(SETTINGS["plain"], single_pass=True))
    session = generator.open(PROMPT, 0)
    first = session.go_on()
    assert told(first) == told(generator([PROMPT], [0])[0])
    assert told(session.go_on()) == told(first)
    assert told(session.go_on([], seed=4)) != told(first)
    with pytest.raises(ValueError, match="single pass"):
        session.go_on([PLAN])


def test_failures_of_others_leave_the_drawing_usable(model, vocabulary):
    calls = []

    def planner(prompt, steps):
        calls.append(len(steps))
        if len(calls) == 2:
            raise RuntimeError("the planner broke")
        return PLAN[0] if len(steps) < 2 else None

    generator = TrajectoryGenerator(model, vocabulary, SETTINGS["plain"], planner=planner)
    session = generator.open(PROMPT, 0)
    with pytest.raises(RuntimeError, match="broke"):
        session.go_on()
    assert len(session.parts) >= 2
    drawn = session.go_on()
    assert [step.plan for step in drawn.steps] == [PLAN[0], PLAN[0]]


def test_an_inspector_looks_at_pictures_from_elsewhere(model, vocabulary):
    seen = []

    def inspector(prompt, plans, image):
        seen.append(image)
        return Inspection(draft_check="the draft shows the plan")

    generator = TrajectoryGenerator(model, vocabulary, SETTINGS["plain"], inspector=inspector)
    session = generator.open(PROMPT, 0)
    session.go_on([PLAN, picture(5)])
    assert np.array_equal(seen[0], picture(5))
    parts = list(session.parts)
    assert isinstance(parts[2], Inspection)
    seen.clear()
    session.go_on(parts[:2])  # the inspector is asked again
    assert np.array_equal(seen[0], picture(5))


def test_adjusted_settings(generator):
    changed = generator.adjusted(num_steps=2, text_scale=3.0, single_pass=True)
    assert (changed.sampling.num_steps, changed.sampling.guidance.text_scale) == (2, 3.0)
    assert changed.model is generator.model
    drawn = changed.open(PROMPT, 0).go_on()
    assert drawn.meta["cost"]["denoise_steps"] == 2
    with pytest.raises(ValueError, match="at least 1"):
        generator.adjusted(num_steps=0)


def test_tags_in_a_prompt_are_refused(generator):
    with pytest.raises(ValueError, match="control token"):
        generator.open("a <ins> circle", 0)


def test_a_drawing_that_nobody_holds_is_gone_at_once(generator):
    session = generator.open(PROMPT, 0)
    session.go_on()
    cache = weakref.ref(session._engine.cache)
    gc.disable()
    try:
        del session
        assert cache() is None
    finally:
        gc.enable()


def test_a_stop_keeps_what_is_finished(generator):
    """Also where the cache holds the last step alone."""
    session, _ = opened(generator, 3)
    session.go_on()
    whole = list(session.parts)
    place = next(n for n in range(2, len(whole)) if isinstance(whole[n], np.ndarray))
    session.go_on([], listen=lambda event: session.stop() if event.part >= place else None)
    kept = list(session.parts)
    assert len(kept) in (place, place + 1)
    session.go_on()
    again = list(session.parts)
    assert len(again) == len(whole) and all(type(a) is type(b) for a, b in zip(again, whole, strict=True))


def test_a_seed_holds_where_it_was_stopped_at_once(generator):
    session = generator.open(PROMPT, 0)
    expected = told(session.go_on([], seed=1))
    fresh = generator.open(PROMPT, 0)
    fresh.go_on([], seed=1, listen=lambda _: fresh.stop())
    assert told(fresh.go_on()) == expected


@pytest.mark.parametrize("seed", [2, 4])
def test_whatever_the_model_wrote_can_be_gone_on_from(model, vocabulary, seed):
    """Its own plans may be empty, or longer than those of others may be."""
    generator = TrajectoryGenerator(model, vocabulary, replace(SETTINGS["plain"], max_external_text=4, temperature=5.0))
    session = generator.open(PROMPT, seed)
    session.go_on()
    parts = list(session.parts)
    for kept in range(len(parts), -1, -1):
        session.go_on(parts[:kept])
    assert len(session.parts) == len(parts)


def test_a_drawing_that_has_ended_costs_nothing_more(generator):
    session = generator.open(PROMPT, 0)
    first = session.go_on()
    costs = dict(session.cost)
    assert told(session.go_on()) == told(first)
    assert {k: v for k, v in session.cost.items() if k != "seconds"} == {
        k: v for k, v in costs.items() if k != "seconds"
    }


def test_an_answer_drawn_in_full_stays_so_when_it_is_kept(model, vocabulary):
    generator = TrajectoryGenerator(model, vocabulary, SETTINGS["drafts"])
    session, _ = opened(generator, 2)
    session.go_on()
    parts = list(session.parts)
    last = max(n for n, part in enumerate(parts) if isinstance(part, np.ndarray))
    if last + 1 < len(parts) or sum(isinstance(part, np.ndarray) for part in parts) == 4:
        parts = parts[:last]
    session.go_on([*parts, PLAN] if isinstance(parts[-1], np.ndarray) else parts)
    assert all(np.array_equal(a, b) for a, b in zip(parts, session.parts, strict=False) if isinstance(a, np.ndarray))


def test_partners_in_a_single_pass(model, vocabulary):
    """A planner's and an inspector's texts are no edits, so that drawings with them can be gone on with."""
    refuses = [Inspection(refine="make it red"), Inspection()]
    settings = replace(SETTINGS["plain"], single_pass=True)
    generator = TrajectoryGenerator(
        model,
        vocabulary,
        settings,
        planner=lambda prompt, steps: PLAN[0] if len(steps) < 2 else None,
        inspector=lambda prompt, plans, image: refuses[0] if np.array_equal(image, picture(5)) else refuses[1],
    )
    session = generator.open(PROMPT, 0)
    first = session.go_on()
    assert told(session.go_on()) == told(first)
    session.go_on([], seed=1, listen=lambda event: session.stop() if isinstance(event, Sketched) else None)
    assert session.go_on().finished
    drawn = generator.adjusted(planner=None).open(PROMPT, 0).go_on([picture(5)])
    assert len(list(drawn.drafts)) == 2


def test_a_picture_survives_an_inspector_that_breaks(model, vocabulary):
    answers = [RuntimeError("it broke"), Inspection(draft_check="the draft shows the plan")]

    def inspector(prompt, plans, image):
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    session = TrajectoryGenerator(model, vocabulary, SETTINGS["plain"], inspector=inspector).open(PROMPT, 0)
    with pytest.raises(RuntimeError, match="broke"):
        session.go_on([PLAN])
    (kept,) = [part for part in session.parts if isinstance(part, np.ndarray)]
    drawn = session.go_on()
    assert np.array_equal(next(drawn.drafts).image, kept)


def test_what_was_read_cannot_be_painted_over(generator):
    session, mine = generator.open(PROMPT, 0), picture(5)
    session.go_on([PLAN, mine])
    mine[:] = 0  # the caller's own; what was read stays
    assert np.array_equal(session.parts[1], picture(5))
    with pytest.raises(ValueError, match="read-only"):
        session.parts[1][:] = 0
    session.go_on([PLAN, mine])
    assert np.array_equal(session.parts[1], mine)
