"""Multi-turn generation: a scene drawn one object a step, with planted flaws found and mended on the way.

The paper's first subset (section on data construction: scene graph → nested sub-graphs → incremental prompts), with
the inspection of the later two derived from the scene itself.
"""

from dataclasses import replace

import numpy as np

from brushwork.critic.feedback import feedback
from brushwork.critic.scene import INVERSE, Relation, SceneGraph, article, cell_name, describe, diff
from brushwork.data.subsets.flaws import Flaw, plant
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.tokens.trajectory import Draft, Plan, Step, Trajectory

PLAN_STYLES = ("relational", "located")


def multi_turn(
    world: ShapesWorld,
    kind: str,
    rng: np.random.Generator,
    *,
    split: str,
    key: str,
    plan: str = "relational",
    flaw_rate: float = 0.3,
) -> Trajectory:
    """One trajectory: a step for each object, in the prompt's order.

    Args:
        world: samples and draws the scene.
        kind: kind of prompt, one of the world's.
        rng: source of all randomness.
        split: "train", "val" or "test"; what is held out is shown by no draft but for what `ShapesWorld` excepts.
        key: the trajectory's key.
        plan: "relational" says where an object goes by an earlier one ("add a blue square right of the red circle"),
            so that the place must be read from the picture; "located" names cells ("add a blue square at c1").
        flaw_rate: probability that a step's first draft has an error, which its inspection names and the next draft
            mends.

    Returns:
        All drafts are inspected. `meta`: kind, subset, world, split, plan, and the kinds of the flaws, in order.

    Raises:
        ValueError: an unknown plan style, or a flaw rate outside 0 to 1; unknown kinds and splits as `world.sample`.
    """
    if plan not in PLAN_STYLES or not 0 <= flaw_rate <= 1:
        raise ValueError(f"plan={plan!r}, flaw_rate={flaw_rate}: expected one of {PLAN_STYLES} and 0 to 1")
    prompt, scene = world.sample(kind, rng, split)
    relations = _relations(world, scene, rng) if plan == "relational" else ()
    steps, flaws = [], []
    for count in range(1, len(scene.objects) + 1):
        so_far = SceneGraph(objects=scene.objects[:count])
        said = _said(so_far, relations) if plan == "relational" else so_far
        words = Plan(instruction=_instruction(world, said), description=_description(world, said))
        flaw = plant(world, said, so_far, rng, split=split) if rng.random() < flaw_rate else None
        flaws += [flaw.kind] if flaw else []
        steps.append(Step(plan=words, drafts=_drafts(world, said, so_far, flaw)))
    meta = {"kind": kind, "subset": "multi_turn", "world": "shapes", "split": split, "plan": plan, "flaws": flaws}
    return Trajectory(key=key, prompt=prompt, steps=tuple(steps), meta=meta)


def _relations(world: ShapesWorld, scene: SceneGraph, rng: np.random.Generator) -> tuple[Relation, ...]:
    """What each object but the first is drawn by: the prompt's own relation, else a true one to an earlier object."""
    asked = {
        one.object: Relation(subject=one.object, predicate=INVERSE[one.predicate], object=one.subject)
        for one in scene.relations
    }
    relations = []
    for subject in range(1, len(scene.objects)):
        earlier = int(rng.integers(subject))
        true = world.predicates(scene.objects[subject], scene.objects[earlier])
        sampled = Relation(subject=subject, predicate=true[rng.integers(len(true))], object=earlier)
        relations.append(asked.get(subject, sampled))
    return tuple(relations)


def _said(scene: SceneGraph, relations: tuple[Relation, ...]) -> SceneGraph:
    """What relational plans have said of the scene so far: objects without places, relations among them."""
    objects = tuple(replace(one, x=None, y=None) for one in scene.objects)
    return SceneGraph(objects=objects, relations=relations[: len(objects) - 1])


def _instruction(world: ShapesWorld, said: SceneGraph) -> str:
    """The command that adds the last object."""
    new = said.objects[-1]
    words = f"add {article(new.noun)}"
    if new.x is not None:
        return f"{words} at {cell_name(*new.centre, world.grid)}"
    if not said.relations:
        return words
    relation = said.relations[-1]
    return f"{words} {relation.predicate} the {said.objects[relation.object].noun}"


def _description(world: ShapesWorld, said: SceneGraph) -> str:
    """The scene after the step, with places where the plan knows them; relations are said when they are used."""
    cells = said.objects[0].x is not None
    return describe(SceneGraph(objects=said.objects), cells=cells, grid=world.grid)


def _drafts(world: ShapesWorld, said: SceneGraph, scene: SceneGraph, flaw: Flaw | None) -> tuple[Draft, ...]:
    """The flawed draft with what is wrong with it, if there is one, then the right one."""
    right = _inspected(world, said, scene)
    assert right.inspection is not None and right.inspection.accepts, "the scene satisfies its own plan"
    return (right,) if flaw is None else (replace(_inspected(world, said, flaw.scene), flawed=True), right)


def _inspected(world: ShapesWorld, said: SceneGraph, scene: SceneGraph) -> Draft:
    """The scene's picture and how it departs from what the plans have said."""
    found = diff(said, scene, tolerance=0.5 / world.grid)
    return Draft(image=world.render(scene), inspection=feedback(found, grid=world.grid))
