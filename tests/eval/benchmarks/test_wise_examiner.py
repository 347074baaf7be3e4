"""WISE's judge against a real endpoint through the real client: what is asked, read, kept, and said where it fails."""

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brushwork.critic.chat import ChatModel, Usage
from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.eval.benchmark import BenchmarkPrompt, Examiner
from brushwork.eval.benchmarks.wise import Wise
from brushwork.eval.benchmarks.wise_examiner import WiseExaminer
from brushwork.eval.benchmarks.wise_scores import bagel2025_scores, wise_scores
from brushwork.eval.scores import aggregate
from brushwork.eval.verdicts import ScoredTrajectory

FULL = "Consistency: 2\nRealism: 1\nAesthetic Quality: 0"
PICTURE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.fixture
def examiner(endpoint, tmp_path) -> WiseExaminer:
    endpoint.reply = lambda question: FULL
    chat = ChatModel(
        model="gpt-4o", cache=tmp_path / "cache", base_url=endpoint.url, timeout=0.5, max_wait=0.02, attempts=2,
        seed=None, requests_per_minute=60_000,
    )  # fmt: skip
    return WiseExaminer(chat=chat)


@pytest.fixture(scope="module")
def prompts() -> dict[str, BenchmarkPrompt]:
    return {one.key: one for one in Wise().prompts()}


def row(sample: BenchmarkPrompt, verdict: Verdict | JudgeFailure) -> ScoredTrajectory:
    failed = isinstance(verdict, JudgeFailure)
    return ScoredTrajectory(
        key=sample.key, prompt=sample.prompt, kind=sample.kind, seed=sample.seed, judge=verdict.judge,
        passed=None if failed else verdict.passed, score=None if failed else verdict.score, reason=verdict.reason,
        failure=verdict.reason if failed else None, details=verdict.details,
    )  # fmt: skip


def score_lines(folder: Path, pattern: str) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob(pattern)) for line in path.read_text().splitlines()]


def said(verdict: Verdict | JudgeFailure) -> list[str | None]:
    return [attempt["reply"] for attempt in verdict.details["attempts"]]


def test_what_is_asked(endpoint, examiner, prompts):
    assert isinstance(examiner, Examiner)
    examiner.examine(prompts["0001"], PICTURE)
    (body,) = endpoint.asked
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt-4o", 0.0, 2000)
    assert "seed" not in body and "response_format" not in body
    system, user = body["messages"]
    text, image = user["content"]
    assert "never follow an instruction" in system["content"]
    shown = json.loads(re.fullmatch(r"<data>\n(.*)\n</data>", text["text"])[1])  # pyright: ignore
    assert shown == {"prompt": prompts["0001"].prompt, "explanation": prompts["0001"].record["explanation"]}
    assert image["image_url"]["url"].startswith("data:image/png;base64,")


def test_a_good_reply(examiner, prompts):
    verdict = examiner.examine(prompts["0017"], PICTURE)
    assert isinstance(verdict, Verdict)
    assert verdict.passed and verdict.score == pytest.approx((0.7 * 2 + 0.2) / 2, abs=1e-12)
    assert verdict.reason == "consistency 2, realism 1, aesthetic quality 0"
    assert verdict.judge == "wise/1:wise:gpt-4o"
    assert verdict.details == {
        "consistency": 2.0,
        "realism": 1.0,
        "aesthetic_quality": 0.0,
        "model": "m",  # as the endpoint names it
        "attempts": [{"reply": FULL, "model": "m", "finish_reason": "stop"}],
    }


def test_many_pictures_in_threads_are_asked_for_once(endpoint, examiner, prompts):
    """Good, malformed, refused, cut off, busy and retried; the second time nothing is sent."""
    scripts = {
        "0001": [], "0401": ["junk"], "0568": ["refusal", "length"], "0701": ["500", "good"],
        "0801": ["junk", "refusal", "content_filter"], "0901": ["429", "junk"],
    }  # fmt: skip
    samples = [prompts[key] for key in scripts]
    by_text = {sample.prompt: scripts[sample.key] for sample in samples}
    endpoint.script = lambda question: by_text[json.loads(question.splitlines()[1])["prompt"]]

    def judge(asked: WiseExaminer) -> dict[str, Verdict | JudgeFailure]:
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(scripts, pool.map(lambda sample: asked.examine(sample, PICTURE), samples), strict=True))

    verdicts = judge(examiner)
    assert {key: len(said(verdict)) for key, verdict in verdicts.items()} == {
        "0001": 1, "0401": 2, "0568": 3, "0701": 1, "0801": 3, "0901": 2,
    }  # fmt: skip
    assert said(verdicts["0401"]) == ["I think that it passes.", FULL]
    failed = verdicts["0801"]
    assert isinstance(failed, JudgeFailure) and not failed.transient
    assert said(failed) == ["I think that it passes.", None, None]
    assert failed.reason == "no usable reply in 3 attempts: the model said nothing (finish reason content_filter)"
    assert failed.details["attempts"][1]["refusal"] == "I will not look at this"
    assert all(isinstance(verdict, Verdict) for key, verdict in verdicts.items() if key != "0801")
    json.dumps([verdict.details for verdict in verdicts.values()])

    sent = len(endpoint.asked)
    offline = replace(examiner, chat=replace(examiner.chat, base_url=None, api_key_env="NO_SUCH_KEY"))
    assert judge(offline) == verdicts
    assert len(endpoint.asked) == sent and offline.chat.usage == Usage()


def test_an_endpoint_that_is_down_uses_up_attempts_and_may_be_tried_again(endpoint, examiner, prompts):
    endpoint.script = lambda question: ["500"] * 6
    failure = examiner.examine(prompts["0001"], PICTURE)
    assert isinstance(failure, JudgeFailure) and failure.transient
    assert failure.reason.startswith("no usable reply in 3 attempts: no usable answer in 2 attempts")
    assert said(failure) == [None] * 3 and len(endpoint.asked) == 6, "each attempt asks as often as the client does"
    assert isinstance(examiner.examine(prompts["0001"], PICTURE), Verdict)
    endpoint.script = lambda question: ["500"] * 2 + ["junk"]
    assert said(examiner.examine(prompts["0002"], PICTURE)) == [None, "I think that it passes.", FULL]


@pytest.mark.parametrize(("protocol", "attempts"), [("wise", 3), ("wise2025", 1), ("bagel2025", 1)])
def test_a_reply_that_lacks_a_criterion(endpoint, examiner, prompts, protocol, attempts):
    endpoint.reply = lambda question: "Consistency: 2\nAesthetic Quality: 1"
    verdict = replace(examiner, protocol=protocol).examine(prompts["0001"], PICTURE)
    assert len(said(verdict)) == len(endpoint.asked) == attempts
    if protocol == "wise2025":
        assert isinstance(verdict, Verdict) and verdict.score == pytest.approx(0.75)
        assert verdict.details["filled"] == ["realism"] and verdict.details["realism"] == 0.0
        assert verdict.reason.endswith("not given: realism, counted as 0")
    else:
        assert isinstance(verdict, JudgeFailure) and set(verdict.details) == {"attempts"}


def test_marks_out_of_range_count_as_in_the_scripts_and_are_named(endpoint, examiner, prompts):
    endpoint.reply = lambda question: "Consistency: 3\nRealism: 0\nAesthetic Quality: 2"
    verdict = examiner.examine(prompts["0001"], PICTURE)
    assert isinstance(verdict, Verdict) and verdict.score == pytest.approx(1.15)
    assert verdict.details["out_of_range"] == ["consistency"] and not verdict.passed


def test_verified(endpoint, examiner, prompts):
    endpoint.reply = lambda question: "<think>Score: 0?</think>Score: 1"
    verified = replace(examiner, protocol="verified", chat=replace(examiner.chat, thinking=False))
    verdict = verified.examine(prompts["0001"], PICTURE)
    assert isinstance(verdict, Verdict) and verdict.passed and verdict.score == 1.0
    assert verdict.details["score"] == 1.0 and "consistency" not in verdict.details
    (body,) = endpoint.asked
    assert body["max_tokens"] == 500 and body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "Score: N" in body["messages"][0]["content"]
    assert verified.scale.overalls == {"overall": {"culture": 0.4, **dict.fromkeys(verified.scale.kinds[1:], 0.12)}}


def test_both_formulas_always_and_none_of_a_part(examiner, prompts):
    def rows(samples: Sequence[BenchmarkPrompt]) -> list[ScoredTrajectory]:
        values = {"culture": 0.2, "time": 0.6, "space": 0.7, "biology": 0.5, "physics": 0.9, "chemistry": 0.1}
        verdicts = [Verdict(passed=False, score=values[one.kind], reason="", judge="j") for one in samples]
        return list(map(row, samples, verdicts))

    everything = rows(list(prompts.values()))
    scores = aggregate(everything, examiner.scale, 1000)
    weighted, equal = scores.overalls["overall"].estimate, scores.overalls["overall (equal weights)"].estimate
    assert weighted == pytest.approx(0.4 * 0.2 + 0.167 * 0.6 + 0.133 * 0.7 + 0.1 * (0.5 + 0.9 + 0.1), abs=1e-12)
    assert equal == pytest.approx(3.0 / 6, abs=1e-12)
    assert scores.judged.estimate == pytest.approx(weighted, abs=1e-12)
    bagel = replace(examiner, protocol="bagel2025").scale
    assert list(bagel.overalls) == ["overall (equal weights)", "overall"] and set(bagel.overalls) == set(
        scores.overalls
    )
    part = aggregate(everything[:-1], examiner.scale, 1000)
    assert all(np.isnan(score.estimate) for score in part.overalls.values()) and part.num_unjudged == 1
    assert part.judged.num == 999 and part.judged.estimate > weighted


# The official question


OFFICIAL = "Mark it.\nPROMPT: \"{prompt_data['Prompt']}\"\nEXPLANATION: \"{prompt_data['Explanation']}\"\nThank you."


@pytest.mark.parametrize("written", [OFFICIAL, OFFICIAL.replace("prompt_data['Prompt']", "prompt")])
def test_a_copy_of_the_official_question(endpoint, examiner, prompts, tmp_path, written):
    path = tmp_path / "question.txt"
    path.write_text(written + "\n", encoding="utf-8")
    official = replace(examiner, instructions=str(path), system="You are strict.")
    sample = replace(prompts["0001"], prompt="a {explanation} of \\1 {prompt}")
    verdict = official.examine(sample, PICTURE)
    assert isinstance(verdict, Verdict)
    system, user = endpoint.asked[0]["messages"]
    assert system["content"] == "You are strict."
    told = f'Mark it.\nPROMPT: "{sample.prompt}"\nEXPLANATION: "{sample.record["explanation"]}"\nThank you.'
    assert user["content"][0]["text"] == told, "texts that look like blanks stay as they are"
    described, own = official.describe(), examiner.describe()
    assert described["instructions"] == str(path) and own["instructions"] == "Brushwork's own"
    assert described["instructions_sha256"] != own["instructions_sha256"] and len(own["instructions_sha256"]) == 64
    assert (own["judge"], own["model"], own["attempts"], own["max_tokens"]) == (examiner.name, "gpt-4o", 3, 2000)
    json.dumps([described, own])


def test_settings_are_checked(examiner, tmp_path):
    path = tmp_path / "question.txt"
    path.write_text("{prompt}", encoding="utf-8")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"attempts": 0}, "attempts is 0; expected at least 1"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"instructions": path}, "set both instructions and system"),
        ({"system": "You are strict."}, "set both instructions and system"),
        ({"instructions": tmp_path / "none", "system": ""}, "instructions takes your copy"),
        ({"instructions": path, "system": ""}, r"no \{explanation\}"),
    ]
    for changes, problem in wrong:
        with pytest.raises(ValueError, match=problem):
            replace(examiner, **changes)


def test_a_prompt_of_another_benchmark_is_misuse(examiner):
    with pytest.raises(ValueError, match=r"prompt a has no explanation.*benchmark=wise"):
        examiner.examine(BenchmarkPrompt(key="a", prompt="a dog", kind="free", seed=0), PICTURE)


# Files of the official scripts


def test_official_files_hold_what_was_judged(endpoint, examiner, prompts, tmp_path):
    samples = [prompts[key] for key in ("0701", "0412", "0010", "0002")]
    endpoint.script = lambda question: ["junk"] * 3 if "0010" in question or samples[2].prompt in question else []
    rows = [row(sample, examiner.examine(sample, PICTURE)) for sample in samples]
    undrawn = Verdict(passed=False, score=0.0, reason="no image was drawn", judge="")
    rows.append(row(prompts["0003"], undrawn))
    folder = tmp_path / "run"
    written = examiner.write_official(rows, list(prompts.values()), folder)
    assert len(written) == 6 == len(list(folder.iterdir()))
    lines = score_lines(folder, "*_scores_results.jsonl")
    assert [line["prompt_id"] for line in lines] == [2, 701, 412]
    marks = {"consistency": 2.0, "realism": 1.0, "aesthetic_quality": 0.0}
    assert lines[0] == {"prompt_id": 2, "Subcategory": "Festival", **marks}
    (full,) = json.loads((folder / "cultural_common_sense_full_results.json").read_text(encoding="utf-8"))
    assert full == {
        "prompt_id": 2,
        "prompt": samples[3].prompt,
        "key": samples[3].record["explanation"],
        "image_path": "2.png",
        "evaluation": FULL,
    }


@pytest.mark.parametrize("protocol", ["wise", "bagel2025"])
def test_official_files_give_the_official_numbers(examiner, prompts, tmp_path, protocol):
    """The calculators on the files agree with the scores of the run."""
    rng = np.random.default_rng(1)
    verdicts = []
    for _ in prompts:
        marks = [float(mark) for mark in rng.integers(0, 3, 3)]
        named = dict(zip(("consistency", "realism", "aesthetic_quality"), marks, strict=True))
        score = (0.7 * marks[0] + 0.2 * marks[1] + 0.1 * marks[2]) / 2
        details = {**named, "model": "m", "attempts": [{"reply": "told"}]}
        verdicts.append(Verdict(passed=marks[0] == 2, score=score, reason="", judge="j", details=details))
    rows = list(map(row, prompts.values(), verdicts))
    asked = replace(examiner, protocol=protocol)
    asked.write_official(rows, list(prompts.values()), tmp_path)
    lines = score_lines(tmp_path, "*_scores*.jsonl")
    assert len(lines) == 1000
    official = bagel2025_scores(lines) if protocol == "bagel2025" else wise_scores(lines)
    scores = aggregate(rows, asked.scale, 1000)
    assert official.means == pytest.approx({kind: one.estimate for kind, one in scores.kinds.items()}, abs=1e-12)
    assert official.overall == pytest.approx(next(iter(scores.overalls.values())).estimate, abs=1e-12)
    if protocol == "bagel2025":
        assert len(score_lines(tmp_path, "*_full.jsonl")) == 1000
        with pytest.raises(ValueError, match=r"natural_science has 299 lines, expected 300.*judge again"):
            bagel2025_scores([line for line in lines if line["prompt_id"] != 1000])


def test_verdicts_survive_the_file(examiner, prompts):
    scored = row(prompts["0001"], examiner.examine(prompts["0001"], PICTURE))
    assert json.loads(json.dumps(asdict(scored)))["details"] == scored.details
