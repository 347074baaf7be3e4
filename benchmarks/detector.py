"""How often the embedded world's detector errs: on its own pictures, under noise, and on pictures with one thing wrong.

    python benchmarks/detector.py --scenes 6000 --out outputs/bench/detector.json

"misread" is the share of pictures in which not every object is found with its shape, colour and cell, or something
else is found: under Gaussian noise, and with a share of each shape's box swapped between its colour and background.
"passed" is the share of pictures with one flaw that the oracle judge accepts for the true description.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from brushwork.critic.judges.oracle import OracleJudge
from brushwork.critic.scene import SceneGraph, describe
from brushwork.data.subsets.flaws import plant
from brushwork.data.worlds.glyphs import BACKGROUND, PALETTE
from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, ShapesWorld

SIGMAS = (0, 10, 20, 30, 40, 50, 60, 80)  # of 255
SWAPPED = (0.02, 0.05, 0.1, 0.15, 0.2)
WORLDS = {
    "32 px": ShapesWorld(),
    "32 px, jitter 1": ShapesWorld(jitter=1),
    "30 px, 3 × 3 cells": ShapesWorld(canvas=30, grid=3),
    "64 px": ShapesWorld(canvas=64),
}


def noisy(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """The image with Gaussian noise of standard deviation sigma, in steps of 0-255."""
    return np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).round().astype(np.uint8) if sigma else image


def malformed(image: np.ndarray, world: ShapesWorld, scene: SceneGraph, share: float, rng: np.random.Generator):
    """The image with each pixel of a shape's box turned, with this chance, from its colour to background or back."""
    image, size = image.copy(), world.detector.size
    for one in scene.objects:
        left, top = (int(value * world.canvas - size / 2 + 0.25) for value in (one.x, one.y))
        box = image[top : top + size, left : left + size]
        swapped, empty = rng.random((size, size)) < share, (box == BACKGROUND).all(-1)
        box[swapped & empty], box[swapped & ~empty] = PALETTE[one.color], BACKGROUND
    return image


def cells(scene: SceneGraph, world: ShapesWorld) -> list[tuple[str, str | None, int, int]]:
    """What a reader of the picture must find, in any order."""
    return sorted((one.name, one.color, int(one.x * world.grid), int(one.y * world.grid)) for one in scene.objects)


def measure(world: ShapesWorld, num_scenes: int, seed: int) -> dict:
    """Error rates by noise level and by kind of flaw, and milliseconds for an image."""
    rng = np.random.default_rng(seed)
    kinds = KINDS + HARD_KINDS
    scenes = [world.sample(kinds[index % len(kinds)], rng, "train")[1] for index in range(num_scenes)]
    images = [world.render(scene) for scene in scenes]
    pairs = list(zip(scenes, images, strict=True))

    def misread(change: Callable[[SceneGraph, np.ndarray], np.ndarray]) -> float:
        return float(np.mean([cells(world.detect(change(*pair)), world) != cells(pair[0], world) for pair in pairs]))

    noise = {sigma: misread(lambda _, image, sigma=sigma: noisy(image, sigma, rng)) for sigma in SIGMAS}
    swapped = {
        share: misread(lambda scene, image, share=share: malformed(image, world, scene, share, rng))
        for share in SWAPPED
    }
    start = time.process_time()
    for image in images:
        world.detect(image)
    milliseconds = (time.process_time() - start) / len(images) * 1e3
    return {
        "misread_noise": noise,
        "misread_swapped": swapped,
        "flaws": flaws(world, scenes, rng),
        "milliseconds": milliseconds,
    }


def flaws(world: ShapesWorld, scenes: list[SceneGraph], rng: np.random.Generator) -> dict:
    """By kind of flaw: how many were made and which share of them was passed, as they are and under noise of 20."""
    judge = OracleJudge(detect=world.detect, parse=world.parse, grid=world.grid)
    passed: dict[str, list[tuple[bool, bool]]] = {}
    for scene in scenes:
        flawed = plant(world, scene, scene, rng, split="test")
        if flawed is None:
            continue
        text = describe(SceneGraph(objects=scene.objects), cells=True, grid=world.grid)
        image = world.render(flawed.scene)
        verdicts = tuple(judge(text, noisy(image, sigma, rng)).passed for sigma in (0, 20))
        passed.setdefault(flawed.kind, []).append(verdicts)
    return {
        kind: {"num": len(rows), "passed": float(np.mean([row[0] for row in rows])),
               "passed_noisy": float(np.mean([row[1] for row in rows]))}
        for kind, rows in sorted(passed.items())
    }  # fmt: skip


def main() -> None:
    """Prints a table a world and writes all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/detector.json"))
    arguments = parser.parse_args()
    results = {}
    for name, world in WORLDS.items():
        results[name] = found = measure(world, arguments.scenes, arguments.seed)
        print(f"\n{name}: {arguments.scenes} scenes, {found['milliseconds']:.2f} ms an image")
        for change in ("noise", "swapped"):
            rates = found[f"misread_{change}"]
            print(f"  {change:<8}" + "".join(f"{level:>8}" for level in rates))
            print("  misread " + "".join(f"{rate:>8.2%}" for rate in rates.values()))
        for kind, row in found["flaws"].items():
            print(
                f"  {kind:<8}{row['num']:>6} flawed, passed {row['passed']:.2%}, under noise {row['passed_noisy']:.2%}"
            )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"scenes": arguments.scenes, "seed": arguments.seed, "worlds": results}, indent=1)
    )
    print(f"\nwritten: {arguments.out}")


if __name__ == "__main__":
    main()
