"""What a fit is planned with: the model without contents, and a pack of blank pictures and made-up texts."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brushwork.data.shards import ShardFolder
from brushwork.flow.autoencoder import FluxAutoencoder, PixelAutoencoder
from brushwork.flow.checkpoint import Bundle
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.flow.published import BAGEL_7B
from brushwork.flow.quantize import prepare_nf4
from brushwork.tokens.attention import Kind
from brushwork.tokens.packing import PackedBatch, pack
from brushwork.tokens.segments import Segment, Segmenter
from brushwork.tokens.trajectory import Draft, Image, Inspection, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import CONTROL_TOKENS, WordVocabulary

_PUBLISHED = "ByteDance-Seed/BAGEL-7B-MoT"
_NUM_IDS = 128
"""Of a vocabulary that is not there yet."""
_PROMPT, _PLAN, _INSPECTION = 153, 60, 60
"""Words of made-up texts. The prompts are as long as the paper's on average."""
_IMAGES = 4
"""Of a made-up sample. The paper's have 3.5 on average."""
_FILLER = 512
"""Most tokens of a text that is there to fill a pack."""


def keywords(function: Any) -> Mapping[str, Any]:
    """What a config has given to a constructor that is still to be called."""
    return getattr(function, "keywords", {})


def blueprint(model: Callable[..., Bundle]) -> tuple[Bundle, str]:
    """A model as a config makes or reads it, but on the meta device, and in words what it is.

    Of the published BAGEL the sizes are known here, so that nothing is downloaded; a new model whose words are missing
    gets made-up ones; of a folder no weights of the model are read.

    Args:
        model: `from_scratch` or `from_pretrained` with the config's arguments, or any function that makes a bundle.
    """
    given = dict(keywords(model))
    if "words" in given:
        return _from_scratch(given)
    if given.get("source") == _PUBLISHED and not Path(_PUBLISHED).is_dir():
        with torch.device("meta"):
            autoencoder = FluxAutoencoder()
        unified = _without_contents(BAGEL_7B, given.get("dtype") or "bfloat16", given.get("quantize"))
        bundle = Bundle(model=unified, vocabulary=made_up_words(), autoencoder=autoencoder)
        return bundle, "BAGEL-7B-MoT, by its published sizes"
    if "source" in given:
        return model(device="meta"), f"the model in {given['source']}"
    with torch.device("meta"):
        return model(), "a model that the config makes"


def _from_scratch(given: dict[str, Any]) -> tuple[Bundle, str]:
    words, quantize = Path(given.pop("words")), given.pop("quantize", None)
    given.pop("base", None)  # a folder for weights
    exist = words.is_file()
    vocabulary = WordVocabulary.from_json(words.read_text()) if exist else made_up_words()
    unified = _without_contents(ModelConfig(vocab_size=len(vocabulary), **given), "float32", quantize)
    bundle = Bundle(model=unified, vocabulary=vocabulary, autoencoder=PixelAutoencoder())
    return bundle, f"a new model for {len(vocabulary)} words" + ("" if exist else f", a guess: {words} is missing")


def _without_contents(config: ModelConfig, dtype: str | torch.dtype, quantize: str | None) -> UnifiedModel:
    precision = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    with torch.device("meta"):
        model = UnifiedModel(config).to(precision)
    if quantize is not None:
        prepare_nf4(model, precision)
    return model


def made_up_words() -> WordVocabulary:
    """A vocabulary for what has none yet, or needs none."""
    return WordVocabulary(f"w{number}" for number in range(_NUM_IDS - len(CONTROL_TOKENS)))


# -- a pack -----------------------------------------------------------------------------------------------------------


def made_up_pack(
    segmenter: Segmenter, view: Callable[[Trajectory], Trajectory], *, max_tokens: int, picture: tuple[int, int]
) -> PackedBatch:
    """As many whole samples as fit, from long ones to short ones, and texts that fill the rest.

    Args:
        segmenter: with a vocabulary of made-up words. Nothing is left out by chance.
        view: what is read of a trajectory.
        max_tokens: of the pack.
        picture: height and width in pixels.

    Raises:
        ValueError: not even a sample of one image fits.
    """
    segmenter = replace(segmenter, text_dropout=0.0, latent_dropout=0.0, vision_dropout=0.0)
    samples: list[list[Segment]] = []
    left, images = max_tokens, _IMAGES
    while images:
        sample = segmenter(view(_trajectory(images, picture)), np.random.default_rng(0))
        length = sum(map(len, sample))
        if length <= left:
            samples, left = [*samples, sample], left - length
        elif images == 1 and not samples:
            raise ValueError(
                f"a pack of {max_tokens} tokens holds no sample: with one image of {picture[0]} x {picture[1]} pixels "
                f"it takes {length}; raise data.max_tokens, or make pictures smaller (segmenter.resize)"
            )
        else:
            images -= 1
    for start in range(0, left, _FILLER):
        samples.append([Segment(kind=Kind.TEXT, position=0, ids=(0,) * min(_FILLER, left - start))])
    return pack(samples, segmenter.vocabulary.control)


def _trajectory(num_images: int, picture: tuple[int, int]) -> Trajectory:
    steps = [
        Step(
            plan=Plan(instruction=_text(_PLAN // 2), description=_text(_PLAN // 2)),
            drafts=(Draft(image=_blank(picture), inspection=Inspection(draft_check=_text(_INSPECTION))),),
        )
        for _ in range(num_images)
    ]
    return Trajectory(key="made-up", prompt=_text(_PROMPT), steps=tuple(steps))


def _blank(picture: tuple[int, int]) -> Image:
    """A picture of one pixel said to fill it; each is an object of its own, as pictures of a corpus are."""
    return np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (*picture, 3))


def _text(num_words: int) -> str:
    return " ".join(["w0"] * num_words)


def picture_size(folder: str | Path | None, segmenter: Segmenter) -> tuple[int, int]:
    """Height and width of the pictures: those of the data's first sample, else the largest square that is read.

    Args:
        folder: of shards, which may not be there yet.
        segmenter: that reads them.
    """
    with suppress(FileNotFoundError):
        shards = ShardFolder(folder or "", "train")
        sketch = shards.sketch(0) if len(shards) else None
        if isinstance(sketch, Trajectory):
            height, width, _ = next(sketch.drafts).image.shape
            return height, width
    largest = segmenter.max_size if segmenter.resize is None else segmenter.resize.max_size
    side = largest or segmenter.stride
    return side, side
