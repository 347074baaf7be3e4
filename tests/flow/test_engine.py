"""Reading and drawing: branches of guidance against contexts that were made from nothing, and what is refused."""

import numpy as np
import pytest
import torch

from brushwork.flow.autoencoder import FluxAutoencoder, FluxConfig, PixelAutoencoder
from brushwork.flow.engine import Engine, image_tokens
from brushwork.flow.guidance import Guidance
from brushwork.flow.path import timestep_grid
from brushwork.flow.solver import euler
from brushwork.tokens.segments import blank


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)


BOTH = Guidance(text_scale=3.0, image_scale=2.0, renorm="none")
TEXTS = [[11, 12, 13], [14, 15], [16]]


@pytest.fixture
def make_engine(seeing_model, vocabulary):
    def build(guidance: Guidance = BOTH, rows: int = 1, context: str = "both") -> Engine:
        sizes = dict(rows=rows, capacity=200, text_capacity=60, patches=4, context=context)
        return Engine(seeing_model, PixelAutoencoder(), vocabulary.control, guidance, **sizes)

    return build


def text(ids, vocabulary):
    return [vocabulary.control.bos, *ids, vocabulary.control.eos]


def drawn(engine: Engine, rows=(0,), steps: int = 3, **options) -> torch.Tensor:
    noise = torch.randn((1, 4, 192), generator=torch.Generator().manual_seed(0)).repeat(len(rows), 1, 1)
    return euler(engine.velocity(engine.views(list(rows)), (2, 2)), noise, timestep_grid(steps), **options)


def velocity(engine: Engine, view) -> torch.Tensor:
    """Unguided, in one context alone."""
    alone = type(view)(main=view.main, without_text=None, without_images=None, row=view.row)
    x = torch.randn((1, 4, 192), generator=torch.Generator().manual_seed(0))
    return engine.velocity([alone], (2, 2))(x, 0.0)


def test_branches_are_the_contexts_that_they_stand_for(make_engine, vocabulary):
    """text, image, text, image, text: against engines that never read the last text, or any image."""
    engine = make_engine()
    images = [picture(0), picture(1)]
    for ids, image in zip(TEXTS, [*images, None], strict=True):
        engine.read_text([text(ids, vocabulary)])
        if image is not None:
            engine.read_images([image])
    (view,) = engine.views([0])

    without_text, without_images = make_engine(), make_engine()
    for number, ids in enumerate(TEXTS):
        without_images.read_text([text(ids, vocabulary)])
        if number < 2:
            without_text.read_text([text(ids, vocabulary)])
            without_text.read_images([images[number]])
    for context, other in ((view.without_text, without_text), (view.without_images, without_images)):
        assert context.mark == other.rows[0].main.mark
        alone = type(view)(main=context, without_text=None, without_images=None, row=view.row)
        torch.testing.assert_close(velocity(engine, alone), velocity(other, other.views([0])[0]), atol=1e-5, rtol=1e-4)


def test_nothing_is_read_twice(make_engine, vocabulary):
    """The branch without images shares what precedes the first image, and reads each later text once."""
    engine = make_engine()
    engine.read_text([text(TEXTS[0], vocabulary)])
    assert engine.views([0])[0].without_images is None  # nothing to leave out: the main context serves
    engine.read_images([picture(0)])
    engine.read_text([text(TEXTS[1], vocabulary)])
    before = engine.rows[0].prefilled
    (view,) = engine.views([0])
    assert engine.rows[0].prefilled - before == 4
    assert view.without_images.stretches[0] == (0, 5)  # the very slots of the main context
    engine.views([0])
    assert engine.rows[0].prefilled - before == 4


@pytest.mark.parametrize("drew", [False, True])
def test_a_restarted_sequence_is_one_that_never_read_anything_else(make_engine, vocabulary, drew):
    """Prompt, text, image, text; then anew from the prompt with another image: every branch, and the slots hold."""
    engine = make_engine(rows=2)
    engine.read_text([text(TEXTS[0], vocabulary), text(TEXTS[1], vocabulary)])
    engine.read_text([text(TEXTS[1], vocabulary), []])
    engine.read_images([picture(0), None])
    engine.read_text([text(TEXTS[2], vocabulary), []])
    if drew:  # the branch without images has read a text of its own
        engine.views([0])
    other_mark = engine.rows[1].main.mark
    engine.restart([5, 4], [picture(1), None])
    engine.read_text([text(TEXTS[1], vocabulary), []])
    (view,) = engine.views([0])
    assert engine.rows[1].main.mark == other_mark

    fresh = make_engine()
    fresh.read_text([text(TEXTS[0], vocabulary)])
    fresh.read_images([picture(1)])
    fresh.read_text([text(TEXTS[1], vocabulary)])
    (expected,) = fresh.views([0])
    for name in ("main", "without_text", "without_images"):
        context, other = getattr(view, name), getattr(expected, name)
        assert context.mark == other.mark, name
        alone = [type(v)(main=c, without_text=None, without_images=None, row=v.row) for v, c in
                 ((view, context), (expected, other))]  # fmt: skip
        torch.testing.assert_close(velocity(engine, alone[0]), velocity(fresh, alone[1]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("context", "tokens"), [("latent", 6), ("vision", 18), ("both", 24), ("blank", 24)])
def test_what_stands_for_a_picture(make_engine, vocabulary, context, tokens):
    """Two positions, whatever stands there; the branch without images has none of it."""
    engine = make_engine(context=context)
    engine.read_text([text(TEXTS[0], vocabulary)])
    engine.read_images([picture(0)])
    assert image_tokens(engine.model.config, 16, 16, context) == tokens
    assert engine.rows[0].main.mark == (5 + tokens, 5 + 2)
    engine.read_text([text(TEXTS[1], vocabulary)])
    (view,) = engine.views([0])
    assert view.without_text.mark == (5 + tokens, 5 + 2)
    assert view.without_images.mark == (5 + 4, 5 + 4)


def test_a_picture_read_as_blank_is_a_blank_picture(make_engine, vocabulary):
    logits = []
    for context, image in (("both", blank(16, 16)), ("blank", picture(0)), ("blank", picture(1)), ("both", picture(0))):
        engine = make_engine(context=context)
        engine.read_text([text(TEXTS[0], vocabulary)])
        logits.append(engine.read_images([image]))
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[1], logits[2])
    assert not torch.allclose(logits[0], logits[3], atol=1e-3)
    with pytest.raises(ValueError, match="tokens of 8 pixels"):
        make_engine(context="blank").read_images([picture(0)[:12]])


def test_duplicate_branches_are_computed_once(make_engine, vocabulary):
    engine = make_engine()
    engine.read_text([text(TEXTS[0], vocabulary)])
    forwards = engine.rows[0].forwards
    drawn(engine)
    assert engine.rows[0].forwards - forwards == 3 * 2  # with and without text; no image stands there
    engine.read_images([picture(0)])
    engine.read_text([text(TEXTS[1], vocabulary)])
    forwards = engine.rows[0].forwards
    drawn(engine)
    assert engine.rows[0].forwards - forwards == 3 * 3 + 1  # and one to read the text without the image


def test_guidance_outside_its_interval_costs_nothing(make_engine, vocabulary):
    engine = make_engine(Guidance(text_scale=3.0, interval=(0.5, 1.0)))
    engine.read_text([text(TEXTS[0], vocabulary)])
    forwards = engine.rows[0].forwards
    drawn(engine, steps=4)  # t = 1, 0.75, 0.5, 0.25
    assert engine.rows[0].forwards - forwards == 2 + 2 + 1 + 1


def test_an_image_alone_behind_a_text_is_drawn_without_text_guidance(make_engine, vocabulary):
    """BAGEL's context without the last text is then the whole."""
    engine = make_engine()
    engine.read_text([text(TEXTS[0], vocabulary)])
    engine.read_images([picture(0)])
    assert engine.views([0])[0].without_text is None


def test_rows_do_not_meet(make_engine, vocabulary):
    """Rows of different contexts, drawn together and alone, with every branch."""
    together = make_engine(rows=2)
    together.read_text([text(TEXTS[0], vocabulary), text(TEXTS[1], vocabulary)])
    together.read_images([picture(0), None])
    together.read_text([text(TEXTS[2], vocabulary), []])
    both = drawn(together, rows=(0, 1))
    one, other = make_engine(), make_engine()
    one.read_text([text(TEXTS[0], vocabulary)])
    one.read_images([picture(0)])
    one.read_text([text(TEXTS[2], vocabulary)])
    other.read_text([text(TEXTS[1], vocabulary)])
    torch.testing.assert_close(both, torch.cat((drawn(one), drawn(other))), atol=1e-4, rtol=1e-4)


def test_views_stay_valid(make_engine, vocabulary):
    engine = make_engine()
    engine.read_text([text(TEXTS[0], vocabulary)])
    views = engine.views([0])
    x = torch.randn((1, 4, 192), generator=torch.Generator().manual_seed(0))
    before = engine.velocity(views, (2, 2))(x, 0.5)
    engine.read_images([picture(0)])
    engine.read_text([text(TEXTS[1], vocabulary)])
    assert torch.equal(engine.velocity(views, (2, 2))(x, 0.5), before)


def test_resting_rows_read_nothing(make_engine, vocabulary):
    engine = make_engine(rows=2)
    assert engine.read_text([[], []]).shape == (0, len(vocabulary))
    assert engine.read_images([None, None]).shape == (0, len(vocabulary))
    engine.read_text([[], text(TEXTS[0], vocabulary)])
    assert [len(row.main) for row in engine.rows] == [0, 5]


@pytest.mark.parametrize(("size", "message"), [((12, 16), "tokens of 8 pixels"), ((16, 48), "ends at 32 pixels")])
def test_wrong_pictures_change_nothing(make_engine, size, message):
    engine = make_engine()
    with pytest.raises(ValueError, match=message):
        engine.read_images([np.zeros((*size, 3), np.uint8)])
    assert len(engine.rows[0].main) == 0 and engine.rows[0].prefilled == 0


def test_a_wrong_autoencoder_is_refused(seeing_model, vocabulary):
    flux = FluxAutoencoder(FluxConfig(width=32, multipliers=(1, 1), num_blocks=1))
    sizes = dict(rows=1, capacity=10, text_capacity=10, patches=4)
    with pytest.raises(ValueError, match=r"16 channels at 1/2 .* reads 3 at 1/1"):
        Engine(seeing_model, flux, vocabulary.control, BOTH, **sizes)
