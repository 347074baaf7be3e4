"""Discrepancies as the words of an inspection, and those words back as kinds."""

import re
from collections.abc import Iterable

from brushwork.critic.scene import (
    GRID,
    NUMBERS,
    PREDICATES,
    Discrepancy,
    DiscrepancyKind,
    article,
    cell_name,
    plural,
)
from brushwork.tokens.trajectory import Inspection

ACCEPTED = "the draft shows the plan"

# In order: the first pattern that matches a sentence names its kind.
_SENTENCES: tuple[tuple[DiscrepancyKind, str], ...] = (
    ("missing", r"the .+ is missing"),
    ("extra", r"there is an extra .+"),
    ("count", r"there should be \w+ \w+"),
    ("place", rf"the .+ should be (at|{'|'.join(PREDICATES)}) .+"),
    ("shape", r"the .+ should be an? \w+"),
    ("color", r"the .+ should be \w+"),
)


def feedback(discrepancies: Iterable[Discrepancy], *, grid: int = GRID) -> Inspection:
    """What an inspector says of a draft with these discrepancies.

    Sentences are short, since each word is a token to be learnt, and need no punctuation.

    Args:
        discrepancies: from `diff(plan, draft)`; none means that the draft is accepted.
        grid: cells a side, to name a place such as "c3".

    Returns:
        One sentence in `draft_check` and one command in `refine` for each, joined by "and"; a sentence that would be
        said twice ("there should be four circles") is said once.
    """
    said = [_words(one, grid) for one in discrepancies]
    if not said:
        return Inspection(draft_check=ACCEPTED)
    checks = dict.fromkeys(check for check, _ in said)
    return Inspection(draft_check=" and ".join(checks), refine=" and ".join(refine for _, refine in said))


def _words(one: Discrepancy, grid: int) -> tuple[str, str]:
    """The sentence and the command for one discrepancy."""
    match one:
        case Discrepancy(kind="color"):
            return f"the {one.seen.noun} should be {one.wanted.color}", f"make the {one.seen.noun} {one.wanted.color}"
        case Discrepancy(kind="shape"):
            shape = article(one.wanted.name)
            return f"the {one.seen.noun} should be {shape}", f"turn the {one.seen.noun} into {shape}"
        case Discrepancy(kind="place", predicate=None):
            cell = cell_name(one.wanted.x, one.wanted.y, grid)
            return f"the {one.seen.noun} should be at {cell}", f"move the {one.seen.noun} to {cell}"
        case Discrepancy(kind="place"):
            place = f"{one.predicate} the {one.reference.noun}"
            return f"the {one.seen.noun} should be {place}", f"move the {one.seen.noun} {place}"
        case Discrepancy(kind="missing"):
            return f"the {one.wanted.noun} is missing", _add(one, grid)
        case Discrepancy(kind="extra"):
            return f"there is an extra {one.seen.noun}", f"remove the {one.seen.noun}"
        case Discrepancy(kind="count"):
            shape = (one.wanted or one.seen).name
            check = f"there should be {NUMBERS[one.count - 1]} {plural(shape)}"
            return check, _add(one, grid) if one.wanted else f"remove the {one.seen.noun}"
    raise AssertionError(f"unknown kind {one.kind!r}")


def _add(one: Discrepancy, grid: int) -> str:
    wanted = one.wanted
    place = "" if wanted.x is None else f" at {cell_name(wanted.x, wanted.y, grid)}"
    return f"add {article(wanted.noun)}{place}"


def parse_feedback(draft_check: str) -> tuple[DiscrepancyKind, ...]:
    """The kinds of discrepancy that an inspection's `draft_check` names, one a sentence; none where it accepts.

    Raises:
        ValueError: a sentence that `feedback` would not write; the message quotes it.
    """
    text = " ".join(draft_check.split())
    if text == ACCEPTED:
        return ()
    return tuple(map(_kind, text.split(" and ")))


def _kind(sentence: str) -> DiscrepancyKind:
    for kind, pattern in _SENTENCES:
        if re.fullmatch(pattern, sentence):
            return kind
    raise ValueError(f"{sentence!r} is no sentence of an inspection such as 'the blue circle should be red'")
