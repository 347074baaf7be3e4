import numpy as np
import pytest

from brushwork.flow.generate import Sampling, TrajectoryGenerator, assemble
from brushwork.flow.guidance import Guidance
from brushwork.tokens.trajectory import Inspection, Plan

PROMPTS = ["a red circle", "a blue square left of a circle", "a"]


@pytest.fixture
def generator(model, vocabulary):
    sampling = Sampling(
        image_size=(16, 16),
        num_steps=3,
        guidance=Guidance(text_scale=2.0),
        temperature=1.0,
        max_images=3,
        max_text=6,
    )
    return TrajectoryGenerator(model, vocabulary, sampling)


def words(trajectory):
    return [(step.plan, [draft.inspection for draft in step.drafts]) for step in trajectory.steps]


def test_a_result_does_not_depend_on_its_batch(generator):
    together = generator(PROMPTS, [5, 6, 7])
    alone = [generator([prompt], [seed])[0] for prompt, seed in zip(PROMPTS, [5, 6, 7], strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert words(one) == words(other)
        for a, b in zip(one.drafts, other.drafts, strict=True):
            assert np.abs(a.image.astype(int) - b.image).max() <= 1  # rounding to 8 bits


def test_equal_seeds_give_equal_trajectories_and_others_do_not(generator):
    one, again, other = (generator(["a red circle"], [seed])[0] for seed in (1, 1, 2))
    assert np.array_equal(one.final_image, again.final_image)
    assert not np.array_equal(one.final_image, other.final_image)


@pytest.mark.parametrize("seed", range(4))
def test_every_trajectory_ends_within_its_limits(generator, seed):
    """An untrained model writes nonsense; grammar and limits still hold."""
    for trajectory in generator(PROMPTS, [seed] * 3):
        drafts = list(trajectory.drafts)
        assert 1 <= len(drafts) <= 3
        assert trajectory.final_image.shape == (16, 16, 3)
        assert trajectory.meta["stopped"] in {"end", "max_images"}
        assert trajectory.meta["cost"]["denoise_steps"] == 3 * len(drafts)


@pytest.mark.parametrize("tag", ["<refine>", "<|vision_start|>"])
def test_tags_in_a_prompt_are_refused(generator, tag):
    with pytest.raises(ValueError, match="control token"):
        generator([f"a red {tag} circle"], [0])


def test_assemble():
    image, plan = np.zeros((8, 8, 3), np.uint8), Plan(instruction="a", description="b")
    steps = assemble([(plan, plan), image, Inspection(draft_check="no", refine="more"), image, (plan,), image])
    assert [len(step.drafts) for step in steps] == [0, 2, 1]
    assert steps[1].drafts[0].inspection.refine == "more"
    assert assemble([image])[0].plan is None


@pytest.mark.parametrize("max_text", [1, 2, 3])
def test_texts_that_reach_their_limit_end_well(model, vocabulary, max_text):
    sampling = Sampling(image_size=(16, 16), num_steps=1, temperature=1.0, max_images=3, max_text=max_text)
    prompts = ["a red circle"] * 24
    for trajectory in TrajectoryGenerator(model, vocabulary, sampling)(prompts, range(24)):
        assert trajectory.final_image.shape == (16, 16, 3)
