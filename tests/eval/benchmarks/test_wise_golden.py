"""Replies and score files give what the official WISE scripts give; see the README beside the recorded answers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from brushwork.eval.benchmarks.wise_replies import CRITERIA, WiseProtocol, first_usable, read_reply, wiscore
from brushwork.eval.benchmarks.wise_scores import OfficialScores, bagel2025_scores, verified_scores, wise_scores

PROTOCOLS: dict[str, WiseProtocol] = {
    "wise_2026": "wise", "wise_2025": "wise2025", "bagel_2025": "bagel2025", "verified": "verified",
}  # fmt: skip
TABLE_NAMES = {"Cultural": "culture"}


def close(value: Any) -> Any:
    return pytest.approx(value, abs=1e-12, rel=0)


def lines(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert found, f"{path} is empty"
    return found


def test_golden_judgments(benchmarks_golden):
    for case in lines(benchmarks_golden / "wise_judgments.jsonl"):
        for script, official in case["official"].items():
            marks = read_reply(case["reply"], PROTOCOLS[script])
            if official.get("failed") or official["parsed"] is None:
                assert marks is None and official["wiscore"] is None, (case["id"], script)
                continue
            assert marks is not None, (case["id"], script)
            assert marks.given == official["parsed"], (case["id"], script)
            assert wiscore(marks) == close(official["wiscore"]), (case["id"], script)


def test_golden_verified_judgments(benchmarks_golden):
    for case in lines(benchmarks_golden / "wise_verified_judgments.jsonl"):
        marks = read_reply(case["reply"], "verified")
        assert (None if marks is None else wiscore(marks)) == case["official_score"], case["id"]


def test_golden_retries(benchmarks_golden):
    for case in lines(benchmarks_golden / "wise_retries.jsonl"):
        replies = (None if reply == "__raise__" else reply for reply in case["replies"])
        marks, used = first_usable(replies, PROTOCOLS[case["protocol"]], attempts=3)
        assert used == case["attempts_used"], case["id"]
        assert (marks is not None) == (case["status"] == "ok"), case["id"]
        assert (None if marks is None else marks.given) == case["parsed"], case["id"]
        assert len(list(replies)) == len(case["replies"]) - used, "no more is asked than is needed"


def score_file(change: dict[str, Any], base: dict[int, dict[str, Any]], write: Callable) -> list[dict[str, Any]]:
    """The lines of a scenario: `change` applied to the base lines, where `write` puts a score into a line."""
    held = {number: dict(line) for number, line in base.items()}
    if "all" in change:
        held = {number: write(line, change["all"]) for number, line in held.items()}
    if "range" in change:
        first, last, score = change["range"]
        held |= {number: write(held[number], score) for number in range(first, last + 1)}
    held |= {int(number): write(held[int(number)], score) for number, score in change.get("set", {}).items()}
    for number in change.get("drop", []):
        del held[number]
    for number in change.get("string_id", []):
        held[number]["prompt_id"] = str(number)
    appended = [
        write({**base.get(number, {"Subcategory": ""}), "prompt_id": number}, score)
        for number, score in change.get("append", [])
    ]
    return [*held.values(), *appended]


def triple(line: dict[str, Any], score: list[Any]) -> dict[str, Any]:
    return {**line, **dict(zip(CRITERIA, score, strict=True))}


def single(line: dict[str, Any], score: Any) -> dict[str, Any]:
    return {**line, "score": score}


def lower(values: dict[str, Any]) -> dict[str, Any]:
    return {TABLE_NAMES.get(name, name.lower()): value for name, value in values.items()}


def check(scores: OfficialScores, official: dict[str, Any], name: str) -> None:
    assert scores.means == close(lower(official["category_means"])), name
    assert scores.counts == lower(official["counts"]), name
    assert (scores.overall is not None) == official["completed"], name
    assert scores.overall == (None if official["overall"] is None else close(official["overall"])), name


def legacy_scenarios(folder: Path) -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    """Name, lines of the score files, and what the official calculators made of them."""
    base = {
        line["prompt_id"]: triple({"prompt_id": line["prompt_id"], "Subcategory": line["Subcategory"]}, line["scores"])
        for line in lines(folder / "wise_scores.jsonl")
    }
    summary = json.loads((folder / "wise_summary.json").read_text(encoding="utf-8"))
    for name, scenario in summary["legacy"].items():
        yield name, score_file(scenario["change"], base, triple), scenario["official"]


def test_golden_legacy_scores(benchmarks_golden):
    for name, held, official in legacy_scenarios(benchmarks_golden):
        scores = wise_scores(held)
        if official["wise"]["error"] is None:
            check(scores, official["wise"], name)
            assert bool(scores.missing) == official["wise"]["aborted_for_missing_ids"], name
        else:
            assert scores.overall is None, name


def test_golden_bagel_scores(benchmarks_golden):
    for name, held, official in legacy_scenarios(benchmarks_golden):
        bagel = official["bagel_2025"]
        if bagel["error"] is not None:  # the script dies of a TypeError or so; here it is said why
            with pytest.raises(ValueError, match="Bagel's calculator gives no scores"):
                bagel2025_scores(held)
            continue
        scores = bagel2025_scores(held)
        assert scores.means == close(lower(bagel["means"])), name
        assert scores.overall == close(bagel["overall_unweighted"]), name


def test_golden_verified_scores(benchmarks_golden):
    verified = json.loads((benchmarks_golden / "wise_summary.json").read_text(encoding="utf-8"))["verified"]
    base = {n: {"prompt_id": n, "score": float(digit)} for n, digit in enumerate(verified["base_scores"], start=1)}
    for name, scenario in verified["scenarios"].items():
        check(verified_scores(score_file(scenario["change"], base, single)), scenario["official"], name)
