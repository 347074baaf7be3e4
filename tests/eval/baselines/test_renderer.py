"""The renderer draws what is asked, and refuses what cannot be."""

import pytest

from brushwork.eval.baselines.renderer import RendererSampler


@pytest.mark.parametrize("prompt", ["a red circle at b3 and a blue square", "four rings", "a cross above a ring"])
def test_draws_what_is_asked(world, judge, prompt):
    (trajectory,) = RendererSampler(world=world)([prompt], [3])
    assert judge(prompt, trajectory.final_image).passed


def test_the_seed_decides(world):
    first, again, other = RendererSampler(world=world)(["two circles"] * 3, [1, 1, 2])
    assert (first.final_image == again.final_image).all()
    assert (first.final_image != other.final_image).any()


@pytest.mark.parametrize(
    ("prompt", "message"), [("a zebra", "zebra"), (" and ".join(["nine rings"] * 2), "more objects")]
)
def test_refuses_what_cannot_be_drawn(world, prompt, message):
    with pytest.raises(ValueError, match=message):
        RendererSampler(world=world)([prompt], [0])
