"""From the score files to the numbers of the tables, as each published WISE calculator computes them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from statistics import fmean
from typing import Any, Literal

from brushwork.eval.benchmarks.wise_replies import CRITERIA, Marks, wiscore

CATEGORIES = ("culture", "time", "space", "biology", "physics", "chemistry")
DATA = resources.files("brushwork.eval.benchmarks") / "data" / "wise"

PromptSet = Literal["legacy", "verified"]

FILES = {
    "cultural_common_sense": ("culture",),
    "spatio-temporal_reasoning": ("time", "space"),
    "natural_science": ("biology", "physics", "chemistry"),
}
"""The files in which the scripts keep prompts and scores, with the categories in each."""
_FAILED = 9.9


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialScores:
    """What a calculator prints.

    Attributes:
        means: category → mean score, without the categories that have none.
        counts: category → lines behind its mean.
        overall: None where the calculator gives none.
        missing: ids without a line, for which it gives none.
    """

    means: dict[str, float]
    counts: dict[str, int]
    overall: float | None
    missing: tuple[int, ...] = ()


@cache
def borders(prompts: PromptSet) -> dict[str, range]:
    """Category → its ids."""
    return {name: range(one["first"], one["last"] + 1) for name, one in _categories(prompts).items()}


@cache
def weights(prompts: PromptSet) -> dict[str, float]:
    """Category → its weight in the overall score; their sum is 1."""
    return {name: one["weight"] for name, one in _categories(prompts).items()}


def wise_scores(lines: Sequence[Mapping[str, Any]]) -> OfficialScores:
    """WISE's own calculator of the legacy prompts, all categories.

    Args:
        lines: of the score files, each with `prompt_id` and the three criteria. A line counts as often as it stands
            there; one whose id is no integer of 1 to 1000 does not count; one whose marks are no numbers takes no part
            in the mean. Marks are used whatever they are, 9.9 included.

    Returns:
        The means, and the weighted overall where every id has a line.
    """
    return _by_borders(lines, "legacy", _wiscore)


def verified_scores(lines: Sequence[Mapping[str, Any]]) -> OfficialScores:
    """WISE_Verified's calculator, all categories.

    Args:
        lines: as for `wise_scores`, with `prompt_id` and `score`, of which all but 0 and 1 take no part in the mean.
    """
    return _by_borders(lines, "verified", lambda line: line["score"] if line.get("score") in (0, 1) else None)


def bagel2025_scores(lines: Sequence[Mapping[str, Any]]) -> OfficialScores:
    """Bagel's calculator until May 2026, whose overall is the plain mean over the categories.

    Args:
        lines: as for `wise_scores`, with `Subcategory`, too, which tells time from space. A natural-science line with
            an id beyond 1000 makes a seventh category, "?".

    Raises:
        ValueError: where the script dies: a file that is missing, short, or holds the 9.9 of a failed judgement; marks
            that are no numbers.
    """
    files: dict[str, list[Mapping[str, Any]]] = {name: [] for name in FILES}
    for line in lines:
        category = _category_of("legacy").get(int(line["prompt_id"]))
        files[next((name for name, held in FILES.items() if category in held), "natural_science")].append(line)
    scores: dict[str, list[float]] = {}
    for name, held in files.items():
        for line, score in zip(held, _bagel_file_scores(name, held), strict=True):
            scores.setdefault(_bagel_category(name, line), []).append(score)
    means = {category: fmean(values) for category, values in scores.items()}
    counts = {category: len(values) for category, values in scores.items()}
    return OfficialScores(means=means, counts=counts, overall=fmean(means.values()))


def _bagel_file_scores(name: str, lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """The score of each line; a ValueError where the script has none for the whole file."""
    expected = sum(len(borders("legacy")[category]) for category in FILES[name])
    scores = [score for line in lines if (score := _wiscore(line)) is not None]
    problem = None
    if len(lines) < expected:
        problem = f"has {len(lines)} lines, expected {expected}"
    elif len(scores) < len(lines):
        problem = "has marks that are no numbers"
    elif failed := [line["prompt_id"] for line in lines if _FAILED in map(line.get, CRITERIA)]:
        problem = f"has judgements that failed ({_FAILED}; prompt {failed[0]})"
    elif name == "natural_science" and not all(isinstance(line["prompt_id"], int) for line in lines):
        problem = "has an id that is no integer"
    if problem:
        raise ValueError(f"{name} {problem}; Bagel's calculator gives no scores then: judge again what is missing")
    return scores


def _bagel_category(file: str, line: Mapping[str, Any]) -> str:
    if file == "cultural_common_sense":
        return "culture"
    if file == "spatio-temporal_reasoning":
        return "time" if line["Subcategory"] in ("Longitudinal time", "Horizontal time") else "space"
    return _category_of("legacy").get(line["prompt_id"], "?")


def _by_borders(
    lines: Sequence[Mapping[str, Any]], prompts: PromptSet, score_of: Callable[[Mapping[str, Any]], float | None]
) -> OfficialScores:
    scores: dict[str, list[float]] = {category: [] for category in CATEGORIES}
    present: set[int] = set()
    for line in lines:
        number = line["prompt_id"]
        if not isinstance(number, int) or (category := _category_of(prompts).get(number)) is None:
            continue
        present.add(number)
        if (score := score_of(line)) is not None:
            scores[category].append(float(score))
    missing = tuple(number for ids in borders(prompts).values() for number in ids if number not in present)
    means = {category: fmean(values) for category, values in scores.items() if values}
    whole = not missing and len(means) == len(CATEGORIES)
    return OfficialScores(
        means=means,
        counts={category: len(values) for category, values in scores.items() if values},
        overall=sum(weights(prompts)[category] * mean for category, mean in means.items()) if whole else None,
        missing=missing,
    )


@cache
def _category_of(prompts: PromptSet) -> dict[int, str]:
    return {number: category for category, ids in borders(prompts).items() for number in ids}


def _wiscore(line: Mapping[str, Any]) -> float | None:
    """The score of a line; None where a mark is no number."""
    marks = {name: float(mark) for name in CRITERIA if isinstance(mark := line.get(name), int | float)}
    return wiscore(Marks(given=marks)) if len(marks) == len(CRITERIA) else None


@cache
def _categories(prompts: PromptSet) -> dict[str, dict[str, Any]]:
    held = json.loads((DATA / "categories.json").read_text(encoding="utf-8"))[prompts]["categories"]
    return {one["name"].lower(): one for one in held}
