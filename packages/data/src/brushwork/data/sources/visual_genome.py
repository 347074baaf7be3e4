"""Visual Genome and GQA: prompts written from parts of the scene graphs that people drew of photographs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from brushwork.critic.caption import caption
from brushwork.critic.scene import Relation, SceneGraph
from brushwork.critic.visual_genome import read_record
from brushwork.data.sources.division import check_fractions, divide, identity_of, label
from brushwork.data.tasks import Reject, Task


@dataclass(frozen=True, kw_only=True)
class SceneGraphSource:
    """A prompt from each image of Visual Genome's `scene_graphs.json` or of one of GQA's `*_sceneGraphs.json`.

    A prompt asks for a few of an image's objects that hang together by relations; the seed and the image choose which.
    The prompt decides the split, so that images with equal prompts share one. The file is read as a stream, one image
    in memory, which takes ijson (the extra `visual-genome`).

    Attributes:
        path: the file.
        min_objects, max_objects: of a prompt. An image in which no `min_objects` hang together is a `Reject`.
        held_out, held_out_val: fractions of all prompts that are "test" and "val", see `split_of`.
    """

    licence: ClassVar[str] = "CC BY 4.0 (annotations of Visual Genome and GQA)"

    path: str | Path
    min_objects: int = 2
    max_objects: int = 5
    held_out: float = 0.01
    held_out_val: float = 0.01

    def __post_init__(self) -> None:
        check_fractions(self.held_out, self.held_out_val)
        if not 1 <= self.min_objects <= self.max_objects:
            raise ValueError(
                f"min_objects={self.min_objects}, max_objects={self.max_objects}: expected 1 <= min <= max"
            )

    @property
    def identity(self) -> str:
        """The corpus as it is, so that a build is not continued with another one."""
        return identity_of([Path(self.path)])

    def __call__(self, split: str, part: int, parts: int, seed: int) -> Iterator[Task | Reject]:
        """Tasks with a `scene`, objects with places where the file has image sizes.

        `kind` is "relations", or "objects" for an image of which no relation is known.

        Raises:
            FileNotFoundError: no such file.
            ImportError: ijson is not installed; raised with the first task.
            ValueError: no such split or part.
        """
        path = Path(self.path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is no file; expected Visual Genome's scene_graphs.json or GQA's train_sceneGraphs.json, "
                "unpacked from the archive in which it comes"
            )
        drafts = (self._draft(number, *record, seed) for number, record in enumerate(_records(path)))
        return divide(
            ((draft.prompt or f"{path.name}:{number}", draft) for number, draft in enumerate(drafts)),
            partial(_task, split=split),
            split=split, part=part, parts=parts, seed=seed, held_out=self.held_out, held_out_val=self.held_out_val,
        )  # fmt: skip

    def _draft(self, number: int, source: str, image_id: Any, record: object, seed: int) -> Task | Reject:
        """The prompt of the file's record of this number, before its split is known."""
        meta = {"source": source, "image_id": label(str(image_id or ""))}
        try:
            if isinstance(record, ValueError):
                raise record
            rng = np.random.default_rng([seed, number])  # the task's own depends on the split, which this decides
            scene = sample_subgraph(read_record(record), self.min_objects, self.max_objects, rng)
        except ValueError as error:
            return Reject(prompt="", reason=str(error), detail={**meta, "record": number})
        kind = "relations" if scene.relations else "objects"
        return Task(prompt=caption(scene), split="", rng=rng, scene=scene, kind=kind, meta=meta)


def _task(draft: Task | Reject, rng: np.random.Generator, *, split: str) -> Task | Reject:
    return draft if isinstance(draft, Reject) else replace(draft, split=split, rng=rng)


def _records(path: Path) -> Iterator[tuple[str, Any, object]]:
    """Corpus, image and record one after the other; a ValueError as the last record where the file is damaged."""
    try:
        import ijson
    except ImportError as error:
        raise ImportError("SceneGraphSource needs ijson: pip install 'brushwork-data[visual-genome]'") from error
    with path.open("rb") as file:
        source = "gqa" if file.read(64).lstrip().startswith(b"{") else "visual_genome"
        file.seek(0)
        try:
            if source == "gqa":  # images by their ids
                for image_id, record in ijson.kvitems(file, "", use_float=True):
                    yield source, image_id, record
            else:
                for record in ijson.items(file, "item", use_float=True):
                    yield source, record.get("image_id") if isinstance(record, dict) else None, record
        except ijson.JSONError as error:
            yield source, None, ValueError(f"damaged file: {error}; what follows in {path.name} is lost")


def sample_subgraph(scene: SceneGraph, min_objects: int, max_objects: int, rng: np.random.Generator) -> SceneGraph:
    """A random part of a scene that hangs together by relations, one between two objects and no circle of them.

    Args:
        scene: objects and relations of an image.
        min_objects, max_objects: of the part; how many is drawn between the two, and is less where no more hang
            together.
        rng: source of all randomness.

    Returns:
        Objects in such an order that the object of a relation comes before its subject, and objects that are alike
        side by side where possible. From a scene without relations, any objects.

    Raises:
        ValueError: no `min_objects` hang together.
    """
    wanted = int(rng.integers(min_objects, max_objects + 1))
    if not scene.relations or wanted == 1:
        chosen = rng.permutation(len(scene.objects))[:wanted].tolist()
        if len(chosen) >= min_objects:
            return _part(scene, chosen, [])
    for start in rng.permutation(len(scene.relations)).tolist():
        tree = _grow(scene, scene.relations[start], wanted, rng)
        if len(tree) + 1 >= min_objects:
            return _part(scene, list({end: None for one in tree for end in (one.subject, one.object)}), tree)
    raise ValueError(
        f"graph too small: no {min_objects} of {len(scene.objects)} objects hang together by its "
        f"{len(scene.relations)} relations"
    )


def _grow(scene: SceneGraph, start: Relation, num_objects: int, rng: np.random.Generator) -> list[Relation]:
    """Relations that reach so many objects from this one, each a new object; fewer where there are no more."""
    tree, reached = [start], {start.subject, start.object}
    while len(reached) < num_objects:
        edges = [one for one in scene.relations if (one.subject in reached) != (one.object in reached)]
        if not edges:
            break
        tree.append(edges[rng.integers(len(edges))])
        reached |= {tree[-1].subject, tree[-1].object}
    return tree


def _part(scene: SceneGraph, chosen: list[int], tree: list[Relation]) -> SceneGraph:
    """These objects and relations, in the order that `sample_subgraph` promises."""
    order: list[int] = []
    while left := [index for index in chosen if index not in order]:
        ready = [i for i in left if all(one.object in order for one in tree if one.subject == i)]
        last = scene.objects[order[-1]].noun if order else ""
        order.append(next((i for i in ready if scene.objects[i].noun == last), ready[0]))
    place = {index: number for number, index in enumerate(order)}
    relations = [
        Relation(subject=place[one.subject], predicate=one.predicate, object=place[one.object]) for one in tree
    ]
    relations.sort(key=lambda one: one.subject)
    return SceneGraph(objects=tuple(scene.objects[index] for index in order), relations=tuple(relations))
