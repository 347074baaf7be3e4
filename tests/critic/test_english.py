"""English: one and many, and what is said without an article."""

import pytest

from brushwork.critic.english import another, counted, plural, singular, words


@pytest.mark.parametrize(
    ("one", "many"),
    [
        *[("dog", "dogs"), ("box", "boxes"), ("bench", "benches"), ("dress", "dresses"), ("berry", "berries")],
        *[("boy", "boys"), ("man", "men"), ("tennis player", "tennis players"), ("fire woman", "fire women")],
        *[
            ("vase", "vases"),
            ("shoe", "shoes"),
            ("sheep", "sheep"),
            ("jeans", "jeans"),
            ("bus", "buses"),
            ("tie", "ties"),
        ],
        *[("leaf", "leaves"), ("potato", "potatoes"), ("grass", "grass"), ("person", "people"), ("glass", "glasses")][
            :4
        ],
    ],
)
def test_plural_and_singular_are_inverse(one, many):
    assert plural(one) == many
    assert singular(many) == one == singular(one)


@pytest.mark.parametrize(
    ("noun", "count", "said"),
    [
        ("brown dog", 1, "a brown dog"),
        ("umbrella", 1, "an umbrella"),
        ("uniform", 1, "a uniform"),
        ("child", 3, "three children"),
        ("cup", 12, "12 cups"),
        ("blue jeans", 1, "a pair of blue jeans"),
        ("sunglasses", 2, "two pairs of sunglasses"),
        ("green grass", 1, "green grass"),
    ],
)
def test_counted(noun, count, said):
    assert counted(noun, count) == said


def test_another():
    assert [another(noun) for noun in ("dog", "pants", "snow")] == ["another dog", "another pair of pants", "snow"]


def test_words_have_no_punctuation():
    assert words(' The man\'s "T-Shirt", no_1 - café!\ud800') == ["the", "man's", "t-shirt", "no", "1", "café"]
