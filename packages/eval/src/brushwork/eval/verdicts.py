"""The rows of `verdicts.jsonl`: what the judge said of each trajectory, as typed records and as JSON lines."""

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

VERDICTS_FILE = "verdicts.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredDraft:
    """What is known of one draft.

    Attributes:
        step: number of its step in the trajectory, from 0.
        draft: number of the draft within the step, from 0.
        accepts: the model's own inspection accepted it; None where nothing was inspected.
        shows_plan: the judge found the planned scene in it; None without a plan or where the judge could not say.
        satisfies_prompt: it would pass as the final answer; None where the judge could not say.
        reason: the judge's words about draft and plan, or why it could not say; empty without a plan.
        score: the judge's number for it as the final answer, 0 to 1; None where the judge could not say.
        stood: objects of the draft before that the plan keeps; None for the first draft and where nothing detects.
        survived: how many of them stand in this draft where they stood.
    """

    step: int
    draft: int
    accepts: bool | None
    shows_plan: bool | None
    satisfies_prompt: bool | None
    reason: str = ""
    score: float | None = None
    stood: int | None = None
    survived: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredPlan:
    """What is known of one plan.

    Attributes:
        step: number of its step in the trajectory, from 0.
        consistent: it does not contradict the prompt; None where the critic could not say, or after the first
            contradiction, beyond which a critic does not read.
        reason: the critic's words where it contradicts, or why it could not say.
    """

    step: int
    consistent: bool | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredTrajectory:
    """One row of `verdicts.jsonl`.

    Attributes:
        key: the trajectory's key; the same in all arms that answered one benchmark.
        prompt: the user's words.
        kind: the benchmark's category.
        seed: the sampling seed; None where it is not known.
        passed: the verdict on the final image; None where the judge failed, which counts neither for nor against.
        score: the judge's score, 0 to 1; None where the judge failed.
        reason: the judge's words.
        judge: who judged, and which version.
        failure: why there is no verdict; None where there is one.
        cost: as the sampler measured it: `denoise_steps`, `model_forwards`, `text_tokens`, `seconds`.
        rounds: images drawn, the number that the paper's cost per image multiplies (2.62 rounds x 50 steps).
        steps: plans made, or 1 for a single pass.
        stopped: why sampling ended, where the sampler says.
        drafts: every draft in the order in which it was drawn.
        plans: every plan in order, where a critic read them.
        unfinished: of a failed answer, that nothing is wrong and something is missing; None where the judge does not
            tell.
        details: what else the judge found, its raw reply for example.
    """

    key: str
    prompt: str
    kind: str
    seed: int | None
    passed: bool | None
    score: float | None
    reason: str
    judge: str
    failure: str | None = None
    cost: Mapping[str, int | float] = field(default_factory=dict)
    rounds: int = 0
    steps: int = 0
    stopped: str | None = None
    drafts: tuple[ScoredDraft, ...] = ()
    plans: tuple[ScoredPlan, ...] = ()
    unfinished: bool | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def write_verdicts(rows: Iterable[ScoredTrajectory], path: Path) -> None:
    """Write one JSON object a line; the file appears whole or not at all."""
    write_text(path, "".join(to_line(row) + "\n" for row in rows))


def read_verdicts(path: Path) -> list[ScoredTrajectory]:
    """Read what `write_verdicts` wrote.

    Raises:
        FileNotFoundError: there is no such file; the message names the command that makes one.
        ValueError: a line is not a row; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no verdicts at {path}; `lightning test out={path.parent}` scores predictions")
    rows = []
    for number, line in enumerate(json_lines(path), start=1):
        try:
            rows.append(parse_row(line))
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}, line {number}: not a verdict ({error}); score the predictions again") from error
    return rows


def json_lines(path: Path) -> list[str]:
    """The lines of a file of JSON lines: texts within may hold other separators of lines, such as U+2028."""
    text = path.read_bytes().decode(errors="replace")
    return text.removesuffix("\n").split("\n") if text else []


def parse_row(line: str) -> ScoredTrajectory:
    """Read one line; raises TypeError, KeyError or JSONDecodeError where it is not a row."""
    values = json.loads(line)
    values["drafts"] = tuple(ScoredDraft(**draft) for draft in values["drafts"])
    values["plans"] = tuple(ScoredPlan(**plan) for plan in values.get("plans", ()))
    return ScoredTrajectory(**values)


def read_record(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file.

    Raises:
        ValueError: it is none; the message ends in the remedy.
    """
    try:
        record = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); expected what was written there: {remedy}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds {type(record).__name__}, expected an object; {remedy}")
    return record


class VerdictLog:
    """The rows of a scoring under way, beside the file that they will become, so that it can be interrupted.

    Its first line names the question; the log of another question is thrown away, as is a last line that was cut off.
    Left without an error the log is removed, but for one in which something failed: scored again, only that is judged.

    Attributes:
        rows: key → row, those that have a verdict: what failed before is to be judged again.
        failures: rows without a verdict that were added.
    """

    def __init__(self, path: Path, question: str) -> None:
        self.path = path.with_name(path.name + ".log")
        self.question = question
        self.rows: dict[str, ScoredTrajectory] = {}
        self.failures = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "VerdictLog":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stored = json_lines(self.path) if self.path.exists() else []
        for line in stored[1:] if stored[:1] == [self.question] else []:
            with contextlib.suppress(TypeError, KeyError, json.JSONDecodeError):  # cut off when the process was killed
                row = parse_row(line)
                if row.failure is None:
                    self.rows[row.key] = row
        write_text(self.path, "".join(f"{line}\n" for line in (self.question, *map(to_line, self.rows.values()))))
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def add(self, row: ScoredTrajectory) -> None:
        """Append a row, safe for threads."""
        with self._lock:
            self._file.write(to_line(row) + "\n")
            self._file.flush()
            self.failures += row.failure is not None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None and not self.failures:
            self.path.unlink()


def to_line(row: ScoredTrajectory) -> str:
    """The row as one line of JSON."""
    return json.dumps(asdict(row), ensure_ascii=False)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file beside its place and move it there, making the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
