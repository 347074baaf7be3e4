"""The exact editor of the embedded world."""

from dataclasses import dataclass, field
from typing import ClassVar

from brushwork.critic.scene import SceneGraph
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.tokens.trajectory import Image


@dataclass(frozen=True, kw_only=True)
class RendererEditor:
    """Draws what the picture is to show after the edit; exact, so nothing else changes.

    Attributes:
        world: draws.
    """

    licence: ClassVar[str] = "Apache-2.0, as this package"

    world: ShapesWorld = field(default_factory=ShapesWorld)

    def __post_init__(self) -> None:
        """Raises ValueError where the config has left the world out."""
        if not isinstance(self.world, ShapesWorld):
            raise ValueError(
                "editor=renderer draws the embedded world alone: for a corpus choose another editor, such as "
                "editor@subset.drawing.editor=kontext"
            )

    def __call__(self, image: Image | None, instruction: str, *, target: SceneGraph, seed: int) -> Image:
        """The target's picture; the other arguments are for editors that have to read and look.

        Raises:
            ValueError: an object of the target without colour or place.
        """
        del image, instruction, seed
        return self.world.render(target)
