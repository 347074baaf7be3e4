"""Scene graphs: what a prompt asks for, what a picture shows, and the smallest list of differences between the two."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

SHAPES = ("circle", "square", "triangle", "cross", "ring", "arch", "tee")
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan")
NUMBERS = ("a", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""`NUMBERS[n - 1]` says n."""


def in_words(count: int) -> str:
    """A count of things in words, as far as there are words: a model may plan more of a thing than a scene can hold."""
    return NUMBERS[count - 1] if 1 <= count <= len(NUMBERS) else str(count)


GRID = 4
"""Cells a side of the canvas; cells are named column letter, row number: "b3"."""
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
PREDICATES = tuple(INVERSE)

DiscrepancyKind = Literal["missing", "extra", "count", "shape", "color", "attribute", "place"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One thing; None is "not said".

    Attributes:
        name: what it is, a singular noun; in the embedded world its shape.
        color: a colour word.
        x: centre as a fraction of the canvas width, 0 left, 1 right.
        y: centre as a fraction of the canvas height, 0 top, 1 bottom.
        attributes: what else is said of it ("wooden", "striped"); in the embedded world nothing.
    """

    name: str
    color: str | None = None
    x: float | None = None
    y: float | None = None
    attributes: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        """Attributes, colour and name as words: "red circle", "striped brown dog"."""
        return " ".join((*self.attributes, *((self.color,) if self.color else ()), self.name))

    @property
    def centre(self) -> tuple[float, float]:
        """The x and y of an object whose place is known."""
        assert self.x is not None and self.y is not None, f"the place of {self} is not known"
        return self.x, self.y


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """`objects[subject]` is `predicate` (one of `PREDICATES`, or other words such as "riding") `objects[object]`."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneGraph:
    """Objects and the relations between them; the order of objects carries no meaning for `diff`."""

    objects: tuple[SceneObject, ...]
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Discrepancy:
    """One thing that is not as it was asked.

    Attributes:
        kind: "missing" and "extra" speak of whole objects, "count" of objects of a shape that is wanted more than
            once, the others of one attribute of an object that is there.
        wanted: the object asked for; None for what is too many.
        seen: the object in the picture; None for what is not there.
        predicate: for "place", the relation that does not hold; None where a cell was asked for.
        reference: for "place" with a predicate, the object that it refers to.
        count: for "count", how many of the shape are wanted.
    """

    kind: DiscrepancyKind
    wanted: SceneObject | None = None
    seen: SceneObject | None = None
    predicate: str | None = None
    reference: SceneObject | None = None
    count: int | None = None


def cell_name(x: float, y: float, grid: int = GRID) -> str:
    """The cell that holds the point (fractions of the canvas), such as "b3"."""
    column, row = (min(int(value * grid), grid - 1) for value in (x, y))
    return f"{chr(ord('a') + column)}{row + 1}"


def cell_centre(name: str, grid: int = GRID) -> tuple[float, float]:
    """The x and y of a cell's centre as fractions of the canvas.

    Raises:
        ValueError: the grid has no such cell.
    """
    column, row = ord(name[:1] or " ") - ord("a"), int(name[1:]) - 1 if name[1:].isdecimal() else -1
    if not (0 <= column < grid and 0 <= row < grid):
        raise ValueError(
            f"there is no cell {name!r}; the {grid} × {grid} grid runs from a1 to {cell_name(1.0, 1.0, grid)}"
        )
    return (column + 0.5) / grid, (row + 0.5) / grid


def holds(predicate: str, subject: SceneObject, reference: SceneObject, tolerance: float = 0.5 / GRID) -> bool:
    """True where the centres differ by more than `tolerance` in the predicate's direction; both need x and y."""
    (x, y), (reference_x, reference_y) = subject.centre, reference.centre
    dx, dy = x - reference_x, y - reference_y
    return {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[predicate] > tolerance


# Words


def article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """Regular English plural: circles, crosses."""
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def describe(scene: SceneGraph, *, cells: bool = False, grid: int = GRID) -> str:
    """The scene in words, which `parse_scene` reads back: "a red circle left of a square and two rings".

    Args:
        scene: neighbouring objects that are equal are counted; a relation is said between neighbours.
        cells: also say where each object is ("a red circle at b3"); needs x and y.
        grid: cells a side.
    """
    objects, predicates = scene.objects, {(r.subject, r.object): r.predicate for r in scene.relations}
    assert all(after == before + 1 for before, after in predicates), "only relations between neighbours can be said"
    words, start = [], 0
    while start < len(objects):
        end = start + 1
        while not cells and end < len(objects) and objects[end] == objects[start] and (end - 1, end) not in predicates:
            end += 1
        one = objects[start]
        words.append(article(one.noun) if end == start + 1 else f"{in_words(end - start)} {plural(one.noun)}")
        if cells:
            words.append(f"at {cell_name(*one.centre, grid)}")
        words.append(predicates.get((end - 1, end), "and"))
        start = end
    return " ".join(words[:-1])


@lru_cache(maxsize=4096)
def parse_scene(
    text: str, *, shapes: tuple[str, ...] = SHAPES, colors: tuple[str, ...] = COLORS, grid: int = GRID
) -> SceneGraph:
    """Reads a prompt or a description of the embedded world.

    Args:
        text: objects joined by "and" or by a relation: "two circles", "a red circle left of a square",
            "a red circle at b3 and a blue square at c1".
        shapes: singular nouns that are known.
        colors: colour words that are known.
        grid: cells a side, for "at b3".

    Raises:
        ValueError: naming the word that is not known, or the phrase that cannot be read.
    """
    plain = " ".join(text.lower().replace(",", " ").split())
    _check_words(plain, shapes, colors)
    objects, relations = [], []
    for clause in plain.split(" and "):
        parts = re.split(f" ({'|'.join(PREDICATES)}) ", clause)  # object, predicate, object, ...
        for index, phrase in enumerate(parts[::2]):
            if index:
                here, said = len(objects), parts[2 * index - 1]
                relations.append(Relation(subject=here - 1, predicate=said, object=here))
            objects += _parse_objects(phrase, shapes, colors, grid)
    return SceneGraph(objects=tuple(objects), relations=tuple(relations))


def _check_words(text: str, shapes: Sequence[str], colors: Sequence[str]) -> None:
    grammar = ("an", "and", "at", *" ".join(PREDICATES).split())
    known = {*shapes, *map(plural, shapes), *colors, *NUMBERS, *grammar}
    for word in text.split():
        if word not in known and not re.fullmatch(r"[a-z]\d+", word):
            raise ValueError(f"{word!r} in {text!r} is none of the words known: {' '.join(sorted(known))}")


def _parse_objects(phrase: str, shapes: Sequence[str], colors: Sequence[str], grid: int) -> list[SceneObject]:
    match phrase.split():
        case [number, color, noun, *rest] if color in colors:
            pass
        case [number, noun, *rest]:
            color = None
        case _:
            number, noun, rest, color = "", "", [], None
    count = 1 if number == "an" else NUMBERS.index(number) + 1 if number in NUMBERS else 0
    name = next((shape for shape in shapes if noun == (shape if count == 1 else plural(shape))), None)
    placed = len(rest) == 2 and rest[0] == "at" and count == 1
    if not count or name is None or (rest and not placed):
        raise ValueError(f"cannot read {phrase!r}; expected such as 'a red circle', 'two rings' or 'a cross at b3'")
    x, y = cell_centre(rest[1], grid) if rest else (None, None)
    return [SceneObject(name=name, color=color, x=x, y=y)] * count


# Difference


def diff(
    wanted: SceneGraph, seen: SceneGraph, *, tolerance: float = 0.5 / GRID, unfinished: bool = False
) -> tuple[Discrepancy, ...]:
    """The smallest explanation of how `seen` departs from `wanted`, in the order of the wanted objects, extras last.

    The world is closed: everything seen beyond what was asked is "extra". Wanted objects are paired with seen ones so
    that the number of discrepancies is least; a pair may differ in one of shape, colour and place, since an object
    that differs in two is better called missing and the other extra. A relation is measured where both objects have
    places, and otherwise has to be among the relations of `seen`, or its opposite the other way round.

    Args:
        wanted: what is None or empty is not checked.
        seen: what a picture shows (objects with colour and place), or what a plan says.
        tolerance: fraction of the canvas by which a centre may be off along each axis, and by which it must lie
            further in a relation's direction; half a cell by default.
        unfinished: `seen` is a plan that goes on: what it does not say yet is no discrepancy, only what it says
            otherwise.

    Returns:
        Nothing where the picture shows what was asked.
    """
    broken = partial(_broken, wanted, seen, tolerance=tolerance, unfinished=unfinished)
    pairs = _pair(wanted, seen, tolerance, broken)
    found = []
    for index, (one, other) in enumerate(zip(wanted.objects, pairs, strict=True)):
        if other is None:
            found += [] if unfinished else [_surplus(wanted, "missing", one)]
            continue
        match = seen.objects[other]
        found += [Discrepancy(kind=kind, wanted=one, seen=match) for kind in _mismatches(one, match, tolerance)]
        for relation in broken(pairs):
            if relation.subject == index:
                reference = wanted.objects[relation.object]
                found.append(
                    Discrepancy(kind="place", wanted=one, seen=match, predicate=relation.predicate, reference=reference)
                )
    extras = (one for index, one in enumerate(seen.objects) if index not in pairs)
    return (*found, *(_surplus(wanted, "extra", one) for one in extras))


def _surplus(wanted: SceneGraph, kind: Literal["missing", "extra"], one: SceneObject) -> Discrepancy:
    """A whole object too few or too many: a matter of count where several of its shape are wanted."""
    count = sum(other.name == one.name for other in wanted.objects)
    missing, extra = (one, None) if kind == "missing" else (None, one)
    if count > 1:
        return Discrepancy(kind="count", wanted=missing, seen=extra, count=count)
    return Discrepancy(kind=kind, wanted=missing, seen=extra)


def _mismatches(wanted: SceneObject, seen: SceneObject, tolerance: float) -> list[DiscrepancyKind]:
    kinds: list[DiscrepancyKind] = []
    if wanted.name != seen.name:
        kinds.append("shape")
    if wanted.color not in (None, seen.color):
        kinds.append("color")
    if not set(wanted.attributes) <= set(seen.attributes):
        kinds.append("attribute")
    if wanted.x is not None and seen.x is not None:
        (x, y), (seen_x, seen_y) = wanted.centre, seen.centre
        if max(abs(x - seen_x), abs(y - seen_y)) > tolerance:
            kinds.append("place")
    return kinds


def _broken(
    wanted: SceneGraph, seen: SceneGraph, pairs: Sequence[int | None], *, tolerance: float, unfinished: bool
) -> list[Relation]:
    """Relations between paired objects that do not hold; `pairs` may cover only the first wanted objects."""
    broken = []
    for relation in wanted.relations:
        if max(relation.subject, relation.object) >= len(pairs):
            continue
        subject, reference = pairs[relation.subject], pairs[relation.object]
        if subject is None or reference is None:
            continue
        one, other = seen.objects[subject], seen.objects[reference]
        opposite = INVERSE.get(relation.predicate)
        if opposite and one.x is not None and other.x is not None:
            stands = holds(relation.predicate, one, other, tolerance)
        elif unfinished:
            stands = not _says(seen, subject, opposite, reference)
        else:
            stands = _says(seen, subject, relation.predicate, reference)
        if not stands:
            broken.append(relation)
    return broken


def _says(scene: SceneGraph, subject: int, predicate: str | None, reference: int) -> bool:
    """Whether the scene says so, or the same thing the other way round."""
    said = {(one.subject, one.predicate, one.object) for one in scene.relations}
    opposite = INVERSE.get(predicate or "")
    return (subject, predicate, reference) in said or (reference, opposite, subject) in said


def _pair(
    wanted: SceneGraph, seen: SceneGraph, tolerance: float, broken: Callable[[Sequence[int | None]], list[Relation]]
) -> tuple[int | None, ...]:
    """For each wanted object the index of the seen one that it is paired with, by branch and bound.

    Cost: 1 for each mismatch and broken relation, 2 for a wanted object without partner, since it is missing and
    leaves one more seen object over. Exact matches are tried first, so the bound closes at once on a right picture.
    Of wanted objects that are alike, and in no relation, one order of partners stands for all.
    """
    related = {index for one in wanted.relations for index in (one.subject, one.object)}
    alike = [
        index > 0 and one == wanted.objects[index - 1] and not {index - 1, index} & related
        for index, one in enumerate(wanted.objects)
    ]
    costs = [[len(_mismatches(one, other, tolerance)) for other in seen.objects] for one in wanted.objects]
    least = [min([2, *row]) for row in costs]
    best_cost, best = float("inf"), ()

    def search(pairs: tuple[int | None, ...], cost: int) -> None:
        nonlocal best_cost, best
        done = len(pairs)
        bound = cost + len(broken(pairs)) + sum(least[done:])
        if bound >= best_cost:
            return
        if done == len(costs):
            best_cost, best = bound, pairs
            return
        least_partner = -1
        if alike[done]:
            previous = pairs[-1]
            least_partner = len(seen.objects) if previous is None else previous
        partners = [i for i, price in enumerate(costs[done]) if price < 2 and i > least_partner and i not in pairs]
        for index in sorted(partners, key=costs[done].__getitem__):
            search((*pairs, index), cost + costs[done][index])
        search((*pairs, None), cost + 2)

    search((), 0)
    return best
