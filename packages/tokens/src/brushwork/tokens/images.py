"""Pictures and latents as rows of patch tokens: cutting, places in a grid, and the sizes that a model takes."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from brushwork.tokens.trajectory import Image


def patchify(latents: Float[Tensor, "n channels height width"], patch: int) -> Float[Tensor, "n tokens dim"]:
    """Cuts a grid into tokens, row-major; inside a token the order is row, column, channel (BAGEL).

    Raises:
        ValueError: a side is no multiple of `patch`.
    """
    height, width = latents.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(f"a {height}x{width} grid does not divide into {patch}x{patch} patches; resize it first")
    return rearrange(latents, "n c (h p) (w q) -> n (h w) (p q c)", p=patch, q=patch)


def unpatchify(
    tokens: Float[Tensor, "n tokens dim"], patch: int, grid: tuple[int, int]
) -> Float[Tensor, "n channels height width"]:
    """Inverse of `patchify`; `grid` is (rows, columns) of tokens."""
    return rearrange(tokens, "n (h w) (p q c) -> n c (h p) (w q)", p=patch, q=patch, h=grid[0], w=grid[1])


def patch_grid(height: int, width: int, stride: int, max_size: int | None = None) -> tuple[int, int]:
    """Rows and columns of tokens of a picture, from its sides in pixels.

    Args:
        stride: pixels a side of a token.
        max_size: longest side, where the model's position table ends; None for no limit.

    Raises:
        ValueError: a side that the stride does not divide, or that is too long.
    """
    if height % stride or width % stride or min(height, width) < stride:
        raise ValueError(
            f"a {height}x{width} image does not divide into tokens of {stride} pixels; resize it to multiples of that"
        )
    if max_size is not None and max(height, width) > max_size:
        raise ValueError(
            f"a {height}x{width} image exceeds the model's position table, which ends at {max_size} pixels; "
            "make it smaller"
        )
    return height // stride, width // stride


def table_index(cells: Int[Tensor, "n 2"], side: int) -> Int[Tensor, " n"]:
    """Rows of a position table of side x side for the (row, column) of each patch (BAGEL's "extrapolate").

    Raises:
        ValueError: a patch lies outside the table, where its index would silently be another place's.
    """
    if len(cells) and int(cells.max()) >= side:
        rows, columns = (cells.max(0).values + 1).tolist()
        raise ValueError(
            f"an image of {rows}x{columns} patches exceeds the position table of side {side}; "
            f"shrink it to at most {side} patches a side"
        )
    return cells[:, 0] * side + cells[:, 1]


def interpolated_index(grid: tuple[int, int], side: int) -> Int[Tensor, " n"]:
    """Rows of a position table for a grid stretched over the whole of it (BAGEL's "interpolate", off by default).

    The fractional coordinates 0, 1/n, 2/n, … of each axis fall into `side` equal buckets.
    """

    def fractions(first: int, count: int) -> Tensor:  # in float32, where edges and coordinates meet (BAGEL)
        return (torch.arange(first, count, dtype=torch.float64) * (1 / count)).float()

    rows, columns = (torch.bucketize(fractions(0, count), fractions(1, side), right=True) for count in grid)
    return (rows[:, None] * side + columns).flatten()


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizeRule:
    """To which size pictures are brought before they become patches (BAGEL).

    Attributes:
        max_size, min_size: bounds of the longer and of the shorter side, in pixels; the lower one wins.
        stride: both sides become multiples of it.
        max_pixels: bound of the area, divided by the number of pictures of the sample.
    """

    max_size: int
    min_size: int
    stride: int
    max_pixels: int = 14 * 14 * 9 * 1024

    def size(self, width: int, height: int, num_images: int = 1) -> tuple[int, int]:
        """Width and height after resizing."""
        scale = max(min(self.max_size / max(width, height), 1.0), self.min_size / min(width, height))
        width, height = self._scaled(width, height, scale)
        limit = self.max_pixels / num_images
        if width * height > limit:  # BAGEL scales the sides by the ratio of the areas, without a square root
            width, height = self._scaled(width, height, limit / (width * height))
        if max(width, height) > self.max_size:
            width, height = self._scaled(width, height, self.max_size / max(width, height))
        return width, height

    def _scaled(self, width: int, height: int, scale: float) -> tuple[int, int]:
        return self._rounded(round(width * scale)), self._rounded(round(height * scale))

    def _rounded(self, side: int) -> int:
        return max(self.stride, round(side / self.stride) * self.stride)  # half to even

    def __call__(self, image: Image, num_images: int = 1) -> Image:
        """The picture in that size, resampled bicubically with anti-aliasing."""
        height, width = image.shape[:2]
        size = self.size(width, height, num_images)
        if size == (width, height):
            return image
        if image.strides[:2] == (0, 0):  # one pixel said to fill the picture: it does so in any size
            return np.broadcast_to(image[:1, :1], (size[1], size[0], 3))
        return np.asarray(PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BICUBIC))


def rgb(image: PIL.Image.Image) -> Image:
    """Any picture as RGB; what is transparent is laid on white (BAGEL)."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def vision_patches(image: UInt8[Tensor, "height width 3"], patch: int) -> Float[Tensor, "tokens dim"]:
    """A picture as the vision encoder reads it: numbers in [-1, 1], cut row-major; in a patch row, column, channel.

    Raises:
        ValueError: a side is no multiple of `patch`.
    """
    return patchify(to_unit_range(image[None]), patch)[0]


def to_unit_range(images: UInt8[Tensor, "n height width 3"]) -> Float[Tensor, "n 3 height width"]:
    """Pictures (0-255) as numbers in [-1, 1], channels first."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1
