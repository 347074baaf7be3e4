"""English as far as scene graphs need it: words of a label, one and many of a noun, what is counted and what is not."""

import re

from brushwork.critic.scene import article, in_words
from brushwork.critic.scene import plural as regular_plural

_MANY = {
    "child": "children", "foot": "feet", "goose": "geese", "man": "men", "mouse": "mice", "person": "people",
    "tooth": "teeth", "woman": "women", "calf": "calves", "half": "halves", "knife": "knives", "leaf": "leaves",
    "loaf": "loaves", "scarf": "scarves", "shelf": "shelves", "thief": "thieves", "wolf": "wolves", "bus": "buses",
    "lens": "lenses", "canvas": "canvases", "potato": "potatoes", "tomato": "tomatoes", "cookie": "cookies",
    "brownie": "brownies", "movie": "movies", "tie": "ties", "pie": "pies", "headache": "headaches", "sheep": "sheep",
    "fish": "fish", "deer": "deer", "aircraft": "aircraft", "cactus": "cacti", "ski": "skis",
}  # fmt: skip
_ONE = {many: one for one, many in _MANY.items()} | {"persons": "person"}
_PAIRS = set(
    "pants jeans shorts trousers leggings tights glasses sunglasses eyeglasses goggles binoculars scissors pliers "
    "headphones overalls pajamas".split()
)
"""Said as "a pair of"; they have no singular."""
_UNCOUNTED = set(
    "grass water snow sand hair food bread rice broccoli meat cheese fruit dirt mud smoke fog ice sunlight luggage "
    "furniture clothing foliage gravel pavement carpeting equipment jewelry graffiti clothes corn lettuce wood".split()
)
"""Said without an article."""
_NO_S = ("ss", "us", "is", "'s")  # glass, bus, tennis, man's


def words(text: str) -> list[str]:
    """The words of a label or phrase in lower case, parted by whatever is no letter, digit, hyphen or apostrophe."""
    return [word for word in re.findall(r"[\w'-]+", text.lower().replace("_", " ")) if re.search(r"\w", word)]


def singular(noun: str) -> str:
    """The noun with its last word in the singular: "traffic lights" → "traffic light", "men" → "man"."""
    head, space, last = noun.rpartition(" ")
    return head + space + _singular_word(last)


def _singular_word(word: str) -> str:
    if word in _ONE:
        return _ONE[word]
    if word in _PAIRS | _UNCOUNTED | set(_MANY) or word.endswith(_NO_S) or not word.endswith("s") or len(word) < 4:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes", "zzes")):
        return word[:-2]
    return word[:-1]


def plural(noun: str) -> str:
    """The noun with its last word in the plural: "traffic light" → "traffic lights", "man" → "men"."""
    head, space, last = noun.rpartition(" ")
    if last in _MANY:
        last = _MANY[last]
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    elif last not in _PAIRS | _UNCOUNTED:
        last = regular_plural(last)
    return head + space + last


def counted(noun: str, count: int = 1) -> str:
    """So many of a thing, said for the first time: "a dog", "two dogs", "a pair of blue jeans", "green grass"."""
    last = noun.rpartition(" ")[2]
    if last in _UNCOUNTED:
        return noun
    if last in _PAIRS:
        return f"a pair of {noun}" if count == 1 else f"{in_words(count)} pairs of {noun}"
    if count > 1:
        return f"{in_words(count)} {plural(noun)}"
    return f"a {noun}" if noun.startswith(("uni", "use", "ute", "euro", "one")) else article(noun)


def another(noun: str) -> str:
    """One more of a thing: "another dog", "another pair of blue jeans"."""
    last = noun.rpartition(" ")[2]
    return noun if last in _UNCOUNTED else f"another pair of {noun}" if last in _PAIRS else f"another {noun}"
