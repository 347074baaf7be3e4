"""Sub-graphs are nested, said by the whole, free of contradiction, and in the order of what depends on what."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brushwork.critic.entailment import contradictions, entails
from brushwork.critic.scene import INVERSE, Relation, SceneGraph, SceneObject, parse_scene
from brushwork.data.subgraphs import expand

NAMES = ("dog", "horse", "man", "tree", "ball")
PREDICATES = ("left of", "above", "riding", "holding", "on")


@st.composite
def scenes(draw) -> SceneGraph:
    count = draw(st.integers(1, 8))
    objects = tuple(
        SceneObject(
            name=draw(st.sampled_from(NAMES)),
            color=draw(st.sampled_from((None, "red", "blue"))),
            attributes=draw(st.sampled_from(((), ("old",), ("small", "old")))),
        )
        for _ in range(count)
    )
    pairs = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=6, unique=True))
    # Each pair once, and no "a left of b, b left of a": a scene that contradicts itself has no order to be drawn in.
    pairs = {tuple(sorted(pair)): pair for pair in pairs if pair[0] != pair[1]}.values()
    relations = tuple(Relation(subject=a, predicate=draw(st.sampled_from(PREDICATES)), object=b) for a, b in pairs)
    return SceneGraph(objects=objects, relations=relations)


@settings(deadline=None)
@given(scenes(), st.integers(1, 5))
def test_each_step_is_said_by_the_whole_and_the_last_one_is_the_whole(scene, max_steps):
    steps = expand(scene, max_steps)
    assert len(steps) == min(len(scene.objects), max_steps)
    for before, after in pairwise(steps):
        assert after.objects[: len(before.objects)] == before.objects and len(after.objects) > len(before.objects)
        assert set(before.relations) <= set(after.relations)
        assert not contradictions(after, before, finished=False), "nothing is taken back later"
    whole = steps[-1]
    assert sorted(map(repr, whole.objects)) == sorted(map(repr, scene.objects))
    assert len(whole.relations) == len(scene.relations)
    if len(scene.objects) <= 5:  # matching many things that are alike takes long
        assert entails(scene, whole) and entails(whole, scene), "the union is the prompt"
        assert all(entails(scene, step) for step in steps)


@settings(deadline=None)
@given(scenes())
def test_a_relation_comes_with_the_later_of_its_objects(scene):
    steps = expand(scene, max_steps=len(scene.objects))
    for number, step in enumerate(steps):
        for one in step.relations:
            assert max(one.subject, one.object) <= number
        new = set(step.relations) - set(steps[number - 1].relations if number else ())
        assert all(number in (one.subject, one.object) for one in new)
        assert all(one.subject == number for one in new if one.predicate in INVERSE), "said of the new object"


def test_what_others_refer_to_comes_first():
    man, horse, tree = (SceneObject(name=name) for name in ("man", "horse", "tree"))
    said = (Relation(subject=0, predicate="riding", object=1), Relation(subject=2, predicate="left of", object=0))
    steps = expand(SceneGraph(objects=(man, horse, tree), relations=said))
    assert steps[-1].objects == (horse, man, tree)
    assert steps[-1].relations == (
        Relation(subject=1, predicate="riding", object=0),
        Relation(subject=2, predicate="left of", object=1),
    )


def test_things_that_refer_to_each_other_are_drawn_all_the_same():
    pair = (SceneObject(name="man"), SceneObject(name="dog"))
    said = (Relation(subject=0, predicate="holding", object=1), Relation(subject=1, predicate="facing", object=0))
    steps = expand(SceneGraph(objects=pair, relations=said))
    assert [len(step.relations) for step in steps] == [0, 2]


def test_more_objects_than_steps_share_them():
    assert [len(step.objects) for step in expand(parse_scene("eight rings"), max_steps=3)] == [2, 5, 8]


@pytest.mark.parametrize(("scene", "steps"), [(SceneGraph(objects=()), 3), (parse_scene("a ring"), 0)])
def test_nothing_cannot_be_drawn(scene, steps):
    with pytest.raises(ValueError, match="expected at least one"):
        expand(scene, steps)
