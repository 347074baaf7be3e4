"""What each arm reads."""

import numpy as np
import pytest

from brushwork.critic.scene import diff, parse_scene
from brushwork.data import views
from brushwork.data.augment import Augmentation
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.tokens.trajectory import Trajectory


@pytest.fixture(scope="module")
def stored() -> Trajectory:
    """Two objects, each drawn wrong first: four drafts."""
    rng = np.random.default_rng(0)
    (made,) = multi_turn(
        [shapes_task(ShapesWorld(), "two_objects", rng, "train")], drawing=shapes_drawing(), flaw_rate=1.0
    )
    return made


def test_process_is_all_of_it(stored):
    assert views.process(stored) is stored


def test_single_pass_is_prompt_and_answer(stored):
    (step,) = views.single_pass(stored).steps
    (draft,) = step.drafts
    assert step.plan is None and draft.inspection is None and not draft.flawed
    assert draft.image is stored.final_image


@pytest.mark.slow
def test_a_text_plan_with_detours_ends_in_what_is_drawn():
    """Read alone, its last description is the picture's: what was led astray has been taken back in words."""
    tasks = [shapes_task(ShapesWorld(), "two_objects", np.random.default_rng(n), "train") for n in range(16)]
    drawing, detours = shapes_drawing(critique=False), Augmentation(rate=1.0)
    commands = set()
    for made in map(views.text_plan, multi_turn(tasks, drawing=drawing, augmentation=detours)):
        *before, last = made.steps
        commands |= {step.plan.instruction.split()[0] for step in made.steps}
        assert all(step.drafts == () for step in before)
        said, shown = parse_scene(last.plan.description), ShapesWorld().detect(made.final_image)
        assert not diff(said, shown) and len(said.objects) == len(shown.objects)
    assert commands == {"add", "make", "replace", "remove"}


def test_text_plan_draws_once(stored):
    first, last = views.text_plan(stored).steps
    assert (first.plan, last.plan) == tuple(step.plan for step in stored.steps)
    assert first.drafts == () and [draft.image is stored.final_image for draft in last.drafts] == [True]
    assert last.drafts[0].inspection is None


def test_no_critique_keeps_the_accepted_drafts(stored):
    seen = views.no_critique(stored)
    assert [step.plan for step in seen.steps] == [step.plan for step in stored.steps]
    for step, before in zip(seen.steps, stored.steps, strict=True):
        (draft,) = step.drafts
        assert draft.image is before.drafts[1].image and draft.inspection is None and not draft.flawed


@pytest.mark.parametrize("view", [views.single_pass, views.text_plan, views.no_critique])
def test_a_view_changes_neither_prompt_nor_key_nor_meta(stored, view):
    seen = view(stored)
    assert (seen.key, seen.prompt, seen.meta) == (stored.key, stored.prompt, stored.meta)
    assert seen.final_image is stored.final_image


@pytest.mark.parametrize("view", [views.single_pass, views.text_plan])
def test_a_trajectory_without_image_is_refused(view):
    with pytest.raises(ValueError, match="'empty' holds no image"):
        view(Trajectory(key="empty", prompt="a ring", steps=()))
