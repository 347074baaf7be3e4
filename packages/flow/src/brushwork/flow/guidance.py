"""Classifier-free guidance: push the velocity away from what it would be with less context.

BAGEL's formula: with v the velocity in full context, u without the last text and c without any image,
`w = u + text_scale * (v - u)`, then `w = c + image_scale * (w - c)`, then w is rescaled so that it is no longer than v.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

RENORMS = ("none", "global", "channel", "text_channel")


@dataclass(frozen=True, kw_only=True, slots=True)
class Guidance:
    """How strongly, and when, texts and images guide the drawing.

    Attributes:
        text_scale: 1 or less switches all guidance off, that of images too (BAGEL), and costs no second velocity.
        image_scale: 1 or less switches that of images off. Where no image stands in the context, the branch without
            images is the main one and is not computed again.
        interval: guidance is on while low < t <= high (t after the shift).
        renorm: "global" compares lengths over the whole image, "channel" token by token, "text_channel" token by token
            before the image step, "none" not at all. Each image is rescaled by itself, so that its result does not
            depend on what else is in the batch (BAGEL's "global" mixes the images of a batch).
        renorm_min: smallest rescaling factor; 1 switches rescaling off.
    """

    text_scale: float = 1.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    renorm: str = "global"
    renorm_min: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown renormalisation."""
        if self.renorm not in RENORMS:
            raise ValueError(f"renorm is {self.renorm!r}; expected one of {', '.join(RENORMS)}")

    def active(self, timestep: float) -> bool:
        """Whether more than one velocity is needed at this time."""
        return self.text_scale > 1 and self.interval[0] < timestep <= self.interval[1]

    @property
    def uses_images(self) -> bool:
        """Whether a context without images is ever needed."""
        return self.text_scale > 1 and self.image_scale > 1

    def __call__(
        self,
        conditional: Float[Tensor, "images tokens dim"],
        without_text: Float[Tensor, "images tokens dim"],
        without_images: Float[Tensor, "images tokens dim"] | None = None,
    ) -> Float[Tensor, "images tokens dim"]:
        """The guided velocity of each image; `without_images` is the conditional one where it is not given."""
        guided = without_text + self.text_scale * (conditional - without_text)
        if self.renorm == "text_channel":
            guided = self._rescaled(guided, conditional, (-1,))
        if self.image_scale > 1:
            base = conditional if without_images is None else without_images
            guided = base + self.image_scale * (guided - base)
        if self.renorm in ("none", "text_channel"):
            return guided
        return self._rescaled(guided, conditional, (-2, -1) if self.renorm == "global" else (-1,))

    def _rescaled(self, guided: Tensor, conditional: Tensor, axes: tuple[int, ...]) -> Tensor:
        length = conditional.norm(dim=axes, keepdim=True) / (guided.norm(dim=axes, keepdim=True) + 1e-8)
        return guided * length.clamp(min=self.renorm_min, max=1.0)
