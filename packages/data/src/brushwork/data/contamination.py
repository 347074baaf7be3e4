"""Keeps training data free of benchmark prompts."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

_SHINGLE = 8  # words in a row that are no coincidence
_LEAD = re.compile(r"^(an? )?(photo|picture|image) of ")


@dataclass(frozen=True)
class BenchmarkPrompts:
    """The prompts that no training sample may ask for.

    A prompt is one of them if it has the same words (case, punctuation and "a photo of" aside), or shares eight words
    in a row with it.

    Attributes:
        files: text files with a prompt a line, or JSON and JSON lines whose records have a "prompt" or "Prompt"; a bare
            name is one that this package brings: "geneval", "geneval_long", "wise".

    Raises:
        FileNotFoundError: no such file, when the first prompt is checked.
        ValueError: a record without a prompt.
    """

    files: Sequence[str] = ("geneval", "geneval_long", "wise")

    def __contains__(self, prompt: str) -> bool:
        words = normalised(prompt).split()
        return " ".join(words) in self._whole or not self._shingles.isdisjoint(_shingles(words))

    @cached_property
    def _whole(self) -> frozenset[str]:
        return frozenset(normalised(prompt) for name in self.files for prompt in read_prompts(name))

    @cached_property
    def _shingles(self) -> frozenset[str]:
        return frozenset(one for prompt in self._whole for one in _shingles(prompt.split()))


def normalised(prompt: str) -> str:
    """Lower case words without punctuation and without a leading "a photo of"."""
    return _LEAD.sub("", " ".join(re.findall(r"[\w']+", prompt.lower())))


def _shingles(words: Sequence[str]) -> Iterable[str]:
    return (" ".join(words[start : start + _SHINGLE]) for start in range(len(words) - _SHINGLE + 1))


def read_prompts(name: str) -> list[str]:
    """The prompts of a file, or of one that this package brings.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a record without a prompt.
    """
    brought = resources.files("brushwork.data") / "prompts" / f"{name}.txt"
    if "/" not in name and brought.is_file():
        return brought.read_text(encoding="utf-8").splitlines()
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {name} of benchmark prompts, and none of that name comes along")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return [_prompt(record, path) for record in json.loads(text)]
    lines = [line for line in text.splitlines() if line.strip()]
    return [_prompt(json.loads(line), path) for line in lines] if path.suffix == ".jsonl" else lines


def _prompt(record: object, path: Path) -> str:
    if isinstance(record, dict):
        for key in ("prompt", "Prompt"):
            if isinstance(record.get(key), str):
                return record[key]
    raise ValueError(f"{path}: {record!r} has no text under 'prompt'")
