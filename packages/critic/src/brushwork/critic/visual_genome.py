"""Scene graphs that people drew of photographs: records of Visual Genome and of GQA, read into `SceneGraph`."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from brushwork.critic.english import singular, words
from brushwork.critic.scene import INVERSE, Relation, SceneGraph, SceneObject

COLOR_WORDS = frozenset(
    "red green blue yellow purple cyan orange pink brown black white gray beige tan teal turquoise maroon violet navy "
    "gold silver cream".split()
)
_SPELLED = {"grey": "gray", "golden": "gold", "silvery": "silver"}
_SAID_AS = {
    "has": "with", "have": "with", "having": "with", "wears": "wearing", "wear": "wearing", "holds": "holding",
    "hold": "holding", "rides": "riding", "beneath": "under", "underneath": "under", "next": "next to",
    "beside": "next to", "by": "next to", "atop": "on top of",
}  # fmt: skip
_SIDE = re.compile(r"(?:(?:to|on|at) )?(?:the )?(left|right)(?: side)?(?: (?:of|from))?")
_MAX_WORDS = 3  # of a name; longer ones are remarks ("man in a blue shirt")


def read_record(record: object) -> SceneGraph:
    """The scene graph of one image.

    Names are singular and in lower case, the first colour among the attributes becomes `color`, and other attributes
    of one word stay attributes. Objects without a name of one to three words are left out, and so is every relation
    that names an object that is not there, relates it to itself, or says again what was said (as the opposite of
    another, too).

    Args:
        record: of Visual Genome's `scene_graphs.json` (a list of `objects` and one of `relationships`; `width` and
            `height` may be added from `image_data.json`), or a value of GQA's `sceneGraphs.json` (`objects` by id).

    Returns:
        Objects in the record's order; x and y are known where the image's size is.

    Raises:
        ValueError: a record of neither form.
    """
    objects = record.get("objects") if isinstance(record, dict) else None
    if not isinstance(record, dict) or not isinstance(objects, list | dict):
        raise ValueError(
            f"no scene graph: {str(record)[:80]!r}; expected a record of Visual Genome's scene_graphs.json, with a "
            "list of objects, or of GQA's sceneGraphs.json, with objects by their ids"
        )
    try:
        if isinstance(objects, list):
            nodes = {one["object_id"]: (next(iter(one["names"]), ""), one) for one in objects}
            edges = [(one["subject_id"], one["predicate"], one["object_id"]) for one in record.get("relationships", ())]
        else:
            nodes = {key: (one["name"], one) for key, one in objects.items()}
            edges = [(key, r["name"], r["object"]) for key, one in objects.items() for r in one.get("relations", ())]
        kept = {key: node for key, node in nodes.items() if 1 <= len(words(node[0])) <= _MAX_WORDS}
        placed = [_object(name, one, record) for name, one in kept.values()]
        return SceneGraph(objects=tuple(placed), relations=relations(list(kept), edges))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"no scene graph: {type(error).__name__} {error} in {str(record)[:80]!r}; expected object_id and names in "
            "each object and subject_id, predicate and object_id in each relationship (Visual Genome), or name in each "
            "object and name and object in each of its relations (GQA)"
        ) from error


def _object(name: str, one: Mapping[str, Any], image: Mapping[str, Any]) -> SceneObject:
    width, height = image.get("width"), image.get("height")
    x = _centre(float(one["x"]), float(one["w"]), float(width)) if width and height else None
    y = _centre(float(one["y"]), float(one["h"]), float(height)) if width and height else None
    return as_object(name, one.get("attributes") or (), x=x, y=y)


def _centre(start: float, length: float, whole: float) -> float:
    return min(max((start + length / 2) / whole, 0.0), 1.0)


def as_object(
    name: str, attributes: Iterable[str] = (), *, x: float | None = None, y: float | None = None
) -> SceneObject:
    """An object as it was labelled, in plain words.

    Args:
        name: "Traffic Lights"; at least one word.
        attributes: "brown and white" counts as two; the first colour is the object's, and as it can have but one, the
            others are left out; so are attributes of several words ("sitting down"), which no noun can follow.
        x, y: the centre.
    """
    noun = words(name)
    said = [words(part) for attribute in attributes for part in re.split(r",|\band\b", attribute.lower())]
    spelled = [_SPELLED.get(phrase[-1], phrase[-1]) for phrase in said if phrase]
    color = next((word for word in spelled if word in COLOR_WORDS), None)
    single = [phrase[0] for phrase in said if len(phrase) == 1]
    others = [word for word in single if _SPELLED.get(word, word) not in COLOR_WORDS and word not in noun]
    return SceneObject(name=singular(" ".join(noun)), color=color, x=x, y=y, attributes=tuple(dict.fromkeys(others)))


def relations(keys: list[Any], edges: Iterable[tuple[Any, str, Any]]) -> tuple[Relation, ...]:
    """Relations between the objects with these keys, in the edges' order: each said once, none that dangles.

    Args:
        keys: of the objects, in order.
        edges: key of the subject, predicate as it was labelled, key of the object.
    """
    numbers, found = {key: number for number, key in enumerate(keys)}, {}
    for subject, label, reference in edges:
        one, other, predicate = numbers.get(subject), numbers.get(reference), as_predicate(label)
        if one is None or other is None or one == other or not predicate:
            continue
        if (other, INVERSE.get(predicate), one) not in found:
            found[one, predicate, other] = Relation(subject=one, predicate=predicate, object=other)
    return tuple(found.values())


def as_predicate(label: str) -> str:
    """A predicate in plain words: "is to the left of" → "left of", "ON a" → "on"; empty where there is no word."""
    said = words(label)
    while said and said[0] in ("is", "are"):
        del said[0]
    while said and said[-1] in ("a", "an", "the"):
        del said[-1]
    text = " ".join(said)
    if side := _SIDE.fullmatch(text):
        return f"{side[1]} of"
    return _SAID_AS.get(text, text)
