import numpy as np
import pytest
import torch

from brushwork.flow.generate import Sampling, TrajectoryGenerator, assemble
from brushwork.flow.guidance import TextGuidance
from brushwork.flow.path import interpolate
from brushwork.tokens.images import patchify
from brushwork.tokens.packing import CLEAN, pack
from brushwork.tokens.segments import Kind, Segment
from brushwork.tokens.trajectory import Inspection, Plan

PROMPTS = ["a red circle", "a blue square left of a circle", "a"]


@pytest.fixture
def generator(model, vocabulary):
    sampling = Sampling(
        image_size=(16, 16),
        num_steps=3,
        guidance=TextGuidance(scale=2.0),
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


def test_cached_generation_equals_one_packed_forward(model, vocabulary, segmenter, trajectory):
    """The whole of a trajectory, fed piece by piece into a cache, gives the logits and velocities of one pack."""
    segments = segmenter(trajectory, np.random.default_rng(0))
    batch = pack([segments], vocabulary.control)
    images = torch.stack(batch.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    data = patchify(images, 8).flatten(0, 1)[batch.patch_source]
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.where(batch.patch_draw == CLEAN, 0.0, 0.3 + 0.1 * batch.patch_draw)
    patches = interpolate(data, noise, timesteps)
    whole = model(batch, patches, timesteps)

    cache, velocities, switches, start = model.new_cache(1, batch.num_tokens), [], [], 0
    for segment in segments:
        piece = pack([[segment]], vocabulary.control)
        end = start + len(piece.patch_index)
        out = model(piece, patches[start:end], timesteps[start:end], cache)
        start = end
        velocities.append(out.velocity)
        switches.append(out.switch_logits)
        if segment.kind is not Kind.NOISED:
            cache.commit(piece)
    torch.testing.assert_close(torch.cat(velocities), whole.velocity, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat(switches), whole.switch_logits, atol=1e-4, rtol=1e-4)


def test_the_guidance_branch_is_the_context_without_the_last_text(model, vocabulary):
    """A shorter view of one cache row equals a cache that never saw the last text."""
    control = vocabulary.control
    prompt, plan = (
        Segment(kind=Kind.TEXT, position=p, ids=(control.bos, *ids, control.eos))
        for p, ids in ((0, (11, 12)), (4, (13,)))
    )
    noised = Segment(kind=Kind.NOISED, position=4, grid=(2, 2))
    empty, x = torch.zeros((0, 192)), torch.randn((4, 192), generator=torch.Generator().manual_seed(0))
    caches = [model.new_cache(1, 40) for _ in range(2)]
    for cache, texts in zip(caches, ([prompt, plan], [prompt]), strict=True):
        batch = pack([texts], control)
        model(batch, empty, torch.zeros(0), cache)
        cache.commit(batch)
    image = pack([[noised]], control)
    times = torch.full((4,), 0.5)
    viewed = model(image, x, times, caches[0], torch.full((6,), 4)).velocity
    torch.testing.assert_close(viewed, model(image, x, times, caches[1]).velocity, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(viewed, model(image, x, times, caches[0]).velocity, atol=1e-3)


def test_a_full_cache_says_so(model, vocabulary):
    batch = pack([[Segment(kind=Kind.TEXT, position=0, ids=(0, 1))]], vocabulary.control)
    with pytest.raises(ValueError, match="capacity of 1"):
        model(batch, torch.zeros((0, 192)), torch.zeros(0), model.new_cache(1, 1))


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
