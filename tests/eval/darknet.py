"""YOLOv3-tiny (Redmon & Farhadi 2018, arXiv:1804.02767) from darknet's files: a small detector with real weights."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from brushwork.eval.benchmarks.geneval_prompts import object_names
from brushwork.eval.benchmarks.geneval_rules import Detection, apart


def packaged(package: str, file: str) -> Path | None:
    """A file of an installed package, which is not imported; None where the package is not there."""
    try:
        return Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        return None


@dataclass
class Darknet:
    """Layers as the .cfg lists them; what it finds has boxes without masks, and GenEval's names by their index."""

    layers: list[dict[str, Any]]
    side: int

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> list[Detection]:
        x, scale, offset = letterbox(image, self.side)
        candidates = torch.cat(self.candidates(x))  # (n, 4 of the box + 80)
        centers, sizes, scores = candidates[:, :2], candidates[:, 2:4], candidates[:, 4:]
        corners = torch.stack([centers - sizes / 2, centers + sizes / 2], dim=1)  # (n, corner, axis)
        corners = (corners * self.side - torch.tensor(offset)) / scale
        limit = torch.tensor([image.shape[1], image.shape[0]])
        boxes = corners.clamp(min=torch.zeros(2), max=limit).flatten(1).numpy()
        found = []
        for label, name in enumerate(object_names()):
            likely = (scores[:, label] > 0.1).nonzero().flatten()
            order = likely[scores[likely, label].argsort(descending=True)].tolist()
            ones = [Detection(name=name, score=float(scores[i, label]), box=boxes[i].copy()) for i in order]
            found += apart(ones, 0.45)
        return found

    def describe(self) -> dict[str, Any]:
        return {"model": "yolov3-tiny"}

    def candidates(self, x: Tensor) -> list[Tensor]:
        """Runs the net; an output a scale."""
        outputs, found = [], []
        for number, layer in enumerate(self.layers):
            kind = layer["kind"]
            if kind == "convolutional":
                x = functional.conv2d(x, layer["weight"], layer["bias"], layer["stride"], layer["padding"])
                x = functional.leaky_relu(x, 0.1) if layer["activation"] == "leaky" else x
            elif kind == "maxpool":
                if layer["stride"] == 1:  # darknet keeps the size: it pads at right and bottom
                    x = functional.pad(x, (0, layer["size"] - 1, 0, layer["size"] - 1), value=-torch.inf)
                x = functional.max_pool2d(x, layer["size"], layer["stride"])
            elif kind == "upsample":
                x = functional.interpolate(x, scale_factor=layer["stride"], mode="nearest")
            elif kind == "route":
                x = torch.cat([outputs[i if i >= 0 else number + i] for i in layer["layers"]], dim=1)
            elif kind == "yolo":
                found.append(decode(x, layer["anchors"], self.side))
            outputs.append(x)
        return found


def letterbox(image: np.ndarray, side: int) -> tuple[Tensor, float, tuple[int, int]]:
    """The picture in the middle of a grey square; by what it was resized, and where its left top corner is."""
    height, width, _ = image.shape
    scale = side / max(height, width)
    new_height, new_width = int(height * scale), int(width * scale)
    pixels = torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None]
    pixels = functional.interpolate(pixels, size=(new_height, new_width), mode="bilinear", align_corners=False)
    left, top = (side - new_width) // 2, (side - new_height) // 2
    square = torch.full((1, 3, side, side), 0.5)
    square[:, :, top : top + new_height, left : left + new_width] = pixels
    return square, scale, (left, top)


def decode(x: Tensor, anchors: Tensor, side: int) -> Tensor:
    """Centre, size (as fractions of the picture) and class scores of every cell and anchor."""
    _, _, rows, columns = x.shape
    x = x.view(len(anchors), -1, rows, columns).permute(2, 3, 0, 1)  # (row, column, anchor, 4 + 1 + classes)
    cells = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), dim=-1)[:, :, None]
    centers = (x[..., :2].sigmoid() + cells) / torch.tensor([columns, rows])
    scores = x[..., 5:].sigmoid() * x[..., 4:5].sigmoid()
    return torch.cat([centers, x[..., 2:4].exp() * anchors / side, scores], dim=-1).flatten(0, 2)


def load_darknet(config: Path, weights: Path) -> Darknet:
    """Reads the layers, and folds batch normalisation into the convolutions."""
    net, *sections = sections_of(config.read_text())
    numbers = np.fromfile(weights, np.float32)[5:]  # behind a version (three times four bytes) and a count (eight)
    taken, channels, layers = 0, [3], []

    def take(*shape: int) -> Tensor:
        nonlocal taken
        taken += (size := int(np.prod(shape)))
        return torch.from_numpy(numbers[taken - size : taken].reshape(shape))

    for number, section in enumerate(sections):
        kind, width = section["kind"], channels[-1]
        layer: dict[str, Any] = {"kind": kind, "activation": section.get("activation")}
        layer |= {key: int(section[key]) for key in ("size", "stride", "filters") if key in section}
        if kind == "convolutional":
            filters, size = layer["filters"], layer["size"]
            bias, scale = take(filters), torch.ones(filters)
            if section.get("batch_normalize") == "1":
                gamma, mean, variance = take(filters), take(filters), take(filters)
                scale = gamma / (variance + 1e-6).sqrt()
                bias = bias - mean * scale
            weight = take(filters, width, size, size) * scale[:, None, None, None]
            layer |= {"weight": weight, "bias": bias, "padding": size // 2}
            width = filters
        elif kind == "route":
            layer["layers"] = [int(one) for one in section["layers"].split(",")]
            width = sum(channels[i + 1] if i >= 0 else channels[number + 1 + i] for i in layer["layers"])
        elif kind == "yolo":
            pairs = torch.tensor([float(one) for one in section["anchors"].split(",")]).view(-1, 2)
            layer["anchors"] = pairs[[int(one) for one in section["mask"].split(",")]]
        layers.append(layer)
        channels.append(width)
    assert taken == len(numbers), f"{taken} of {len(numbers)} weights were read"
    return Darknet(layers=layers, side=int(net["width"]))


def sections_of(text: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        if line.startswith("["):
            found.append({"kind": line.strip("[]")})
        else:
            key, _, value = line.partition("=")
            found[-1][key.strip()] = value.strip()
    return found
