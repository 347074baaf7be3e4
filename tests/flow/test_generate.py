from dataclasses import replace

import numpy as np
import pytest
import torch

from brushwork.flow.autoencoder import FluxAutoencoder, FluxConfig, PixelAutoencoder
from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.flow.guidance import Guidance
from brushwork.tokens.attention import Kind
from brushwork.tokens.images import patchify, vision_patches
from brushwork.tokens.live import assemble
from brushwork.tokens.packing import pack, split_documents
from brushwork.tokens.segments import Segmenter
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


# -- settings ---------------------------------------------------------------------------------------------------------


def make(model, vocabulary, **changes):
    settings = dict(image_size=(16, 16), num_steps=6, temperature=1.0, max_images=3, max_text=6)
    return TrajectoryGenerator(model, vocabulary, Sampling(**{**settings, **changes}))


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_model_that_sees(seeing_model, vocabulary, scale):
    """Every image is read back twice, and guidance by images has a branch of its own; still no row meets another."""
    guidance = Guidance(text_scale=2.0, image_scale=scale)
    generator = make(seeing_model, vocabulary, guidance=guidance, temperature=20.0)
    prompts, seeds = PROMPTS * 3, list(range(9))
    together, alone = generator(prompts, seeds), [generator([p], [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    assert max(len(list(t.drafts)) for t in together) > 1
    for one, other in zip(together, alone, strict=True):
        assert words(one) == words(other)
        assert one.meta["cost"]["model_forwards"] == other.meta["cost"]["model_forwards"]
        for a, b in zip(one.drafts, other.drafts, strict=True):
            assert np.abs(a.image.astype(int) - b.image).max() <= 1


def test_drafts_in_fewer_steps(model, vocabulary):
    """The answer is drawn in full, from the noise of its draft; what else is written stays as it is."""
    quick, full = make(model, vocabulary, draft_steps=2), make(model, vocabulary, num_steps=2)
    for fast, slow in zip(quick(PROMPTS, [1, 2, 3]), full(PROMPTS, [1, 2, 3]), strict=True):
        assert [plan for plan, _ in words(fast)] == [plan for plan, _ in words(slow)]
        *drafts, _ = fast.drafts
        for a, b in zip(drafts, slow.drafts, strict=False):
            assert np.array_equal(a.image, b.image)
        count = len(list(fast.drafts))
        last = 6 if count == 3 else 2 + 6  # a third image is known to be the last one
        assert fast.meta["cost"]["denoise_steps"] == 2 * (count - 1) + last
    single = make(model, vocabulary, single_pass=True)(PROMPTS, [1, 2, 3])
    drafted = make(model, vocabulary, single_pass=True, draft_steps=2)(PROMPTS, [1, 2, 3])
    for one, other in zip(single, drafted, strict=True):
        assert np.array_equal(one.final_image, other.final_image)
        assert other.meta["cost"]["denoise_steps"] == 6


def test_an_answer_that_was_a_draft_is_what_a_full_drawing_gives(model, vocabulary):
    """One image in the same context: drawn at once in full, or first as a draft."""
    at_once, later = make(model, vocabulary), make(model, vocabulary, draft_steps=1)
    for seed in range(12):
        a, b = (generator(["a red circle"], [seed])[0] for generator in (at_once, later))
        if len(list(b.drafts)) == 1 == len(list(a.drafts)):
            assert np.array_equal(a.final_image, b.final_image)
            return
    pytest.fail("no seed gave a single image")


def test_a_single_pass_is_one_image_and_nothing_in_vain(model, vocabulary):
    (trajectory,) = make(model, vocabulary, single_pass=True)(["a red circle"], [0])
    assert [step.plan for step in trajectory.steps] == [None]
    cost = trajectory.meta["cost"]
    assert cost["model_forwards"] == 1 + 6  # the prompt and the steps: the image is not read back
    assert cost["prefilled_tokens"] == 5


def test_there_is_no_room_for_an_image_that_nobody_reads(model, vocabulary):
    """At 1024 pixels it would take half a gigabyte a prompt."""
    for count in (1, 3):
        (row,) = make(model, vocabulary, max_images=count)._engine(1, opening=5, edits=False).rows
        start, stop = row.main.free
        text, image = 6 + 8, 2 * 2 + 2
        assert stop - start == 5 + text + (count - 1) * (2 * text + image)


def test_evaluating_every_other_step(model, vocabulary):
    (trajectory,) = make(model, vocabulary, single_pass=True, evaluate_every=2)(["a red circle"], [0])
    assert trajectory.meta["cost"]["model_forwards"] == 1 + 4  # three at the start, then steps 5 of 4, 5, 6


# -- what the model sees when it draws is what it was trained on ------------------------------------------------------


class Eager(TrajectoryGenerator):
    """Untrained, but fond of another step and of what it drew."""

    def following(self, fed, logits, rows):
        control, liked = self.vocabulary.control, torch.zeros(logits.shape[1])
        liked[[control.bos, control.ins, control.refine, control.refine_end]] = 2 * self.sampling.temperature
        return super().following(fed, logits + liked, rows)


class Recording(Eager):
    """Keeps of each row, by document, the logits behind each place that it read up to, and where images were drawn."""

    def __call__(self, prompts, seeds):
        self.document = [0] * len(prompts)
        self.logits = [[] for _ in prompts]
        self.drawings = [[] for _ in prompts]
        return super().__call__(prompts, seeds)

    def restart(self, engine, rows):
        for row in rows:
            self.document[row.number] += row.restarts
        super().restart(engine, rows)

    def following(self, fed, logits, rows):
        for row, line in zip(fed, logits, strict=True):
            self.logits[row.number].append((self.document[row.number], len(row.branches.main) - 1, line))
        return super().following(fed, logits, rows)

    def _paint(self, engine, rows, look=None):
        for row in rows:
            contexts = (getattr(row.drawing.view, name) for name in ("main", "without_text", "without_images"))
            marks = [None if context is None else context.mark for context in contexts]
            self.drawings[row.number].append((self.document[row.number], *marks))
        return super()._paint(engine, rows, look)


def teacher_forced(model, document, vocabulary):
    """The logits behind every token of a training document, its noised images left out (nobody sees them)."""
    batch = pack([[s for s in document if s.kind is not Kind.NOISED]], vocabulary.control)
    everywhere = torch.arange(batch.num_tokens)
    batch = replace(batch, switch_index=everywhere, switch_labels=everywhere, switch_span=everywhere)
    images = [torch.tensor(s.image) for s in document if s.kind is Kind.CLEAN]
    latents = [patchify(PixelAutoencoder().encode(image[None]), 8)[0] for image in images]
    patches = torch.cat([*latents, torch.zeros((0, model.config.patch_dim))])
    pixels = [vision_patches(image, model.config.vision.patch_size) for image in batch.vision_images]
    with torch.no_grad():
        return model(batch, patches, torch.zeros(len(patches)), torch.cat(pixels) if pixels else None).switch_logits


def drawings(documents, control):
    """Where a training sample draws: (document, mark of the context, ... without the last text, ... without images)."""
    for number, document in enumerate(documents):
        for place, segment in enumerate(document):
            if segment.kind is Kind.NOISED:
                before = [s for s in document[:place] if s.kind is not Kind.NOISED]
                cut = max(i for i, s in enumerate(before) if s.ids[:1] == (control.bos,))
                texts = sum(len(s) for s in before if s.kind is Kind.TEXT)
                yield (
                    number,
                    (sum(map(len, before)), segment.position),
                    (sum(map(len, before[:cut])), before[cut].position) if before[-1].kind is Kind.TEXT else None,
                    (texts, texts) if any(s.kind is not Kind.TEXT for s in before) else None,
                )


@pytest.mark.parametrize(
    ("context", "history"),
    [("both", "full"), ("vision", "full"), ("both", "last"), ("latent", "last"), ("blank", "full"), ("blank", "last")],
)
def test_sampling_sees_what_training_saw(seeing_model, vocabulary, context, history):
    """Sampled trajectories, segmented for training: the same logits at every place, the same contexts to draw in."""
    sampling = Sampling(
        image_size=(16, 16), num_steps=1, temperature=20.0, max_images=4, max_text=6, context=context, history=history,
        guidance=Guidance(text_scale=2.0, image_scale=2.0),
    )  # fmt: skip
    generator = Recording(seeing_model, vocabulary, sampling)
    vision = seeing_model.config.vision.resize
    segmenter = Segmenter(vocabulary=vocabulary, stride=8, context=context, history=history, vision=vision)
    openings = set()
    for number, trajectory in enumerate(generator(["a red circle", "a blue square"] * 4, range(8))):
        documents = split_documents(segmenter(trajectory, np.random.default_rng(0)))
        expected = [teacher_forced(seeing_model, document, vocabulary) for document in documents]
        for document, place, logits in generator.logits[number]:
            torch.testing.assert_close(logits, expected[document][place], atol=2e-4, rtol=1e-3)
        assert generator.drawings[number] == list(drawings(documents, vocabulary.control))
        with_drafts = [step for step in trajectory.steps if step.drafts]
        assert len(documents) == (len(with_drafts) if history == "last" else 1)
        openings |= {step.drafts[-1].inspection is None for step in with_drafts[:-1]}
    assert openings == {False, True}, "steps that follow an inspection, and steps that follow an image"


def test_a_model_that_cannot_see_reads_latents(model, vocabulary):
    with pytest.raises(ValueError, match="no vision encoder; choose 'latent' or 'both'"):
        make(model, vocabulary, context="vision")
    prompts, seeds = PROMPTS * 3, range(9)
    settings = dict(temperature=20.0, num_steps=1)
    both, latent = (make(model, vocabulary, context=c, **settings)(prompts, seeds) for c in ("both", "latent"))
    for one, other in zip(both, latent, strict=True):
        assert words(one) == words(other) and np.array_equal(one.final_image, other.final_image)


class Inverting(Eager):
    """Its pictures come out as negatives."""

    def _paint(self, engine, rows, look=None):
        for row, image in super()._paint(engine, rows, look):
            yield row, 255 - image


@pytest.mark.parametrize("history", ["full", "last"])
def test_what_follows_a_picture_that_is_read_as_blank_does_not_depend_on_it(seeing_model, vocabulary, history):
    """Words and later drawings, with every branch of guidance, and answers that were drafts."""
    settings = dict(history=history, temperature=20.0, draft_steps=1, num_steps=2, max_images=3, max_text=6)
    guidance, seeds = Guidance(text_scale=2.0, image_scale=2.0), range(len(PROMPTS) * 2)
    same = {}
    for context in ("blank", "both"):
        sampling = Sampling(image_size=(16, 16), context=context, guidance=guidance, **settings)
        kinds = (Eager, Inverting)
        drawn = [kind(seeing_model, vocabulary, sampling)(PROMPTS * 2, seeds) for kind in kinds]
        same[context] = all(
            words(one) == words(other)
            and all(np.array_equal(a.image, 255 - b.image) for a, b in zip(one.drafts, other.drafts, strict=True))
            for one, other in zip(*drawn, strict=True)
        )
        assert max(len(list(trajectory.drafts)) for trajectory in drawn[0]) > 1
    assert same == {"blank": True, "both": False}


def test_documents_do_not_meet_and_end_well(seeing_model, vocabulary):
    """Rows that start anew at different times, with quick drafts: alone and together."""
    settings = dict(history="last", temperature=20.0, draft_steps=1, num_steps=2, max_images=4)
    sampling = Sampling(image_size=(16, 16), max_text=6, guidance=Guidance(text_scale=2.0, image_scale=2.0), **settings)
    generator = Eager(seeing_model, vocabulary, sampling)
    prompts, seeds = PROMPTS, [12, 7, 11]
    together, alone = generator(prompts, seeds), [generator([p], [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    assert max(sum(bool(step.drafts) for step in t.steps) for t in together) > 2
    for one, other in zip(together, alone, strict=True):
        assert words(one) == words(other)
        assert one.meta["cost"]["model_forwards"] == other.meta["cost"]["model_forwards"]
        for a, b in zip(one.drafts, other.drafts, strict=True):
            assert np.abs(a.image.astype(int) - b.image).max() <= 1


def test_no_prompts_no_trajectories(generator):
    assert generator([], []) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (20, 16)}, "tokens of 8 pixels"),
        ({"image_size": (64, 16)}, "ends at 32 pixels"),
        ({"num_steps": 0}, "at least 1"),
        ({"draft_steps": 9}, "exceeds num_steps=6"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(model, vocabulary, changes, message):
    with pytest.raises(ValueError, match=message):
        make(model, vocabulary, **changes)


def test_a_wrong_autoencoder_is_refused_at_once(model, vocabulary):
    flux = FluxAutoencoder(FluxConfig(width=32, multipliers=(1, 1), num_blocks=1))
    with pytest.raises(ValueError, match="reads 3 at 1/1"):
        TrajectoryGenerator(model, vocabulary, Sampling(image_size=(16, 16)), autoencoder=flux)


def test_half_precision_keeps_the_state_in_single(make_model, vocabulary):
    """bfloat16 weights draw nearly what single precision draws: noise, state and steps are not rounded."""
    exact, rounded = make_model(), make_model().bfloat16()
    for model in (exact, rounded):
        for parameter in model.parameters():
            parameter.data.mul_(0.3)
    images = [make(m, vocabulary, single_pass=True)(["a red circle"], [0])[0].final_image for m in (exact, rounded)]
    difference = np.abs(images[0].astype(int) - images[1])
    assert difference.mean() < 4 and difference.max() > 0
