"""GenEval's colours: CLIP compares an object, cut out and put on grey, with sentences about each colour."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from PIL import ImageColor
from torch import Tensor

from brushwork.critic.pretrained import load
from brushwork.eval.benchmarks.geneval_rules import COLORS, Detection
from brushwork.tokens.trajectory import Image

TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
"""The official sentences, "a orange" and "a scissors" included."""
MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)
"""Of the pictures that CLIP was trained on, in 0 to 1."""
BATCH = 16

TextTower = Callable[[Sequence[str]], Float[Tensor, "n dim"]]
"""Sentences → embeddings of any length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipColors:
    """Names the colours of objects.

    The official evaluator runs CLIP in half precision, this one in single: near-ties may differ.

    Attributes:
        model: folder or hub id of a CLIP model with safetensors weights; loaded once a process, at the first call.
        bgcolor: what stands outside an object's mask, in CSS's words; "original" leaves the picture as it is.
        crop: cut to the object's box.
        device: where the model runs.
    """

    model: str = "openai/clip-vit-large-patch14"
    bgcolor: str = "#999"
    crop: bool = True
    device: str = "cpu"

    @torch.inference_mode()
    def __call__(self, name: str, image: Image, objects: Sequence[Detection]) -> list[str]:
        """The colour of each object.

        Args:
            name: the class of all of them.
            image: where they are.
            objects: at least one.

        Raises:
            ImportError, FileNotFoundError: the model cannot be loaded.
            ValueError: a mask is not of the image's size.
        """
        cutouts = [cut_out(image, one, bgcolor=self.bgcolor, crop=self.crop) for one in objects]
        starts = range(0, len(cutouts), BATCH)
        features = [embed_images(cutouts[i : i + BATCH], self.model, self.device) for i in starts]
        logits = color_logits(torch.cat(features), _weights_of(name, self.model, self.device))
        return [COLORS[index] for index in logits.float().cpu().numpy().argmax(axis=1)]  # NumPy's: the first of equals

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return asdict(self)


def cut_out(image: Image, one: Detection, *, bgcolor: str, crop: bool) -> Image:
    """An object as CLIP is shown it.

    Box coordinates are rounded, halves to even; what of the box is outside the picture is black.

    Args:
        image: the picture.
        one: the object; without a mask the background stays.
        bgcolor: see `ClipColors`.
        crop: see `ClipColors`.

    Raises:
        ValueError: the mask is not of the image's size.
    """
    if one.mask is not None and one.mask.shape != image.shape[:2]:
        raise ValueError(f"the mask of {one.name!r} has shape {one.mask.shape}; the image has {image.shape[:2]}")
    if one.mask is not None and bgcolor != "original":
        background = np.array(ImageColor.getcolor(bgcolor, "RGB"), np.uint8)
        image = np.where(one.mask[..., None], image, background)
    if not crop:
        return image
    left, top, right, bottom = (round(float(edge)) for edge in one.box)
    box = (left, top, max(right, left + 1), max(bottom, top + 1))  # a box of boxes alone may be thinner than a pixel
    return np.asarray(PIL.Image.fromarray(image).crop(box))


def color_weights(name: str, embed: TextTower) -> Float[Tensor, "colors dim"]:
    """A unit vector for each colour: the mean of its sentences' directions.

    Args:
        name: the class that the sentences name.
        embed: sentences → embeddings.
    """
    sentences = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
    features = torch.nn.functional.normalize(embed(sentences), dim=-1)
    means = features.unflatten(0, (len(COLORS), len(TEMPLATES))).mean(dim=1)
    return means / means.norm(dim=-1, keepdim=True)


def color_logits(features: Float[Tensor, "n dim"], weights: Float[Tensor, "colors dim"]) -> Float[Tensor, "n colors"]:
    """100 × the cosine between pictures and colours."""
    return 100 * torch.nn.functional.normalize(features, dim=-1) @ weights.T


def pixel_values(image: Image, size: int) -> Float[Tensor, "3 size size"]:
    """A picture as CLIP reads it: short side resized (bicubic), centre cut out, normalised.

    The ends of long objects fall away. transformers' own processor rounds the place of the centre in another way.

    Args:
        image: of any size.
        size: side of what CLIP reads, in pixels.
    """
    height, width, _ = image.shape
    short = min(height, width)
    new_width, new_height = int(size * width / short), int(size * height / short)
    resized = PIL.Image.fromarray(image).resize((new_width, new_height), PIL.Image.Resampling.BICUBIC)
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    cut = np.asarray(resized.crop((left, top, left + size, top + size)), np.float32) / 255
    return torch.from_numpy((cut - MEAN) / STD).permute(2, 0, 1)


def embed_images(images: Sequence[Image], model: str, device: str) -> Float[Tensor, "n dim"]:
    """By CLIP's vision tower."""
    clip, _ = load(model, "AutoModel", device)
    pixels = torch.stack([pixel_values(image, clip.config.vision_config.image_size) for image in images])
    return clip.visual_projection(clip.vision_model(pixel_values=pixels.to(device)).pooler_output)


def embed_texts(texts: Sequence[str], model: str, device: str) -> Float[Tensor, "n dim"]:
    """By CLIP's text tower."""
    clip, processor = load(model, "AutoModel", device)
    length = clip.config.text_config.max_position_embeddings
    inputs = processor.tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return clip.text_projection(clip.text_model(input_ids=inputs["input_ids"].to(device)).pooler_output)


@lru_cache(maxsize=1024)
def _weights_of(name: str, model: str, device: str) -> Tensor:
    return color_weights(name, lambda texts: embed_texts(texts, model, device))
