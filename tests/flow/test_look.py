"""Unfinished pictures are shown, and dropped: nothing else changes, and what was not drawn is not counted."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.flow.guidance import Guidance
from brushwork.flow.path import timestep_grid
from brushwork.flow.solver import euler
from brushwork.tokens.roles import Look
from brushwork.tokens.trajectory import Inspection, Plan

PROMPTS, SEEDS = ["a red circle", "a blue square left of a circle", "a", "the blue circle"], [5, 6, 7, 8]


@dataclass
class Drops:
    """Drops given rows at a step, the first time, and remembers what it was shown."""

    steps: list[int]
    at: dict[int, set[int]] = field(default_factory=dict)
    shown: list = field(default_factory=list)

    def keep(self, rows, images, step):
        self.shown += [(step, row, image) for row, image in zip(rows, images, strict=True)]
        dropped = self.at.pop(step, set())
        return [row not in dropped for row in rows]


def make(model, vocabulary, planner=None, inspector=None, **changes):
    settings = dict(image_size=(16, 16), num_steps=6, temperature=0.5, max_images=3, max_text=8, single_pass=True)
    sampling = Sampling(guidance=Guidance(text_scale=2.0), **{**settings, **changes})
    return TrajectoryGenerator(model, vocabulary, sampling, planner=planner, inspector=inspector)


def counted(trajectory):
    return {name: value for name, value in trajectory.meta["cost"].items() if name != "seconds"}


@pytest.mark.parametrize("settings", [{}, {"single_pass": False, "draft_steps": 4}, {"evaluate_every": 2}], ids=str)
def test_looking_alone_changes_nothing(model, vocabulary, settings):
    """Bit for bit."""
    generator, look = make(model, vocabulary, **settings), Drops([1, 3])
    assert isinstance(look, Look)
    for one, other in zip(generator(PROMPTS, SEEDS, look=look), generator(PROMPTS, SEEDS), strict=True):
        assert one.steps != () and len(one.steps) == len(other.steps) and counted(one) == counted(other)
        for a, b in zip(one.drafts, other.drafts, strict=True):
            assert np.array_equal(a.image, b.image) and a.inspection == b.inspection
    assert {step for step, *_ in look.shown} == {1, 3}
    assert {row for _, row, _ in look.shown} == {0, 1, 2, 3}


@pytest.mark.parametrize("every", [1, 2])
def test_what_is_dropped_costs_no_more_and_what_is_kept_stays(model, vocabulary, every):
    generator, look = make(model, vocabulary, evaluate_every=every), Drops([2, 4], {2: {1}, 4: {0, 3}})
    looked, plain = generator(PROMPTS, SEEDS, look=look), generator(PROMPTS, SEEDS)
    assert [(step, row) for step, row, _ in look.shown] == [(2, 0), (2, 1), (2, 2), (2, 3), (4, 0), (4, 2), (4, 3)]
    for row, steps in {0: 4, 1: 2, 3: 4}.items():
        dropped = looked[row]
        assert dropped.meta["stopped"] == "dropped" and not dropped.finished and dropped.steps == ()
        cost = dropped.meta["cost"]
        assert cost["denoise_steps"] == steps and cost["images"] == 0
        evaluated = steps if every == 1 else {2: 2, 4: 3}[steps]
        assert cost["model_forwards"] == 1 + 2 * evaluated  # the prompt, and both branches of guidance
    assert np.array_equal(looked[2].final_image, plain[2].final_image) and counted(looked[2]) == counted(plain[2])


def test_the_picture_is_the_data_prediction():
    """At every step of a path that leads straight to some data, that is the data."""
    data, noise = torch.randn(2, 2, 4, 3, generator=torch.Generator().manual_seed(0)).unbind()
    seen = []
    x = euler(
        lambda x, t: noise - data, noise, timestep_grid(5, shift=3.0), select=lambda *shown: seen.append(shown) or None
    )
    torch.testing.assert_close(x, data)
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    for _, predicted in seen:
        torch.testing.assert_close(predicted, data, atol=1e-5, rtol=1e-4)


def test_the_last_look_nearly_shows_the_picture(model, vocabulary):
    look = Drops([1, 59])
    (trajectory,) = make(model, vocabulary, num_steps=60)(["a"], [0], look=look)
    (_, _, early), (_, _, late) = look.shown
    difference = [np.abs(trajectory.final_image.astype(int) - image).mean() for image in (early, late)]
    assert difference[1] < 5 < difference[0]


def test_a_process_keeps_what_it_had(model, vocabulary):
    """The second picture of a row is dropped: what it planned for it is told, and its first draft stays a draft."""
    plans = [Plan(instruction="add a circle", description="a circle"), Plan(instruction="add a", description="a")]
    accepted = Inspection(draft_check="the draft shows the plan")
    others = dict(
        planner=lambda prompt, steps: plans[len(steps)] if len(steps) < 2 else None,
        inspector=lambda prompt, plans, image: accepted,
    )
    generator, look = make(model, vocabulary, single_pass=False, draft_steps=3, **others), Drops([2])
    plain = generator(PROMPTS, SEEDS)
    look.keep = lambda rows, images, step: look.shown.append(rows) or [row != 1 or len(look.shown) < 2 for row in rows]
    looked = generator(PROMPTS, SEEDS, look=look)
    assert [list(rows) for rows in look.shown] == [[0, 1, 2, 3], [0, 1, 2, 3]], "answers are not looked at again"
    dropped = looked.pop(1)
    assert [step.plan for step in dropped.steps] == plans
    assert [[draft.inspection for draft in step.drafts] for step in dropped.steps] == [[accepted], []]
    assert dropped.meta["cost"]["denoise_steps"] == 3 + 2 and dropped.meta["cost"]["images"] == 1
    with pytest.raises(ValueError, match="cut off"):
        _ = dropped.final_image
    for one, other in zip(looked, [plain[0], *plain[2:]], strict=True):
        assert one.meta["cost"]["denoise_steps"] == 3 + 3 + 6
        for a, b in zip(one.drafts, other.drafts, strict=True):
            assert np.abs(a.image.astype(int) - b.image).max() <= 1


def test_nothing_may_be_left(model, vocabulary):
    look = Drops([1], {1: {0, 1, 2, 3}})
    for trajectory in make(model, vocabulary)(PROMPTS, SEEDS, look=look):
        assert trajectory.meta["stopped"] == "dropped" and trajectory.meta["cost"]["denoise_steps"] == 1


def test_a_look_that_cannot_be_is_refused(model, vocabulary):
    generator = make(model, vocabulary)
    for steps in ([0], [2, 6]):
        with pytest.raises(ValueError, match="unfinished from 1 to num_steps - 1"):
            generator(PROMPTS, SEEDS, look=Drops(steps))
    look = Drops([1])
    look.keep = lambda rows, images, step: [True]
    with pytest.raises(ValueError, match="1 answers for 4 pictures"):
        generator(PROMPTS, SEEDS, look=look)
