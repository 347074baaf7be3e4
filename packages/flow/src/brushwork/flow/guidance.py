"""Classifier-free guidance: push the velocity away from what it would be without the last text.

BAGEL's formula (BAGEL): with v the velocity in full context and u without the last text,
`w = u + scale * (v - u)`, then w is rescaled so that it is not longer than v.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TextGuidance:
    """How strongly, and when, text guides the drawing.

    Attributes:
        scale: 1 switches guidance off and costs no second velocity.
        interval: guidance is on while low < t <= high (t after the shift).
        renorm: "global" compares lengths over the whole image, "channel" token by token, "none" not at all. Each
            image is rescaled by itself, so that its result does not depend on what else is in the batch.
        renorm_min: smallest rescaling factor; 1 switches rescaling off.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    renorm: Literal["none", "global", "channel"] = "global"
    renorm_min: float = 0.0

    def active(self, timestep: float) -> bool:
        """Whether a second velocity is needed at this time."""
        return self.scale > 1 and self.interval[0] < timestep <= self.interval[1]

    def __call__(
        self, conditional: Float[Tensor, "images tokens dim"], without_text: Float[Tensor, "images tokens dim"]
    ) -> Float[Tensor, "images tokens dim"]:
        """The guided velocity of each image."""
        guided = without_text + self.scale * (conditional - without_text)
        if self.renorm == "none":
            return guided
        axes = (-2, -1) if self.renorm == "global" else (-1,)
        length = conditional.norm(dim=axes, keepdim=True) / (guided.norm(dim=axes, keepdim=True) + 1e-8)
        return guided * length.clamp(min=self.renorm_min, max=1.0)
