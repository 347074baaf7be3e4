"""Prompts of your own: a file with one JSON object a line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from brushwork.critic.scene import Relation, SceneGraph, SceneObject
from brushwork.data.sources.division import check_fractions, divide, identity_of
from brushwork.data.tasks import Reject, Task

_FORM = '{"prompt": "...", "kind": "...", "scene": {"objects": [...], "relations": [...]}}, the last two optional'
_Line = dict[str, Any] | ValueError


@dataclass(frozen=True, kw_only=True)
class JsonlSource:
    """Reads `{"prompt": str, "kind": str, "scene": {...}}` line by line; kind and scene may be left out.

    A scene is `{"objects": [{"name", "color", "x", "y", "attributes"}], "relations": [{"subject", "predicate",
    "object"}]}`, fields as in `SceneObject` and `Relation`, of which only the names and a relation's three are needed.
    A line that is not so is a `Reject` with its number; empty lines are passed over.

    Attributes:
        path: the file, UTF-8.
        held_out, held_out_val: fractions of all prompts that are "test" and "val", see `split_of`.
    """

    licence: ClassVar[str] = "as the owner of the prompts says"

    path: str | Path
    held_out: float = 0.01
    held_out_val: float = 0.01

    def __post_init__(self) -> None:
        check_fractions(self.held_out, self.held_out_val)

    @property
    def identity(self) -> str:
        """The corpus as it is, so that a build is not continued with another one."""
        return identity_of([Path(self.path)])

    def __call__(self, split: str, part: int, parts: int, seed: int) -> Iterator[Task | Reject]:
        """Tasks in the file's order.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no such split or part.
        """
        path = Path(self.path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file; expected one with a line {_FORM} for each prompt")
        return divide(
            _lines(path),
            partial(_task, path=path, split=split),
            split=split, part=part, parts=parts, seed=seed, held_out=self.held_out, held_out_val=self.held_out_val,
        )  # fmt: skip


def _lines(path: Path) -> Iterator[tuple[str, tuple[int, _Line]]]:
    """The prompt, or a name for a line that has none, then the line's number and what it holds or why it does not."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                content = _read(line)
                words = f"{path.name}:{number}" if isinstance(content, ValueError) else content["prompt"]
                yield words, (number, content)


def _read(line: bytes) -> _Line:
    """A line's fields, checked but for the scene, or what is wrong with it."""
    try:
        content = json.loads(line)
        if not isinstance(content, dict) or not {"prompt"} <= set(content) <= {"prompt", "kind", "scene"}:
            raise ValueError(f"{line[:80]!r}")
        for key in ("prompt", "kind"):
            if not isinstance(content.get(key, "free"), str) or not content.get(key, "free").strip():
                raise ValueError(f"{key} {content[key]!r} is no text")
        content["prompt"].encode()  # an escaped half of a character cannot be written again
        return content
    except (ValueError, RecursionError) as error:
        return ValueError(str(error))


def _task(line: tuple[int, _Line], rng: np.random.Generator, *, path: Path, split: str) -> Task | Reject:
    number, content = line
    meta, prompt = {"source": "jsonl", "file": path.name, "line": number}, ""
    try:
        if isinstance(content, ValueError):
            raise content
        prompt = content["prompt"].strip()
        scene = None if content.get("scene") is None else _scene(content["scene"])
    except (ValueError, TypeError) as error:
        return Reject(prompt=prompt, reason=f"bad line: {error}; expected {_FORM}", detail=meta)
    return Task(prompt=prompt, split=split, rng=rng, scene=scene, kind=content.get("kind", "free"), meta=meta)


def _scene(content: Any) -> SceneGraph:
    """A scene as `JsonlSource` describes it.

    Raises:
        ValueError, TypeError: it is something else.
    """
    if not isinstance(content, dict) or not {"objects"} <= set(content) <= {"objects", "relations"}:
        raise ValueError(f"the scene {str(content)[:80]}")
    objects = tuple(_object(**one) for one in content["objects"])
    relations = tuple(_relation(len(objects), **one) for one in content.get("relations", ()))
    return SceneGraph(objects=objects, relations=relations)


def _object(*, name: Any, color: Any = None, x: Any = None, y: Any = None, attributes: Any = ()) -> SceneObject:
    texts = (name, *attributes, *(() if color is None else (color,)))
    if isinstance(attributes, str) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"the object {name!r} with color {color!r} and attributes {attributes!r}")
    place = [value for value in (x, y) if value is not None]
    if len(place) == 1 or not all(type(value) in (int, float) and 0 <= value <= 1 for value in place):
        raise ValueError(f"the object {name!r} at x {x!r}, y {y!r} (fractions of the canvas)")
    x, y = (None, None) if not place else map(float, place)  # JSON may have an integer
    return SceneObject(name=name, color=color, x=x, y=y, attributes=tuple(attributes))


def _relation(num_objects: int, *, subject: Any, predicate: Any, object: Any) -> Relation:
    ends = [end for end in (subject, object) if type(end) is int and 0 <= end < num_objects]
    if len(set(ends)) < 2 or not isinstance(predicate, str) or not predicate:
        raise ValueError(f"the relation {subject!r} {predicate!r} {object!r} (numbers of {num_objects} objects)")
    return Relation(subject=subject, predicate=predicate, object=object)
