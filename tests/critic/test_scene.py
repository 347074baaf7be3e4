"""Scene graphs: words, cells, relations and the smallest explanation of a difference."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brushwork.critic.scene import (
    COLORS,
    GRID,
    INVERSE,
    PREDICATES,
    SHAPES,
    Discrepancy,
    Relation,
    SceneGraph,
    SceneObject,
    cell_centre,
    cell_name,
    describe,
    diff,
    holds,
    parse_scene,
)


def scene(*words: str, relations: tuple[Relation, ...] = ()) -> SceneGraph:
    """Objects as "red circle b3", each part but the shape optional."""
    objects = []
    for phrase in words:
        *color, name, cell = phrase.split() if phrase[-1].isdigit() else [*phrase.split(), ""]
        x, y = cell_centre(cell) if cell else (None, None)
        objects.append(SceneObject(name=name, color=color[0] if color else None, x=x, y=y))
    return SceneGraph(objects=tuple(objects), relations=relations)


def kinds(wanted: SceneGraph, seen: SceneGraph) -> list[str]:
    return [one.kind for one in diff(wanted, seen)]


# Phrases, not scenes: type checks inside a strategy draw random numbers, which hypothesis objects to.
phrases = st.builds(
    "{} {} {}".format,
    st.sampled_from(COLORS[:3]),
    st.sampled_from(SHAPES[:3]),
    st.sampled_from([f"{column}{row}" for column in "abcd" for row in range(1, 5)]),
)
few = st.lists(phrases, max_size=3)
brief = settings(max_examples=40)


# Words


LEFT_OF = Relation(subject=0, predicate="left of", object=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a circle", scene("circle")),
        ("two circles", scene("circle", "circle")),
        ("a red circle", scene("red circle")),
        ("A  red circle,", scene("red circle")),
        ("three crosses", scene("cross", "cross", "cross")),
        ("a red circle and a blue square", scene("red circle", "blue square")),
        ("a red circle at b3 and a blue square at c1", scene("red circle b3", "blue square c1")),
        ("a circle left of a square", scene("circle", "square", relations=(LEFT_OF,))),
        ("two rings and a circle", scene("ring", "ring", "circle")),
    ],
)
def test_parse(text, expected):
    assert parse_scene(text) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a red banana", "'banana'"),
        ("a crimson circle", "'crimson'"),
        ("</ins> a circle", "'</ins>'"),
        ("a circles", "'a circles'"),
        ("two circle", "'two circle'"),
        ("a red", "'a red'"),
        ("a red blue circle", "'a red blue circle'"),
        ("two circles at b3", "'two circles at b3'"),
        ("a circle at z9", "'z9'"),
        ("a circle left of", "'a circle left of'"),
        ("", "''"),
    ],
)
def test_what_cannot_be_read_is_named(text, named):
    with pytest.raises(ValueError, match=named):
        parse_scene(text)


def test_other_words_can_be_taught():
    known = parse_scene("an orange star", shapes=("star",), colors=("orange",))
    assert known.objects[0] == SceneObject(name="star", color="orange")
    assert describe(known) == "an orange star"


@brief
@given(st.lists(phrases, min_size=1, max_size=3))
def test_what_is_described_is_read_back(words):
    one = scene(*words)
    without_places = SceneGraph(objects=tuple(SceneObject(name=o.name, color=o.color) for o in one.objects))
    assert parse_scene(describe(one, cells=True)) == one
    assert parse_scene(describe(without_places)) == without_places


def test_a_relation_is_said_between_neighbours():
    relation = Relation(subject=1, predicate="above", object=2)
    one = scene("ring", "red circle", "square", relations=(relation,))
    assert describe(one) == "a ring and a red circle above a square"
    assert parse_scene(describe(one)) == one


# Cells and relations


@pytest.mark.parametrize(("name", "centre"), [("a1", (1 / 8, 1 / 8)), ("b3", (3 / 8, 5 / 8)), ("d4", (7 / 8, 7 / 8))])
def test_cells(name, centre):
    assert cell_centre(name) == centre
    assert cell_name(*centre) == name


@pytest.mark.parametrize("name", ["", "b", "b0", "b5", "e1", "3b", "b٣x"])
def test_there_is_no_such_cell(name):
    with pytest.raises(ValueError, match="runs from a1 to d4"):
        cell_centre(name)


@brief
@given(phrases, phrases)
def test_relations_are_exclusive_and_inverse(first, second):
    one, other = scene(first, second).objects
    for predicate, inverse in INVERSE.items():
        assert holds(predicate, one, other) == holds(inverse, other, one)
        assert not (holds(predicate, one, other) and holds(inverse, one, other))
    same_cell = (one.x, one.y) == (other.x, other.y)
    assert any(holds(predicate, one, other) for predicate in PREDICATES) != same_cell


# Difference


@pytest.mark.parametrize(
    ("wanted", "seen", "expected"),
    [
        (["red circle"], ["red circle a1"], []),
        (["circle"], ["red circle a1"], []),
        (["red circle"], ["blue circle a1"], ["color"]),
        (["red circle"], ["red square a1"], ["shape"]),
        (["red circle b2"], ["red circle b3"], ["place"]),
        (["red circle", "blue square"], ["red circle a1"], ["missing"]),
        (["red circle"], ["red circle a1", "blue square b2"], ["extra"]),
        (["circle", "circle"], ["red circle a1"], ["count"]),
        (["circle", "circle"], ["red circle a1", "blue circle b1", "green circle c1"], ["count"]),
        (["circle", "circle"], ["red circle a1", "blue square b1"], ["shape"]),
        # one object that is wrong in two things is another object
        (["red circle"], ["blue square a1"], ["missing", "extra"]),
        (["red circle a1"], ["blue circle d4"], ["missing", "extra"]),
        # the order of neither side matters
        (["red circle", "blue square"], ["blue square a1", "red circle b1"], []),
        (["red circle", "circle"], ["blue circle a1", "red circle b1"], []),
        (["circle", "red circle"], ["red circle b1", "blue circle a1"], []),
        ([], [], []),
        ([], ["red smudge a1"], ["extra"]),
    ],
)
def test_kinds_of_difference(wanted, seen, expected):
    assert kinds(scene(*wanted), scene(*seen)) == expected


def test_a_broken_relation_names_what_it_refers_to():
    wanted = scene("red circle", "blue square", relations=(Relation(subject=1, predicate="right of", object=0),))
    circle, square = wanted.objects
    seen = scene("red circle b1", "blue square a1")
    assert diff(wanted, seen) == (
        Discrepancy(kind="place", wanted=square, seen=seen.objects[1], predicate="right of", reference=circle),
    )
    assert kinds(wanted, scene("red circle a1", "blue square d4")) == []
    assert kinds(wanted, scene("blue square d4")) == ["missing"], "a relation to what is missing is not broken besides"


def test_objects_are_paired_so_that_relations_hold():
    wanted = scene("circle", "circle", relations=(LEFT_OF,))
    assert kinds(wanted, scene("red circle d1", "blue circle a1")) == []


@brief
@given(few)
def test_a_scene_does_not_differ_from_itself(words):
    one = scene(*words)
    assert diff(one, one) == ()


@brief
@given(few, few)
def test_no_explanation_is_shorter(asked, drawn):
    wanted, seen = scene(*asked), scene(*drawn)

    def mismatches(one: SceneObject, other: SceneObject) -> int:
        return (one.name != other.name) + (one.color != other.color) + ((one.x, one.y) != (other.x, other.y))

    def cost(pairs: tuple[int | None, ...]) -> int:
        chosen = zip(wanted.objects, pairs, strict=True)
        matched = [mismatches(one, seen.objects[index]) for one, index in chosen if index is not None]
        return sum(matched) + len(wanted.objects) + len(seen.objects) - 2 * len(matched)

    choices = [*range(len(seen.objects)), *[None] * len(wanted.objects)]
    best = min(map(cost, set(permutations(choices, len(wanted.objects)))))
    assert len(diff(wanted, seen)) == best


def test_many_smudges_are_no_burden():
    seen = SceneGraph(objects=tuple(SceneObject(name="smudge", color="red", x=i / 20, y=0.1) for i in range(20)))
    wanted = scene(*(f"red {name}" for name in SHAPES))
    assert kinds(wanted, seen) == ["shape"] * 7 + ["extra"] * 13


def test_the_default_tolerance_is_half_a_cell():
    wanted = scene("red circle b2")
    x, y = cell_centre("b2")
    near, far = (SceneObject(name="circle", color="red", x=x + share / GRID, y=y) for share in (0.49, 0.51))
    assert kinds(wanted, SceneGraph(objects=(near,))) == []
    assert kinds(wanted, SceneGraph(objects=(far,))) == ["place"]


@pytest.mark.parametrize(
    ("prompt", "seen", "num"),
    [
        ("nine circles above a square", [("circle", 1, 0.9)] * 12 + [("square", 1, 0.1)] * 3, 6),
        ("eight rings", [("ring", 1, 0.5)] * 12, 4),
        ("eight rings and two crosses", [("ring", 1, 0.5)] * 3 + [("cross", 1, 0.2)], 6),
    ],
)
def test_many_things_that_are_alike_are_compared_once(prompt, seen, num):
    """Trying every order of them would never end."""
    objects = tuple(SceneObject(name=name, color="red", x=n / 20, y=y) for n, (name, _, y) in enumerate(seen))
    assert len(diff(parse_scene(prompt), SceneGraph(objects=objects))) == num
