"""Captions: every object is named, and whoever reads one can tell which is meant."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brushwork.critic.caption import caption
from brushwork.critic.english import words
from brushwork.critic.scene import COLORS, Relation, SceneGraph, SceneObject


def scene(objects: str, *relations: tuple[int, str, int]) -> SceneGraph:
    """Objects as "wooden brown table, cup": attributes, a colour, a name."""
    things = []
    for phrase in objects.split(", ") if objects else ():
        *rest, name = phrase.split()
        color = next((word for word in rest if word in (*COLORS, "brown")), None)
        attributes = tuple(word for word in rest if word != color)
        things.append(SceneObject(name=name, color=color, attributes=attributes))
    edges = tuple(Relation(subject=one, predicate=predicate, object=other) for one, predicate, other in relations)
    return SceneGraph(objects=tuple(things), relations=edges)


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (scene(""), ""),
        (scene("dog"), "a dog"),
        (scene("dog, cup, cup"), "a dog and two cups"),
        (scene("dog, cat, cup"), "a dog, a cat and a cup"),
        (scene("wooden table, brown dog", (1, "on", 0)), "a brown dog on a wooden table"),
        (
            scene("wooden table, brown dog, cup, cup", (1, "on", 0)),
            "a brown dog on a wooden table, and two cups",
        ),
        (
            scene("table, cup, cup, dog", (1, "on", 0), (2, "on", 0), (3, "left of", 0)),
            "two cups on a table, and a dog left of the table",
        ),
        (scene("hat, cup, man", (2, "wearing", 0), (2, "holding", 1)), "a man wearing a hat and holding a cup"),
        (
            scene("horse, man, man, dog", (1, "riding", 0), (2, "left of", 0), (3, "near", 2)),
            "a man riding a horse, another man left of the horse, and a dog near the second man",
        ),
        (scene("man, man", (1, "behind", 0)), "a man behind another man"),
        (scene("kitchen, table, cup", (1, "in", 0), (2, "on", 1)), "a table in a kitchen, and a cup on the table"),
        (scene("dog, man", (0, "near", 1), (1, "near", 0)), "a dog near a man, and the man near the dog"),
    ],
)
def test_captions(graph, said):
    assert caption(graph) == said


nouns = st.sampled_from(["dog", "red dog", "man", "wooden table", "jeans", "grass", "blue wooden bus"])


@given(st.data())
@settings(max_examples=60)
def test_every_object_is_introduced_once(data):
    """As many objects as the scene has are introduced, each by its noun, and nothing is left to punctuation."""
    phrases = data.draw(st.lists(nouns, min_size=1, max_size=6))
    pairs = [(one, other) for one in range(len(phrases)) for other in range(one)]
    edges = data.draw(st.lists(st.sampled_from(pairs), unique=True, max_size=6)) if pairs else []
    graph = scene(", ".join(phrases), *((one, "near", other) for one, other in edges))
    said = caption(graph)
    assert said[-1].isalpha() and " ".join(words(said)) == said.replace(",", "")
    for one in graph.objects:
        assert one.name in said.replace("men", "man").replace("buses", "bus")
        assert all(word in said for word in one.attributes)
    numbers = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "a": 1, "an": 1, "another": 1, "grass": 1}
    if "grass" not in phrases:  # which is not counted
        assert sum(numbers.get(word, 0) for word in words(said)) == len(phrases)
