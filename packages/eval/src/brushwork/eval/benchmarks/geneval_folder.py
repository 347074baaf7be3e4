"""GenEval's official files: the folder of pictures as its evaluator walks it, its results and its summary."""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.eval.benchmarks.geneval_prompts import parse_metadata
from brushwork.eval.verdicts import ScoredTrajectory, write_text

log = logging.getLogger(__name__)

RESULTS_FILE = "geneval_results.jsonl"
SUMMARY_FILE = "geneval_summary.txt"
_SAMPLE = re.compile(r"\d+\.png")


def walk(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """The pictures that the official evaluator scores in a folder, with their metadata, sorted by name.

    It looks into subfolders whose names are digits, and there into `samples/`, for files whose names begin with digits
    and ".png", whatever follows. All else is passed over.

    Returns:
        Pairs of a path relative to the folder, with "/", and the metadata of its prompt.

    Raises:
        FileNotFoundError: no such folder, or a subfolder of digits that lacks `metadata.jsonl` or `samples/`.
        ValueError: a `metadata.jsonl` is not one JSON document of the official form.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}; expected one that holds 00000/metadata.jsonl, 00000/samples/, ..."
        )
    found = []
    for prompt_folder in sorted(folder.iterdir()):
        if not prompt_folder.name.isdigit() or not prompt_folder.is_dir():
            continue
        path, samples = prompt_folder / "metadata.jsonl", prompt_folder / "samples"
        for needed, exists in ((path, path.is_file()), (samples, samples.is_dir())):
            if not exists:
                raise FileNotFoundError(
                    f"{prompt_folder} has no {needed.name}, without which the official evaluator stops, too; "
                    "complete the folder or remove it"
                )
        metadata = parse_metadata(path.read_text(encoding="utf-8"), str(path))
        names = sorted(one.name for one in samples.iterdir() if _SAMPLE.match(one.name) and one.is_file())
        found += [(f"{prompt_folder.name}/samples/{name}", metadata) for name in names]
    return found


def keys_of(files: Iterable[str]) -> list[str]:
    """A key for each picture of an official folder, distinct and safe as a file name.

    Prompt and sample are told in five digits, as in a run that drew them here, so that the two can be paired; where two
    files would have one key ("7.png" and "007.png"), the later one is numbered.
    """
    keys: dict[str, None] = {}
    for file in files:
        prompt, _, sample = file.split("/")
        parts = [part.lstrip("0").zfill(5) for part in (prompt, sample.removesuffix(".png"))]
        key = wanted = re.sub(r"[^0-9A-Za-z-]", "_", "-".join(parts))[:70]
        number = 1
        while key in keys:
            number += 1
            key = f"{wanted}_{number}"
        keys[key] = None
    return list(keys)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """Pictures of one task: how many there are, and how many are right."""

    correct: int
    images: int

    @property
    def score(self) -> float:
        """The fraction that is right."""
        return self.correct / self.images


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The official numbers.

    Attributes:
        images: judged.
        prompts: among them.
        correct_images: fraction of the images.
        correct_prompts: fraction of the prompts of which any image is right.
        tasks: in the order in which they came.
        overall: mean of the tasks' scores, whatever their sizes; a task without images is left out.
    """

    images: int
    prompts: int
    correct_images: float
    correct_prompts: float
    tasks: Mapping[str, TaskScore]
    overall: float

    @property
    def text(self) -> str:
        """What the official script prints."""
        tasks = [f"{tag:<16} = {one.score:.2%} ({one.correct} / {one.images})" for tag, one in self.tasks.items()]
        lines = [
            "Summary",
            "=======",
            f"Total images: {self.images}",
            f"Total prompts: {self.prompts}",
            f"% correct images: {self.correct_images:.2%}",
            f"% correct prompts: {self.correct_prompts:.2%}",
            "",
            "Task breakdown",
            "==============",
            *tasks,
            "",
            f"Overall score (avg. over tasks): {self.overall:.5f}",
        ]
        return "\n".join(lines) + "\n"


def summary(results: Sequence[Mapping[str, Any]]) -> Summary:
    """The official summary of an official results file's rows.

    Args:
        results: rows with `tag`, `correct` and `metadata`, by which the pictures of a prompt are known.

    Raises:
        ValueError: there are none.
    """
    if not results:
        raise ValueError("there are no results to sum up; expected at least one row")
    by_task: dict[str, list[bool]] = {}
    by_prompt: dict[str, list[bool]] = {}
    for row in results:
        by_task.setdefault(row["tag"], []).append(row["correct"])
        by_prompt.setdefault(row["metadata"], []).append(row["correct"])
    tasks = {tag: TaskScore(correct=sum(ones), images=len(ones)) for tag, ones in by_task.items()}
    return Summary(
        images=len(results),
        prompts=len(by_prompt),
        correct_images=sum(row["correct"] for row in results) / len(results),
        correct_prompts=sum(map(any, by_prompt.values())) / len(by_prompt),
        tasks=tasks,
        overall=sum(one.score for one in tasks.values()) / len(tasks),
    )


def official_results(rows: Iterable[ScoredTrajectory], samples: Iterable[BenchmarkPrompt]) -> list[dict[str, Any]]:
    """Verdicts as rows of the official results file; what has no verdict has no row.

    Args:
        rows: of `verdicts.jsonl`, judged by GenEval's examiner.
        samples: the prompts that they answer.
    """
    asked = {sample.key: sample for sample in samples}
    return [official_result(row, asked[row.key]) for row in rows if row.passed is not None and row.key in asked]


def official_result(row: ScoredTrajectory, sample: BenchmarkPrompt) -> dict[str, Any]:
    """One row of the official results file; metadata and details are JSON within JSON there."""
    return {
        "filename": sample.file,
        "tag": sample.kind,
        "prompt": sample.prompt,
        "correct": row.passed,
        "reason": row.reason,
        "metadata": json.dumps(dict(sample.record)),
        "details": json.dumps(row.details.get("kept", {})),
    }


def write_official(rows: Sequence[ScoredTrajectory], samples: Sequence[BenchmarkPrompt], folder: Path) -> None:
    """Write `geneval_results.jsonl` and `geneval_summary.txt`, which the official scripts would write, into a folder.

    Args:
        rows: of `verdicts.jsonl`, judged by GenEval's examiner.
        samples: the prompts that they answer.
        folder: made where it is missing.
    """
    results = official_results(rows, samples)
    if len(results) < len(rows):
        log.warning(
            "%d of %d rows have no verdict, hence no place in the official results", len(rows) - len(results), len(rows)
        )
    write_text(folder / RESULTS_FILE, "".join(json.dumps(result) + "\n" for result in results))
    if results:
        write_text(folder / SUMMARY_FILE, summary(results).text)
