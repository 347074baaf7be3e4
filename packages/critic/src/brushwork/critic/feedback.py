"""Discrepancies as the words of an inspection, and those words back as kinds."""

import re
from collections.abc import Iterable

from brushwork.critic.scene import (
    GRID,
    PREDICATES,
    Discrepancy,
    DiscrepancyKind,
    SceneObject,
    article,
    cell_name,
    in_words,
    plural,
)
from brushwork.tokens.trajectory import Inspection

ACCEPTED = "the draft shows the plan"
PLAN_ACCEPTED = "the plan fits the prompt"

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
        case Discrepancy(kind="color", wanted=SceneObject(color=color), seen=SceneObject(noun=seen)):
            return f"the {seen} should be {color}", f"make the {seen} {color}"
        case Discrepancy(kind="attribute", wanted=SceneObject() as wanted, seen=SceneObject() as seen):
            lacking = " and ".join(one for one in wanted.attributes if one not in seen.attributes)
            return f"the {seen.noun} should be {lacking}", f"make the {seen.noun} {lacking}"
        case Discrepancy(kind="shape", wanted=SceneObject(name=name), seen=SceneObject(noun=seen)):
            return f"the {seen} should be {article(name)}", f"turn the {seen} into {article(name)}"
        case Discrepancy(kind="place", reference=SceneObject(noun=reference), seen=SceneObject(noun=seen)):
            place = f"{one.predicate} the {reference}"
            return f"the {seen} should be {place}", f"move the {seen} {place}"
        case Discrepancy(kind="place", wanted=SceneObject(centre=centre), seen=SceneObject(noun=seen)):
            cell = cell_name(*centre, grid)
            return f"the {seen} should be at {cell}", f"move the {seen} to {cell}"
        case Discrepancy(kind="missing", wanted=SceneObject() as wanted):
            return f"the {wanted.noun} is missing", _add(wanted, grid)
        case Discrepancy(kind="extra", seen=SceneObject(noun=seen)):
            return f"there is an extra {seen}", f"remove the {seen}"
        case Discrepancy(kind="count", count=int(count), wanted=SceneObject() as wanted):
            return f"there should be {in_words(count)} {plural(wanted.name)}", _add(wanted, grid)
        case Discrepancy(kind="count", count=int(count), seen=SceneObject() as extra):
            return f"there should be {in_words(count)} {plural(extra.name)}", f"remove the {extra.noun}"
    raise AssertionError(f"`diff` makes no {one}")


def plan_feedback(discrepancies: Iterable[Discrepancy], *, grid: int = GRID) -> tuple[str, str]:
    """What is wrong with a plan (paper: instruction-intermediate conflict), and the command that mends it.

    Args:
        discrepancies: from `diff(prompt, plan)`; none means that the plan fits the prompt.
        grid: cells a side.

    Returns:
        The analysis for an inspection's `plan_check` and the command for its `refine`, empty where the plan fits.
    """
    found = list(discrepancies)
    if not found:
        return PLAN_ACCEPTED, ""
    checks = dict.fromkeys(f"the prompt asks for {_asked(one, grid)}" for one in found)
    return " and ".join(checks), " and ".join(dict.fromkeys(_words(one, grid)[1] for one in found))


def _asked(one: Discrepancy, grid: int) -> str:
    """What the prompt says, where a plan says otherwise."""
    match one:
        case Discrepancy(kind="count", count=int(count)):
            return f"{in_words(count)} {plural((one.wanted or one.seen).name)}"  # pyright: ignore[reportOptionalMemberAccess]
        case Discrepancy(kind="extra", seen=SceneObject(noun=seen)):
            return f"no {seen}"
        case Discrepancy(kind="place", wanted=SceneObject(noun=noun), reference=SceneObject(noun=reference)):
            return f"the {noun} {one.predicate} the {reference}"
        case Discrepancy(kind="place", wanted=SceneObject() as wanted):
            return f"the {wanted.noun} at {cell_name(*wanted.centre, grid)}"
        case Discrepancy(wanted=SceneObject(noun=noun)):
            return article(noun)
    raise AssertionError(f"`diff` makes no {one}")


def _add(wanted: SceneObject, grid: int) -> str:
    place = "" if wanted.x is None else f" at {cell_name(*wanted.centre, grid)}"
    return f"add {article(wanted.noun)}{place}"


def parse_feedback(draft_check: str) -> tuple[DiscrepancyKind, ...]:
    """The kinds of discrepancy that an inspection's `draft_check` names, one a sentence; none where it accepts.

    Raises:
        ValueError: a sentence that `feedback` would not write; the message quotes it.
    """
    text = " ".join(draft_check.split())
    if text == ACCEPTED:
        return ()
    return tuple(_kind(sentence) for sentence in text.split(" and "))


def _kind(sentence: str) -> DiscrepancyKind:
    for kind, pattern in _SENTENCES:
        if re.fullmatch(pattern, sentence):
            return kind
    raise ValueError(f"{sentence!r} is no sentence of an inspection such as 'the blue circle should be red'")
