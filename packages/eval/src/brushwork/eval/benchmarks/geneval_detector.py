"""GenEval's detector: Mask2Former, fed and read as the official evaluator does it (that of mmdet 2.x).

transformers' own processor would squeeze pictures to 384 x 384, read masks at that size and score them otherwise.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import interpolate, pad

from brushwork.critic.pretrained import load
from brushwork.eval.benchmarks.geneval_prompts import object_names
from brushwork.eval.benchmarks.geneval_rules import Detection
from brushwork.tokens.trajectory import Image

SHORT_SIDE, LONG_SIDE, MULTIPLE = 800, 1333, 32
"""Pixels: what the short side becomes, what the long side may become, of what both are padded to multiples."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PADDING = 128
MAX_CANDIDATES = 100
"""Pairs of a query and a class that are looked at; a query may give several objects."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mask2FormerDetector:
    """Finds the 80 classes of COCO, with masks.

    The default model is its authors' training of the architecture that the official evaluator has from mmdet, not the
    same weights: verdicts differ somewhat, most where counting asks for a score above 0.9.

    Attributes:
        model: folder or hub id of a Mask2Former for COCO instances, with safetensors weights; loaded once a process, at
            the first call.
        device: where the model runs; a picture takes 17 s on one CPU core.
        floor: objects of a lower score are not told, which saves their masks.
    """

    model: str = "facebook/mask2former-swin-small-coco-instance"
    device: str = "cpu"
    floor: float = 0.05

    @torch.inference_mode()
    def __call__(self, image: Image) -> list[Detection]:
        """What it sees, the best first.

        Raises:
            ImportError, FileNotFoundError: the model cannot be loaded.
            ValueError: it knows other classes.
        """
        network, _ = load(self.model, "Mask2FormerForUniversalSegmentation", self.device)
        names = class_names(network.config.id2label, self.model)
        pixels, inner = prepare(image)
        outputs = network(pixel_values=pixels.to(self.device))
        height, width, _ = image.shape
        return instances(
            outputs.class_queries_logits[0],
            outputs.masks_queries_logits[0],
            padded=(pixels.shape[2], pixels.shape[3]),
            inner=inner,
            original=(height, width),
            names=names,
            floor=self.floor,
        )

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return asdict(self)


def class_names(labels: dict[int, str], model: str) -> tuple[str, ...]:
    """GenEval's names for the detector's classes, by their index: some names differ, the order does not.

    Args:
        labels: the detector's own names.
        model: for the error.

    Raises:
        ValueError: these are not the 80 classes of COCO.
    """
    names = object_names()
    ends = (labels.get(0), labels.get(len(names) - 1))
    if len(labels) != len(names) or ends != (names[0], names[-1]):
        raise ValueError(
            f"{model!r} knows {len(labels)} classes, of which number 0 is {ends[0]!r} and number {len(names) - 1} is "
            f"{ends[1]!r}; expected the {len(names)} of COCO, from {names[0]!r} to {names[-1]!r}"
        )
    return names


def prepare(image: Image) -> tuple[Float32[Tensor, "1 3 height width"], Size]:
    """A picture as the detector reads it.

    Resized (bilinear, whole grey levels) to a short side of 800, or a long side of 1333 where that is less; padded at
    right and bottom; normalised. The padding is not black but a grey of the picture's own scale.

    Returns:
        The pixels, and the size that the picture has among them.
    """
    height, width, _ = image.shape
    scale = min(SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
    inner = (int(height * scale + 0.5), int(width * scale + 0.5))
    pixels = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    pixels = interpolate(pixels, size=inner, mode="bilinear", align_corners=False).round_().clamp_(0, 255)
    pixels = pad(pixels, (0, -inner[1] % MULTIPLE, 0, -inner[0] % MULTIPLE), value=PADDING)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std, inner


def instances(
    class_logits: Float[Tensor, "queries classes"],
    mask_logits: Float[Tensor, "queries mask_height mask_width"],
    *,
    padded: Size,
    inner: Size,
    original: Size,
    names: tuple[str, ...],
    floor: float,
) -> list[Detection]:
    """The objects in the outputs of Mask2Former.

    An object's score is its class's probability × the mean probability of its mask's pixels, its box the mask's extent.
    An empty mask has the score 0. Nothing is suppressed for its overlap with something else.

    Args:
        class_logits: the last class is "no object".
        mask_logits: of the padded picture, at a quarter of its size.
        padded: size of the picture that the network read.
        inner: the part of it that is no padding, from the top left corner.
        original: size of the picture before it was resized, which masks and boxes get.
        names: of the classes.
        floor: objects of this score or a lower one are left out.

    Returns:
        Detections, the best first.
    """
    probabilities = class_logits.softmax(dim=-1)[:, :-1].flatten()
    scores, candidates = probabilities.topk(min(MAX_CANDIDATES, len(probabilities)), sorted=False)
    likely = scores > floor  # a mask can only lower a score
    scores, candidates = scores[likely], candidates[likely]
    queries, labels = candidates // len(names), (candidates % len(names)).tolist()
    if not labels:
        return []
    logits = interpolate(mask_logits[queries][None], size=padded, mode="bilinear", align_corners=False)[0]
    logits = logits[:, : inner[0], : inner[1]]
    logits = interpolate(logits[:, None], size=original, mode="bilinear", align_corners=False)[:, 0]
    inside = logits > 0
    areas = inside.flatten(1).sum(dim=1)
    scores = scores * (logits.sigmoid() * inside).flatten(1).sum(dim=1) / (areas + 1e-6)
    found = [
        Detection(name=names[label], score=score, box=extent(mask), mask=mask)
        for label, score, mask in zip(labels, scores.tolist(), inside.cpu().numpy(), strict=True)
        if score > floor
    ]
    return sorted(found, key=lambda one: one.score, reverse=True)


def extent(mask: np.ndarray) -> Float32[np.ndarray, " 4"]:
    """The box around a mask, right and bottom being the first that it does not reach; zeros where it is empty."""
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    if not len(columns):
        return np.zeros(4, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
