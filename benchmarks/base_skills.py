"""What a mini base can do beside drawing: edits carried out exactly, descriptions and answers that are right.

Pictures, instructions and questions are of the val split, made here. An edit is right where the exact detector finds
what was asked for, and what the instruction does not name stands in its cell as before.

    python benchmarks/base_skills.py --model mini_base
"""

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import islice

import torch

from brushwork.critic.scene import SceneGraph, cell_name, diff
from brushwork.data.sources.shapes import ShapesSource
from brushwork.data.subsets import base
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.tasks import Reject
from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, ShapesWorld
from brushwork.flow.checkpoint import Bundle, from_pretrained
from brushwork.flow.engine import Engine, image_tokens
from brushwork.flow.guidance import Guidance
from brushwork.flow.path import timestep_grid
from brushwork.flow.self_inspection import SelfInspector
from brushwork.flow.solver import euler
from brushwork.tokens.grammar import plan_ids
from brushwork.tokens.trajectory import Image, Trajectory

WORLD = ShapesWorld()
ROOM = 96
"""Tokens of the texts around an edit, at most."""


def samples(subset: Callable[..., list[Trajectory | Reject]], number: int) -> list[Trajectory]:
    """Some of a subset's val split, the same ones each time."""
    tasks = list(islice(ShapesSource(kinds=(*KINDS, *HARD_KINDS))("val", 0, 1, 0), number))
    return [one for one in subset(tasks, drawing=shapes_drawing()) if isinstance(one, Trajectory)]


@torch.inference_mode()
def edited(bundle: Bundle, trajectories: Sequence[Trajectory], *, steps: int = 10, shift: float = 3.0) -> list[Image]:
    """What the model makes of each picture, given the instruction; the noise is seeded by the place in the list."""
    model, control = bundle.model.eval(), bundle.vocabulary.control
    height, width = trajectories[0].final_image.shape[:2]
    grid = model.config.grid(height, width)
    engine = Engine(
        model, bundle.autoencoder, control, Guidance(), rows=len(trajectories), text_capacity=0,
        capacity=ROOM + image_tokens(model.config, height, width), patches=grid[0] * grid[1],
    )  # fmt: skip
    before, after = zip(*(one.steps for one in trajectories), strict=True)
    engine.read_text([[control.bos, *bundle.vocabulary.encode(one.prompt), control.eos] for one in trajectories])
    engine.read_images([step.drafts[0].image for step in before])
    engine.read_text([[control.bos, *plan_ids(step.plan, bundle.vocabulary), control.eos] for step in after])
    velocity = engine.velocity(engine.views(range(len(trajectories))), grid)
    generators = [torch.Generator().manual_seed(number) for number in range(len(trajectories))]
    noise = [torch.randn(grid[0] * grid[1], model.config.patch_dim, generator=one) for one in generators]
    return engine.pictures(euler(velocity, torch.stack(noise), timestep_grid(steps, shift=shift)), grid)


def places(scene: SceneGraph) -> set[tuple[str, str]]:
    """Each object with its cell."""
    return {(one.noun, cell_name(*one.centre)) for one in scene.objects}


def editing(bundle: Bundle, trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Shares of edits that are right, that show what was asked for, of objects that stay, of told places kept to."""
    right = shown = stayed = stood = 0
    placed: list[bool] = []
    for one, image in zip(trajectories, edited(bundle, trajectories), strict=True):
        target, drawn = WORLD.detect(one.final_image), WORLD.detect(image)
        keeps = places(WORLD.detect(one.steps[0].drafts[0].image)) & places(target)
        is_shown = sorted(each.noun for each in drawn.objects) == sorted(each.noun for each in target.objects)
        is_placed = _placed(one, drawn)
        placed += [] if is_placed is None else [is_placed]
        stood, stayed, shown = stood + len(keeps), stayed + len(keeps & places(drawn)), shown + is_shown
        right += is_shown and keeps <= places(drawn) and is_placed is not False
    number = len(trajectories)
    return {
        "edits": number,
        "right": right / number,
        "shown": shown / number,
        "stay": stayed / max(stood, 1),
        "told_places": len(placed),
        "placed": sum(placed) / max(len(placed), 1),
    }


def _placed(one: Trajectory, drawn: SceneGraph) -> bool | None:
    """Whether the relation that the instruction names holds in the picture; None where it names none."""
    plan = one.steps[1].plan
    assert plan is not None, "every edit has an instruction"
    command, _, said = plan.instruction.partition(" ")
    if command not in ("add", "move"):
        return None
    wanted = WORLD.parse(" ".join("a" if word == "the" else word for word in said.split()))
    return not [each for each in diff(wanted, drawn) if each.kind == "place"] if wanted.relations else None


def looking(bundle: Bundle, trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Shares of descriptions that are right word by word, and of questions answered rightly."""
    inspector = SelfInspector(bundle.model, bundle.vocabulary, autoencoder=bundle.autoencoder)
    images = [one.final_image for one in trajectories]
    said = inspector([one.prompt for one in trajectories], [[]] * len(images), images)
    marks: dict[str, list[bool]] = {"described": [], "answered": []}
    for one, (inspection, _) in zip(trajectories, said, strict=True):
        expected = one.steps[0].drafts[0].inspection
        assert expected is not None, "every picture of the subset is spoken of"
        marks["answered" if expected.draft_check in ("yes", "no") else "described"].append(
            inspection.draft_check == expected.draft_check
        )
    return {name: sum(some) / max(len(some), 1) for name, some in marks.items()} | {"pictures": len(images)}


def main() -> None:
    """Prints the shares as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="mini_base")
    parser.add_argument("--number", type=int, default=300)
    arguments = parser.parse_args()
    bundle = from_pretrained(arguments.model, dtype="float32")
    found = {
        "editing": editing(bundle, samples(base.editing, arguments.number)),
        "looking": looking(bundle, samples(base.looking, arguments.number)),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
