"""GenEval's rules: what a detector saw → what is wrong with it, in the official words.

In each class only the most confident objects count, as many as are asked for: a second object that would fit does not
help, and further objects hurt only where they are excluded. Numbers are compared in single precision, as officially.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from brushwork.eval.benchmarks.geneval_prompts import Clause, Request

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """An object that a detector sees.

    Attributes:
        name: its class, in GenEval's words.
        score: 0 to 1.
        box: left, top, right and bottom in pixels; right and bottom are the first that it does not reach.
        mask: its pixels, of the picture's size; None where the detector gives boxes alone.
    """

    name: str
    score: float
    box: Float32[np.ndarray, " 4"]
    mask: Bool[np.ndarray, "height width"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """GenEval's settings, under their official names; scores are comparable at the defaults alone.

    Attributes:
        threshold: an object's score must be above it.
        counting_threshold: the same where the tag is "counting".
        max_objects: of a class, the best so many are looked at.
        max_overlap: an object of a class is dropped where its intersection over union with a better one reaches it;
            1 keeps all, even identical boxes.
        position_threshold: how far beyond the boxes' reach a centre must lie, as a fraction of their added extents.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1


OFFICIAL = Options()


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortcoming:
    """One thing that is wrong with a picture.

    Attributes:
        text: the official reason, relations in alphabetical order: officially their order varies from run to run.
        missing: nothing there is wrong, something is not there yet.
    """

    text: str
    missing: bool = False


Kept = Mapping[str, Sequence[Detection]]
"""Class → its objects, the best first; only classes that have any."""
Colors = Callable[[str, Sequence[Detection]], Sequence[str]]
"""Class and objects of it → the colour of each."""


def keep(detections: Iterable[Detection], tag: str, options: Options) -> Kept:
    """The objects that count: above the threshold, the best of each class, not overlapping."""
    least = np.float32(options.counting_threshold if tag == "counting" else options.threshold)
    by_name: dict[str, list[Detection]] = {}
    for one in detections:
        by_name.setdefault(one.name, []).append(one)
    kept: dict[str, Sequence[Detection]] = {}
    for name, objects in by_name.items():
        scores = np.array([one.score for one in objects], np.float32)
        order = [index for index in scores.argsort()[::-1] if scores[index] > least]
        best = [objects[index] for index in order[: options.max_objects]]
        if best:
            kept[name] = best if options.max_overlap == 1 else apart(best, options.max_overlap)
    return kept


def apart(objects: Iterable[Detection], max_overlap: float) -> list[Detection]:
    """Those that overlap none of the kept ones before them so much (greedy non-maximum suppression)."""
    kept: list[Detection] = []
    for one in objects:
        if all(overlap(better.box, one.box) < np.float32(max_overlap) for better in kept):
            kept.append(one)
    return kept


def overlap(one: Float32[np.ndarray, " 4"], other: Float32[np.ndarray, " 4"]) -> np.float32:
    """Intersection over union, of boxes that include their last pixel: each is a pixel wider and higher than told."""
    common = np.concatenate([np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])])
    shared, *areas = (np.maximum(box[2:] - box[:2] + np.float32(1), 0).prod() for box in (common, one, other))
    union = areas[0] + areas[1] - shared
    return shared / union if union else np.float32(0)


def shortcomings(request: Request, kept: Kept, colors: Colors, options: Options) -> list[Shortcoming]:
    """All that is wrong with a picture; nothing where it passes.

    A clause that fails does not stop the others; colours are asked only of the objects that they decide on.

    Args:
        request: what it must show.
        kept: what it shows.
        colors: names the colours of objects.
        options: of which `position_threshold` matters here.
    """
    wrong: list[Shortcoming] = []
    groups: list[Sequence[Detection] | None] = []
    for clause in request.include:
        objects = kept.get(clause.name, ())[: clause.count]
        failure = (
            _too_few(clause, objects)
            or _wrong_color(clause, objects, colors)
            or _misplaced(clause, objects, groups, options.position_threshold)
        )
        wrong += [failure] if failure else []
        groups.append(None if failure else objects)
    for clause in request.exclude:
        if (number := len(kept.get(clause.name, ()))) >= clause.count:
            wrong.append(Shortcoming(text=f"expected {clause.name}<{clause.count}, found {number}"))
    return wrong


def _too_few(clause: Clause, objects: Sequence[Detection]) -> Shortcoming | None:
    if len(objects) >= clause.count:
        return None
    return Shortcoming(text=f"expected {clause.name}>={clause.count}, found {len(objects)}", missing=True)


def _wrong_color(clause: Clause, objects: Sequence[Detection], colors: Colors) -> Shortcoming | None:
    if clause.color is None:
        return None
    seen = list(colors(clause.name, objects))
    right = seen.count(clause.color)
    if right >= clause.count:
        return None
    listed = ", ".join(f"{seen.count(color)} {color}" for color in COLORS if color in seen)
    expected = f"expected {clause.color} {clause.name}>={clause.count}"
    return Shortcoming(text=f"{expected}, found {right} {clause.color}; and {listed}")


def _misplaced(
    clause: Clause, objects: Sequence[Detection], groups: Sequence[Sequence[Detection] | None], tolerance: float
) -> Shortcoming | None:
    """The first pair of an object and a target that does not stand as it should."""
    if clause.position is None:
        return None
    relation, index = clause.position
    targets = groups[index]
    if targets is None:  # its own shortcoming is told already
        return Shortcoming(text=f"no target for {clause.name} to be {relation}", missing=True)
    for one in objects:
        for target in targets:
            seen = relations(one.box, target.box, tolerance)
            if relation not in seen:
                found = " and ".join(seen)
                return Shortcoming(text=f"expected {clause.name} {relation} target, found {found} target")
    return None


def relations(one: Float32[np.ndarray, " 4"], other: Float32[np.ndarray, " 4"], tolerance: float) -> list[str]:
    """Where a box lies as seen from another, by their centres: nowhere, in one direction, or diagonally in two.

    Args:
        one: the box.
        other: from which one looks.
        tolerance: fraction of the boxes' added extents by which the distance of their centres is shrunk on each axis.

    Returns:
        The relations in alphabetical order.
    """
    corners = np.stack([one, other]).reshape(2, 2, 2)  # (box, corner, axis)
    center, other_center = corners.mean(axis=1)
    extents = np.abs(corners[:, 1] - corners[:, 0]).sum(axis=0)
    offset = center - other_center
    shrunk = np.maximum(np.abs(offset) - np.float32(tolerance) * extents, 0) * np.sign(offset)
    if (np.abs(shrunk) < 1e-3).all():
        return []
    x, y = shrunk / np.linalg.norm(offset)
    holds = {"above": y < -0.5, "below": y > 0.5, "left of": x < -0.5, "right of": x > 0.5}
    return [relation for relation, true in holds.items() if true]
