"""A scene graph as the words of a prompt, such that a person could draw the graph again."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from brushwork.critic.english import another, counted
from brushwork.critic.scene import SceneGraph

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


def caption(scene: SceneGraph) -> str:
    """The scene in plain English: "a brown dog on a wooden table, and two cups left of the dog".

    Each object is introduced once, with its attributes; spoken of again it is "the brown dog", or "the second dog"
    where there are several such. Neighbouring objects that are alike and stand in the same relations are counted.

    Args:
        scene: objects in the order in which they are to be said; one that others refer to is introduced with the first
            that does. Places are not said.

    Returns:
        Words without a mark at the end; empty for a scene without objects.
    """
    speaker, clauses = _Speaker(scene), []
    for _, group in groupby(range(len(scene.objects)), speaker.kind):
        clauses.append(speaker.clause(list(group)))
    clauses = [clause for clause in clauses if clause]
    if len(clauses) < 2:
        return "".join(clauses)
    comma = "," if scene.relations else ""  # else "a man on a horse and a dog" has the man ride both
    return f"{', '.join(clauses[:-1])}{comma} and {clauses[-1]}"


class _Speaker:
    """Remembers what was introduced, to say "a dog" at first and "the dog" afterwards."""

    def __init__(self, scene: SceneGraph) -> None:
        self.nouns = [one.noun for one in scene.objects]
        self.named = Counter(self.nouns)
        self.said = {index: [r for r in scene.relations if r.subject == index] for index in range(len(self.nouns))}
        self.referred = {relation.object for relation in scene.relations}
        self.introduced: list[int] = []

    def kind(self, index: int) -> object:
        """Equal for objects that may be said in one: alike, in the same relations, and never referred to."""
        if index in self.referred:
            return index
        return self.nouns[index], frozenset((r.predicate, r.object) for r in self.said[index])

    def clause(self, alike: Sequence[int]) -> str:
        """What is said of these objects: "two cups on a table", or nothing that would be new."""
        index, *more = alike
        if not self.said[index] and (index in self.introduced or index in self.referred):
            return ""
        subject = self.mention(index, len(alike))
        self.introduced += more
        relations = [f"{relation.predicate} {self.mention(relation.object)}" for relation in self.said[index]]
        return " ".join([subject, " and ".join(relations)]).strip()

    def mention(self, index: int, count: int = 1) -> str:
        """A noun phrase for the object, which is introduced if it was not yet."""
        noun = self.nouns[index]
        same = [other for other in self.introduced if self.nouns[other] == noun]
        if index in same:
            return f"the {_ordinal(same.index(index))} {noun}" if self.named[noun] > 1 else f"the {noun}"
        self.introduced.append(index)
        return another(noun) if same and count == 1 else counted(noun, count)


def _ordinal(index: int) -> str:
    return _ORDINALS[index] if index < len(_ORDINALS) else f"{index + 1}th"
