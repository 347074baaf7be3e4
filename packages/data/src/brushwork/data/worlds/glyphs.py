"""How the embedded world's shapes and colours look, pixel by pixel: what is drawn and what is recognised by."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from jaxtyping import Bool

BACKGROUND = (245, 245, 245)

# Near the corners of the RGB cube: any two of these and the background are at least 190 apart (Euclidean), so that
# the nearest colour survives noise of a standard deviation around 40.
PALETTE = {
    "red": (230, 30, 20),
    "green": (20, 190, 30),
    "blue": (30, 40, 235),
    "yellow": (245, 225, 20),
    "purple": (225, 30, 215),
    "cyan": (30, 230, 220),
}

# Each is inside or out for u (right) and v (down) in -1..1.
_OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda u, v: np.hypot(u, v) <= 1.06,
    "square": lambda u, v: np.abs(u) + 0 * v <= 1,
    "triangle": lambda u, v: np.abs(u) <= (v + 1.1) / 2,
    "cross": lambda u, v: np.abs(np.abs(u) - np.abs(v)) <= 0.34,
    "ring": lambda u, v: (np.hypot(u, v) <= 1.06) & (np.hypot(u, v) >= 0.55),
    "arch": lambda u, v: (np.abs(u) >= 0.6) | (v <= -0.6),
    "tee": lambda u, v: (np.abs(u) <= 0.34) | (v <= -0.6),
}
NAMES = tuple(_OUTLINES)


@lru_cache(maxsize=128)
def bitmap(name: str, size: int) -> Bool[np.ndarray, "size size"]:
    """The shape's pixels in a box of `size` pixels a side, without anti-aliasing; read-only.

    Raises:
        ValueError: no shape of that name.
    """
    if name not in _OUTLINES:
        raise ValueError(f"there is no shape {name!r} to draw; shapes are {', '.join(NAMES)}")
    axis = np.linspace(-1, 1, size)
    mask = _OUTLINES[name](axis[None, :], axis[:, None])
    mask.setflags(write=False)
    return mask
