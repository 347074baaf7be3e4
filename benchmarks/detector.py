"""How often the embedded world's detector errs: on its own pictures, under noise, and on pictures with one thing wrong.

    python benchmarks/detector.py --scenes 3000 --out outputs/bench/detector.json

"misread" is the share of pictures in which not every object is found with its shape, colour and cell, or something
else is found; "passed" is the share of flawed pictures that the oracle judge accepts for their description.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from brushwork.critic.judges.oracle import OracleJudge
from brushwork.critic.scene import SceneGraph, describe
from brushwork.data.subsets.flaws import plant
from brushwork.data.worlds.shapes import KINDS, ShapesWorld

SIGMAS = (0, 10, 20, 30, 40, 50, 60, 80)
WORLDS = {
    "32 px": ShapesWorld(),
    "32 px, jitter 1": ShapesWorld(jitter=1),
    "32 px, 3 × 3 cells": ShapesWorld(canvas=30, grid=3),
    "64 px": ShapesWorld(canvas=64),
}


def noisy(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """The image with Gaussian noise of standard deviation sigma, in steps of 0-255."""
    return np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).round().astype(np.uint8) if sigma else image


def cells(scene: SceneGraph, world: ShapesWorld) -> list[tuple[str, str | None, int, int]]:
    """What a reader of the picture must find, in any order."""
    return sorted((one.name, one.color, int(one.x * world.grid), int(one.y * world.grid)) for one in scene.objects)


def measure(world: ShapesWorld, num_scenes: int, seed: int) -> dict:
    """Error rates by noise level and by kind of flaw, and milliseconds for an image."""
    rng = np.random.default_rng(seed)
    scenes = [world.sample(KINDS[index % len(KINDS)], rng, "train")[1] for index in range(num_scenes)]
    images = [world.render(scene) for scene in scenes]
    misread = {
        sigma: float(np.mean([cells(world.detect(noisy(image, sigma, rng)), world) != cells(scene, world)
                              for scene, image in zip(scenes, images, strict=True)]))
        for sigma in SIGMAS
    }  # fmt: skip
    start = time.process_time()
    for image in images:
        world.detect(image)
    milliseconds = (time.process_time() - start) / len(images) * 1e3
    return {"misread": misread, "flaws": flaws(world, scenes, rng), "milliseconds": milliseconds}


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
        print("  noise   " + "".join(f"{sigma:>8}" for sigma in SIGMAS))
        print("  misread " + "".join(f"{rate:>8.2%}" for rate in found["misread"].values()))
        for kind, row in found["flaws"].items():
            print(f"  {kind:<8}{row['num']:>6} flawed, passed {row['passed']:.2%}, under noise {row['passed_noisy']:.2%}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"scenes": arguments.scenes, "seed": arguments.seed, "worlds": results}, indent=1))
    print(f"\nwritten: {arguments.out}")


if __name__ == "__main__":
    main()
