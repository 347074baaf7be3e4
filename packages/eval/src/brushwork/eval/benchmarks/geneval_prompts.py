"""GenEval's prompts and their metadata: which objects, how many, of which colour and where."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The tasks, in the order of the official prompts."""
PROMPT_SETS = {"short": "evaluation_metadata.jsonl", "long": "evaluation_metadata_long.jsonl"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Clause:
    """Objects of one class that are asked for, or that must not be there.

    Attributes:
        name: the class.
        count: how many; of an excluded class, the number from which they are too many.
        color: which each of them has; None where any will do.
        position: relation ("left of", "right of", "above", "below") to the objects of an earlier clause, and its index.
    """

    name: str
    count: int
    color: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a picture must show.

    Attributes:
        tag: the task.
        include: all of these.
        exclude: none of these.
    """

    tag: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()


def parse_request(metadata: Mapping[str, Any]) -> Request:
    """The request in one line of the official metadata.

    Raises:
        ValueError: it is not of the official form.
    """
    try:
        include = tuple(map(_clause, metadata.get("include", ())))
        exclude = tuple(map(_clause, metadata.get("exclude", ())))
        request = Request(tag=str(metadata["tag"]), include=include, exclude=exclude)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"no GenEval metadata ({type(error).__name__}: {error}): {dict(metadata)!r}; "
            'expected {"tag": ..., "include": [{"class": ..., "count": ...}, ...], "prompt": ...}'
        ) from error
    for number, clause in enumerate(include):
        if clause.position and not 0 <= clause.position[1] < number:
            raise ValueError(
                f"clause {number} of {dict(metadata)!r} is placed relative to clause {clause.position[1]}; "
                "expected the index of an earlier clause"
            )
    return request


def _clause(fields: Mapping[str, Any]) -> Clause:
    position = None
    if "position" in fields:
        relation, target = fields["position"]
        position = (str(relation), int(target))
    return Clause(name=fields["class"], count=int(fields["count"]), color=fields.get("color"), position=position)


def read_metadata(prompt_set: str) -> list[dict[str, Any]]:
    """The lines of a prompt set, in order.

    Args:
        prompt_set: "short" (the official one), "long" (BAGEL's rewriting), or the path of a file of the same form.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of the official form.
    """
    if prompt_set in PROMPT_SETS:
        text = _packaged(PROMPT_SETS[prompt_set])
    elif (path := Path(prompt_set)).is_file():
        text = path.read_text(encoding="utf-8")
    else:
        sets = ", ".join(map(repr, PROMPT_SETS))
        raise FileNotFoundError(f"no prompt set {prompt_set!r}; expected {sets} or the path of a metadata .jsonl")
    lines = [line for line in text.split("\n") if line.strip()]  # a prompt may hold other separators of lines
    return [parse_metadata(line, f"{prompt_set}, line {number}") for number, line in enumerate(lines, 1)]


def parse_metadata(text: str, origin: str) -> dict[str, Any]:
    """One JSON document with a prompt and a request that can be read.

    Args:
        text: the document.
        origin: where it comes from, for the error.

    Raises:
        ValueError: it is none.
    """
    try:
        metadata = json.loads(text)
        parse_request(metadata)
        if not isinstance(metadata["prompt"], str):
            raise ValueError(f"the prompt is {metadata['prompt']!r}; expected text")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{origin}: {error}") from error
    return metadata


@cache
def object_names() -> tuple[str, ...]:
    """The 80 classes of COCO in the detector's order, as GenEval's prompts name them."""
    return tuple(_packaged("object_names.txt").split("\n")[:80])


def _packaged(name: str) -> str:
    return (resources.files("brushwork.eval.benchmarks") / "data" / "geneval" / name).read_text(encoding="utf-8")
