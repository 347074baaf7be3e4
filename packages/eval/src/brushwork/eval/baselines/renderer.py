"""The embedded world's renderer as a sampler: the upper bound of its benchmark, and the whole road without a model."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from brushwork.critic.scene import SceneGraph, diff, parse_scene
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.tokens.trajectory import Draft, Step, Trajectory

MAX_DRAWS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RendererSampler:
    """Reads the prompt and draws a scene that answers it in one pass, or, at `error_rate`, one with a wrong shape.

    Attributes:
        world: draws.
        error_rate: share of answers with one object of a shape that was not asked for; 0 gives the upper bound.
    """

    world: ShapesWorld
    error_rate: float = 0.0

    @property
    def fingerprint(self) -> str:
        """Name and settings."""
        return f"{self}"

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        """One trajectory of one image a prompt.

        Raises:
            ValueError: a prompt that the world cannot read, or that it has no room for.
        """
        return [self.draw(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def draw(self, prompt: str, seed: int) -> Trajectory:
        """The answer to one prompt."""
        start = time.perf_counter()
        rng = np.random.default_rng(seed)
        scene = self.find_scene(prompt, rng)
        if rng.random() < self.error_rate:
            scene = self.spoil(scene, rng)
        drafts = (Draft(image=self.world.render(scene)),)
        cost = {"denoise_steps": 0, "model_forwards": 0, "text_tokens": 0, "seconds": time.perf_counter() - start}
        return Trajectory(key="renderer", prompt=prompt, steps=(Step(plan=None, drafts=drafts),), meta={"cost": cost})

    def find_scene(self, prompt: str, rng: np.random.Generator) -> SceneGraph:
        """A scene that shows the prompt and nothing else: what the prompt leaves open is drawn until it fits."""
        wanted = parse_scene(prompt, shapes=self.world.shapes, colors=self.world.colors, grid=self.world.grid)
        if len(wanted.objects) > self.world.grid**2:
            raise ValueError(f"{prompt!r} asks for more objects than the canvas has cells ({self.world.grid**2})")
        for _ in range(MAX_DRAWS):
            cells = rng.permutation(self.world.grid**2)
            objects = []
            for one, cell in zip(wanted.objects, cells, strict=False):
                color = one.color or str(rng.choice(self.world.colors))
                if one.x is not None and one.y is not None:
                    cell = int(one.y * self.world.grid) * self.world.grid + int(one.x * self.world.grid)
                objects.append(self.world.place(replace(one, color=color), int(cell), rng))
            scene = SceneGraph(objects=tuple(objects), relations=wanted.relations)
            if not diff(wanted, self.world.detect(self.world.render(scene)), tolerance=0.5 / self.world.grid):
                return scene
        raise ValueError(f"no scene was found that shows {prompt!r}; it may contradict itself")

    def spoil(self, scene: SceneGraph, rng: np.random.Generator) -> SceneGraph:
        """The scene with one object turned into another shape."""
        index = int(rng.integers(len(scene.objects)))
        shapes = [shape for shape in self.world.shapes if shape != scene.objects[index].name]
        objects = list(scene.objects)
        objects[index] = replace(objects[index], name=str(rng.choice(shapes)))
        return replace(scene, objects=tuple(objects))
