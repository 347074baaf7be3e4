"""One small JSON file a judged run: all that a study's tables and charts need, without the run's folder.

The words of prompts stand there as digests, keys as ranges and verdicts as a string, so that 600 answers take some
kilobytes. Paths of the machine are cut to their last part.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from brushwork.eval.cost import cost_summary, paper_cost
from brushwork.eval.failures import count_faults
from brushwork.eval.process import process_metrics
from brushwork.eval.reports.budgets import as_drawn, benchmark_of, budgets
from brushwork.eval.reports.runs import Run
from brushwork.eval.reports.summary import count_rounds, count_stops, without_nan
from brushwork.eval.reports.training import trained_folder, training_of, with_training
from brushwork.eval.verdicts import ScoredTrajectory, read_record, write_text

FORMAT = 1
MARKS = {True: "1", False: "0", None: "?"}
DIGEST = 6
"""Hexadecimal digits of a prompt's digest: among 600 prompts, two share one in one run of a hundred."""
DIGITS = 6
"""Significant digits of numbers in the file."""
MACHINE_PATH = re.compile(r"(?<![\w.:/~])~?(?:/[\w.@+~-]+)+(?=/)/")
NUMBERED = re.compile(r"(.*?)([0-9]+)\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """The answers to the prompts of one kind, in the order of the benchmark.

    Attributes:
        keys: of the prompts; the same in all runs that answered one benchmark.
        prompts: digest of the words of each prompt.
        outcomes: a character an answer: "1" passed, "0" failed, "?" without a verdict.
    """

    keys: tuple[str, ...]
    prompts: tuple[str, ...]
    outcomes: str

    def __post_init__(self) -> None:
        counts = len(self.keys), len(self.prompts), len(self.outcomes)
        if len(set(counts)) > 1 or set(self.outcomes) - set(MARKS.values()):
            raise ValueError(f"{counts[0]} keys, {counts[1]} prompts, outcomes {self.outcomes!r}; expected 0, 1 or ?")

    @property
    def passed(self) -> dict[tuple[str, str], bool]:
        """(key, digest of the words) → whether it passed, where there is a verdict."""
        answers = zip(self.keys, self.prompts, self.outcomes, strict=True)
        return {(key, words): mark == "1" for key, words, mark in answers if mark != "?"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """What remains of a judged run.

    Attributes:
        row: of the study: an option of `ablation`, or a strategy that draws with the model of another row.
        seed: of the training.
        benchmark: its name and settings.
        judge: who judged, and how.
        sampler: how answers were drawn.
        answers: by kind.
        distinct_prompts: different wordings among the prompts.
        process: step-level metrics, see `process_metrics`; None where there is no case.
        rounds: how many answers took 1, 2, 3, … images.
        stopped: why sampling ended → how often.
        faults: where answers failed, see `count_faults`.
        costs: of an answer: term → `mean`, `deviation`, `total`, `num`, `per_image`, see `CostTerm`.
        paper_cost: of an answer in the paper's unit; None where nothing was drawn.
        training: of the model that answered, see `training_of`.
        budgets: what should be equal in all rows, see `BUDGETS`.
        as_drawn: settings that sampling shares with training → (trained with, sampled with).
        origin: date, command and machine of `predict` and of `test`.
    """

    row: str
    seed: int
    benchmark: Mapping[str, Any]
    judge: Mapping[str, Any]
    sampler: Mapping[str, Any]
    answers: Mapping[str, Answers]
    distinct_prompts: int
    process: Mapping[str, Mapping[str, int | float | None]]
    rounds: tuple[int, ...]
    stopped: Mapping[str, int]
    faults: Mapping[str, Mapping[str, Sequence[int]]]
    costs: Mapping[str, Mapping[str, int | float | None]]
    paper_cost: int | float | None
    training: Mapping[str, Any]
    budgets: Mapping[str, str]
    as_drawn: Mapping[str, Sequence[str]]
    origin: Mapping[str, Any]

    @property
    def num_prompts(self) -> int:
        """Answers, judged or not."""
        return sum(len(answers.keys) for answers in self.answers.values())


def summarise_run(run: Run, seed: int) -> RunSummary:
    """The summary of a run that was read from its folder; its name is the row's.

    Args:
        run: with verdicts.
        seed: of the training.
    """
    trained = trained_folder(run)
    run = with_training(run, trained)
    sampler = {name: value for name, value in run.scored.get("sampler", {}).items() if name != "fingerprint"}
    summary = RunSummary(
        row=run.name,
        seed=seed,
        benchmark=run.scored.get("benchmark") or {"benchmark": benchmark_of(run)},
        judge=run.scored.get("judge") or {},
        sampler=sampler,
        answers=answers_of(run.rows),
        distinct_prompts=len({row.prompt for row in run.rows}),
        process=process_metrics(run.rows),
        rounds=count_rounds(run.rows),
        stopped=count_stops(run.rows),
        faults=count_faults(run.rows),
        costs={term: asdict(cost) for term, cost in cost_summary(run.rows).items()},
        paper_cost=paper_cost(run.rows),
        training=training_of(run, trained),
        budgets=budgets(run),
        as_drawn=as_drawn(run),
        origin={"predict": origin_of(run.samples), "test": origin_of(run.scored)},
    )
    return from_json(json.loads(to_json(summary)))  # as it will be read again, so that no figure depends on the way


def origin_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """When, how and where a step of the run was made, as far as its record tells."""
    return {name: record[name] for name in ("date", "command", "machine") if record.get(name)}


def answers_of(rows: Sequence[ScoredTrajectory]) -> dict[str, Answers]:
    """The answers of each kind."""
    return {
        kind: Answers(
            keys=tuple(row.key for row in rows if row.kind == kind),
            prompts=tuple(digest(row.prompt) for row in rows if row.kind == kind),
            outcomes="".join(MARKS[row.passed] for row in rows if row.kind == kind),
        )
        for kind in dict.fromkeys(row.kind for row in rows)
    }


def digest(prompt: str) -> str:
    """Of a prompt's words."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:DIGEST]


def to_json(summary: RunSummary) -> str:
    """The file's text, the same for equal summaries."""
    content = {one.name: getattr(summary, one.name) for one in fields(summary)}
    content["answers"] = {
        kind: {
            "keys": ranges(answers.keys),
            "prompts": "".join(answers.prompts),
            "outcomes": answers.outcomes,
        }
        for kind, answers in summary.answers.items()
    }
    content = {"format": FORMAT, **portable(without_nan(content))}
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def from_json(content: Mapping[str, Any]) -> RunSummary:
    """A summary from what its file holds.

    Raises:
        ValueError: it is none of this format.
    """
    if content.get("format") != FORMAT:
        raise ValueError(f"format {content.get('format')!r}, expected {FORMAT}")
    values = {name: value for name, value in content.items() if name != "format"}
    names = {one.name for one in fields(RunSummary)}
    if values.keys() != names:
        raise ValueError(f"other fields than a summary's: {', '.join(sorted(values.keys() ^ names))}")
    values["answers"] = {
        kind: Answers(
            keys=tuple(expanded(answers["keys"])),
            prompts=tuple(re.findall(f".{{{DIGEST}}}", answers["prompts"])),
            outcomes=answers["outcomes"],
        )
        for kind, answers in values["answers"].items()
    }
    values["rounds"] = tuple(values["rounds"])
    return RunSummary(**values)


def summary_path(folder: str | Path, row: str, seed: int) -> Path:
    """Where the summary of a run lies."""
    return Path(folder) / row / f"seed-{seed}.json"


def write_summary(summary: RunSummary, folder: str | Path) -> Path:
    """Write a summary below a folder, whole or not at all; its path."""
    path = summary_path(folder, summary.row, summary.seed)
    write_text(path, to_json(summary))
    return path


def read_summary(path: Path) -> RunSummary:
    """Read what `write_summary` wrote.

    Raises:
        ValueError: the file is missing, damaged or of another format; the message tells how to make it again.
    """
    remedy = "`lightning report study=NAME results=results` writes it anew from the run"
    try:
        summary = from_json(read_record(path, remedy))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no summary of a run ({error}); {remedy}") from error
    if summary_path(path.parents[1], summary.row, summary.seed) != path:
        raise ValueError(f"{path} is the summary of {summary.row}/seed-{summary.seed}; {remedy}")
    return summary


def portable(value: Any) -> Any:
    """JSON-able values without paths of the machine, numbers to `DIGITS` digits."""
    if isinstance(value, Mapping):
        return {str(name): portable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [portable(inner) for inner in value]
    if isinstance(value, str):
        return MACHINE_PATH.sub("", value)
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else float(f"{value:.{DIGITS}g}")
    return value


def ranges(keys: Iterable[str]) -> list[list[str]]:
    """Keys in their order, as the first and last of stretches that count on: ["colors-0000", "colors-0051"]; or one."""
    found: list[list[str]] = []
    for key in keys:
        if found and key == following(found[-1][-1]):
            found[-1][1:] = [key]
        else:
            found.append([key])
    return found


def following(key: str) -> str | None:
    """The key that counts on from this one, in as many digits; None where there is none."""
    found = NUMBERED.match(key)
    if found is None:
        return None
    number = str(int(found[2]) + 1).zfill(len(found[2]))
    return found[1] + number if len(number) == len(found[2]) else None


def expanded(stretches: Iterable[Sequence[str]]) -> Iterator[str]:
    """The keys that `ranges` put together.

    Raises:
        ValueError: a stretch does not lead from its first key to its last.
    """
    for first, *others in stretches:
        last = others[-1] if others else first
        begin, end = NUMBERED.match(first), NUMBERED.match(last)
        if first == last:
            yield first
        elif begin is None or end is None or (begin[1], len(begin[2])) != (end[1], len(end[2])):
            raise ValueError(f"keys do not count from {first} to {last}")
        else:
            numbers = range(int(begin[2]), int(end[2]) + 1)
            yield from (begin[1] + str(number).zfill(len(begin[2])) for number in numbers)
