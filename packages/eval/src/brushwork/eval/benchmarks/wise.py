"""WISE: prompts that name nothing outright, so that a picture shows whether a model knows what is meant."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.eval.benchmarks.wise_scores import CATEGORIES, DATA, borders

log = logging.getLogger(__name__)

SPELLINGS = {"cultural knowledge": "culture", "physical knowledge": "physics"} | {name: name for name in CATEGORIES}
"""`Category` in lower case → the category of the tables."""
_FIELDS = {"prompt_id": int, "Prompt": str, "Explanation": str, "Category": str, "Subcategory": str}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wise:
    """The prompts of WISE, by their ids.

    Attributes:
        prompts_file: None for the 1,000 legacy prompts that come with the package; otherwise your own copy in their
            format, such as WISE_Verified's `merge.json`, or several files of one set. WISE_Verified uses the same ids
            for other prompts: pictures of one set must not be judged with the other.
        seed: decides the sampling seed of each prompt, which does not depend on the other prompts.
    """

    prompts_file: str | Path | Sequence[str | Path] | None = None
    seed: int = 0

    def prompts(self) -> list[BenchmarkPrompt]:
        """All prompts, sorted by id.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no list of prompts, a prompt lacks something, or two have one id.
        """
        records: dict[int, Mapping[str, Any]] = {}
        for name, text in self._texts().items():
            for record in _records(name, text):
                number = record["prompt_id"]
                if number in records:
                    raise ValueError(f"{name}: a second prompt {number}; expected every prompt_id once in all files")
                records[number] = record
        _check_borders(records)
        return [self._prompt(records[number]) for number in sorted(records)]

    def describe(self) -> dict[str, Any]:
        """What stands in every result file: which prompts these are."""
        texts = self._texts()
        digest = hashlib.sha256("".join(texts.values()).encode()).hexdigest()
        return {"benchmark": "wise", "prompts_file": sorted(texts), "prompts_sha256": digest, "seed": self.seed}

    def _texts(self) -> dict[str, str]:
        """Name of each file → its text."""
        if self.prompts_file is None:
            return {"final_data.json": (DATA / "final_data.json").read_text(encoding="utf-8")}
        named = self.prompts_file
        paths = [Path(named)] if isinstance(named, str | Path) else [Path(path) for path in named]
        if absent := [str(path) for path in paths if not path.is_file()]:
            raise FileNotFoundError(
                f"no file {absent[0]}; prompts_file takes your copy of WISE's prompts, null the usual"
            )
        return {str(path): path.read_text(encoding="utf-8") for path in paths}

    def _prompt(self, record: Mapping[str, Any]) -> BenchmarkPrompt:
        number = record["prompt_id"]
        return BenchmarkPrompt(
            key=f"{number:04d}",
            prompt=record["Prompt"],
            kind=SPELLINGS[record["Category"].lower()],
            seed=int(np.random.default_rng([self.seed, number]).integers(2**31)),
            record={
                "prompt_id": number,
                "explanation": record["Explanation"],
                "category": record["Category"],
                "subcategory": record["Subcategory"],
            },
            file=f"{number}.png",
        )


def _records(name: str, text: str) -> list[Mapping[str, Any]]:
    """The prompts in a file, checked one by one."""
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is no JSON ({error}); expected WISE's format, a list of prompts") from error
    if not isinstance(records, list) or not records:
        raise ValueError(f"{name} holds {type(records).__name__}; expected WISE's format, a list of prompts")
    for place, record in enumerate(records):
        at = f"{name}, prompt {place} of the list"
        if not isinstance(record, dict):
            raise ValueError(f"{at}: {record!r}; expected an object with {', '.join(_FIELDS)}")
        for field, kind in _FIELDS.items():
            if not isinstance(value := record.get(field), kind) or isinstance(value, bool):
                raise ValueError(f"{at}: {field} is {value!r}; expected {'an integer' if kind is int else 'a text'}")
        if record["prompt_id"] < 1:
            raise ValueError(f"{at}: prompt_id is {record['prompt_id']}; expected 1 or more")
        if record["Category"].lower() not in SPELLINGS:
            raise ValueError(f"{at}: Category is {record['Category']!r}; expected one of {', '.join(SPELLINGS)}")
    return records


def _check_borders(records: Mapping[int, Mapping[str, Any]]) -> None:
    """The official calculators go by ids; where a file says otherwise their numbers cannot be ours."""
    odd = {
        prompts: [
            number
            for number, record in records.items()
            if number not in borders(prompts)[SPELLINGS[record["Category"].lower()]]
        ]
        for prompts in ("legacy", "verified")
    }
    nearest = min(odd, key=lambda prompts: len(odd[prompts]))
    if odd[nearest]:
        log.warning(
            "%d prompts lie outside their category's ids in the %s set (prompt %d is %r): they are counted by their "
            "Category here, by their id in the official scripts",
            len(odd[nearest]), nearest, odd[nearest][0], records[odd[nearest][0]]["Category"],
        )  # fmt: skip
