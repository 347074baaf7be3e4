"""Pictures and latents as rows of patch tokens."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor


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
