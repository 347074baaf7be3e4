"""The judge of WISE: a vision-language model that knows what is meant, its replies read as the scripts read them.

Needs the extra `wise` of brushwork-eval.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from brushwork.critic.chat import ChatError, ChatModel
from brushwork.critic.untrusted import DATA_RULE, data_block
from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.eval.benchmark import BenchmarkPrompt, Scale
from brushwork.eval.benchmarks.wise_replies import CRITERIA, Marks, WiseProtocol, first_usable, wiscore
from brushwork.eval.benchmarks.wise_scores import CATEGORIES, FILES, weights
from brushwork.eval.verdicts import ScoredTrajectory, write_text
from brushwork.tokens.trajectory import Image

_LEGACY = f"""
You mark one generated picture. The data holds the prompt that it was made from, which seldom names what is meant, and
an explanation of what is meant. Give three marks, each 0, 1 or 2:
Consistency: whether the picture shows what prompt and explanation ask for. 0: what matters most is missing or wrong.
1: some of it is there, some is missing or inexact. 2: all of it is there, and nothing contradicts it.
Realism: whether things look, weigh, touch and reflect light as in the world. 0: plainly artificial or impossible.
1: believable with visible faults. 2: not to be told from a photograph.
Aesthetic Quality: composition, colour and craft. 0: careless or unpleasant. 1: ordinary. 2: outstanding.
Be severe: 2 is rare, and where you hesitate between two marks you give the lower one.
Answer with these three lines and nothing else, a digit in place of each N:
Consistency: N
Realism: N
Aesthetic Quality: N
{DATA_RULE}
""".strip()

_VERIFIED = f"""
You decide whether one generated picture shows what its prompt means. The data holds the prompt, which seldom names
what is meant, and an explanation of what is meant. Only this counts, not how beautiful or real the picture looks.
1: everything that the explanation makes necessary is plainly there and right. 0: something of it is missing, wrong or
in doubt.
Answer with this one line and nothing else, a digit in place of N:
Score: N
{DATA_RULE}
""".strip()

_SCRIPTS: Mapping[WiseProtocol, tuple[int, int]] = {
    "wise": (3, 2000),
    "wise2025": (1, 2000),
    "bagel2025": (1, 2000),
    "verified": (3, 500),
}
"""Attempts and length of a reply in tokens, as each script has them."""

_BLANKS = re.compile(r"\{(?:(prompt|explanation)|prompt_data\[['\"](Prompt|Explanation)['\"]\])\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WiseExaminer:
    """Asks for the marks of a picture, again where a reply cannot be used. Safe for threads.

    An attempt is used up by a reply that the protocol cannot use and by an endpoint that gives none, as in the scripts;
    but an endpoint that is busy or down is asked `chat.attempts` times before it counts as giving none. What is not
    judged in the end is a failure, never a zero; only `wise2025` counts a criterion that a reply lacks as 0, as its
    script did, and the verdict's details then name it in `filled`.

    WISE knows no pass: a picture passes here where it shows all that was meant, so with the full mark for consistency,
    or with 1 in WISE_Verified. The score is WiScore; marks out of their range are used as they are, as in the scripts.

    Attributes:
        chat: the judge; `wise` publishes numbers of gpt-4o-2024-05-13, Bagel of gpt-4o-2024-11-20, WISE_Verified of
            Qwen3.5-35B-A3B with `thinking` off, all at temperature 0. Another model, or another snapshot of it, moves
            scores by several points.
        protocol: whose reading of replies, formulas and limits (see `WiseProtocol`). "verified" is for WISE_Verified's
            prompts, the others are for the legacy prompts.
        instructions: None for Brushwork's own words; otherwise a file with your copy of the official question, in which
            {prompt} and {explanation} stand for those of the picture. The wording moves scores, too: figures to stand
            beside published ones need the official one.
        system: the system line that belongs to `instructions`; None without them.
        attempts: None for as many as the protocol's script makes: 3, or 1 in 2025.
        max_tokens: of a reply; None for what the script sends: 2000, or 500 for "verified".
    """

    chat: ChatModel
    protocol: WiseProtocol = "wise"
    instructions: str | Path | None = None
    system: str | None = None
    attempts: int | None = None
    max_tokens: int | None = None

    def __post_init__(self):
        if self.protocol not in _SCRIPTS:
            raise ValueError(f"protocol is {self.protocol!r}; expected one of {', '.join(_SCRIPTS)}")
        for name in ("attempts", "max_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1, or null for the protocol's own")
        if (self.instructions is None) != (self.system is None):
            raise ValueError("the official question has a system line of its own: set both instructions and system")
        if self.instructions is not None:
            _template(Path(self.instructions))

    @property
    def scale(self) -> Scale:
        """WISE's formulas: no overall score unless every prompt was judged. The first is the protocol's own."""
        if self.protocol == "verified":
            overalls = {"overall": weights("verified")}
        else:
            overalls = {"overall": weights("legacy"), "overall (equal weights)": {}}
        if self.protocol == "bagel2025":
            overalls = dict(reversed(overalls.items()))
        return Scale(measure="score", kinds=CATEGORIES, overalls=overalls, num_required=1000)

    @property
    def name(self) -> str:
        """Name, version, protocol and model."""
        return f"wise/1:{self.protocol}:{self.chat.model}"

    def describe(self) -> dict[str, Any]:
        """Who judges and how; which version of the model the endpoint served stands in each verdict's details."""
        words = _own_words(self.protocol).encode()
        if self.instructions is not None:
            words = Path(self.instructions).read_bytes()
        return {
            "judge": self.name,
            "protocol": self.protocol,
            "model": self.chat.model,
            "base_url": self.chat.base_url,
            "temperature": self.chat.temperature,
            "seed": self.chat.seed,
            "thinking": self.chat.thinking,
            "attempts": self._limits[0],
            "max_tokens": self._limits[1],
            "instructions": "Brushwork's own" if self.instructions is None else str(self.instructions),
            "instructions_sha256": hashlib.sha256(words).hexdigest(),
            "system": self.system,
        }

    def examine(self, sample: BenchmarkPrompt, image: Image) -> Verdict | JudgeFailure:
        """The verdict on one picture.

        Its details hold the marks, `model` as the endpoint names it, and `attempts` with everything that came; those
        of a failure hold `attempts` alone.

        Raises:
            ValueError: the sample is none of WISE, or there is no key for the endpoint.
        """
        system, text = self._question(sample)
        tried: list[dict[str, Any]] = []

        def replies() -> Iterator[str | None]:
            for attempt in count():
                tried.append(self._attempt(system, text, image, attempt))
                yield tried[-1].get("reply")

        marks, _ = first_usable(replies(), self.protocol, self._limits[0])
        if marks is None:
            return JudgeFailure(
                reason=f"no usable reply in {len(tried)} attempts: {_told(tried[-1])}",
                judge=self.name,
                transient=any(attempt.get("transient", False) for attempt in tried),
                details={"attempts": tried},
            )
        top = 1.0 if self.protocol == "verified" else 2.0
        odd = [name for name, mark in marks.given.items() if mark > top]
        return Verdict(
            passed=next(iter(marks.given.values())) == top,
            score=wiscore(marks),
            reason=_in_words(marks),
            judge=self.name,
            details={
                **marks.given,
                **({"filled": list(marks.filled)} if marks.filled else {}),
                **({"out_of_range": odd} if odd else {}),
                "model": tried[-1]["model"],
                "attempts": tried,
            },
        )

    def write_official(
        self, rows: Sequence[ScoredTrajectory], samples: Sequence[BenchmarkPrompt], folder: Path
    ) -> list[Path]:
        """Write the score files and the full replies as the official scripts leave them, sorted by id.

        Their calculators take the score files; their judging scripts go on with the ids that are not in them, so what
        was not judged has no line.

        Args:
            rows: the verdicts; those of another judge, and those without a verdict, are left out.
            samples: the prompts, found by key.
            folder: of the files.

        Returns:
            The files written, two for each of WISE's three prompt files of which anything was judged.
        """
        by_key = {sample.key: sample for sample in samples}
        judged = [(by_key[row.key], row) for row in rows if row.key in by_key and "attempts" in row.details]
        judged = [(sample, row) for sample, row in judged if row.failure is None]
        judged.sort(key=lambda pair: pair[0].record["prompt_id"])
        full_name, scores_name = "{}_full_results.json", "{}_scores_results.jsonl"
        if self.protocol == "bagel2025":
            full_name, scores_name = "{}_full.jsonl", "{}_scores.jsonl"
        written = []
        for name, kinds in FILES.items():
            pairs = [(sample, row) for sample, row in judged if sample.kind in kinds]
            if not pairs:
                continue
            full, scores = [_full_line(*pair) for pair in pairs], [_score_line(*pair) for pair in pairs]
            for file, lines in ((full_name.format(name), full), (scores_name.format(name), scores)):
                as_lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                whole = json.dumps(lines, ensure_ascii=False, indent=2)
                write_text(folder / file, as_lines if file.endswith(".jsonl") else whole)
                written.append(folder / file)
        return written

    @property
    def _limits(self) -> tuple[int, int]:
        attempts, max_tokens = _SCRIPTS[self.protocol]
        return self.attempts or attempts, self.max_tokens or max_tokens

    def _question(self, sample: BenchmarkPrompt) -> tuple[str, str]:
        """System line and text."""
        explanation = sample.record.get("explanation")
        if not isinstance(explanation, str):
            raise ValueError(f"prompt {sample.key} has no explanation; expected one of WISE: set benchmark=wise")
        texts = {"prompt": sample.prompt, "explanation": explanation}
        if self.instructions is None or self.system is None:
            return _own_words(self.protocol), data_block(**texts)
        template = _template(Path(self.instructions))  # filled in one pass: the texts may look like blanks themselves
        return self.system, _BLANKS.sub(lambda blank: texts[(blank[1] or blank[2]).lower()], template)

    def _attempt(self, system: str, text: str, image: Image, attempt: int) -> dict[str, Any]:
        """What came of asking once, JSON-able, without what was not told."""
        try:
            reply = self.chat.reply(system, text, [image], max_tokens=self._limits[1], attempt=attempt)
        except ChatError as error:
            return {"reply": None, "error": str(error), "transient": error.transient}
        came = {"reply": reply.text, "model": reply.model or self.chat.model, "finish_reason": reply.finish_reason}
        return came | ({"refusal": reply.refusal} if reply.refusal else {})


def _own_words(protocol: WiseProtocol) -> str:
    return _VERIFIED if protocol == "verified" else _LEGACY


@cache
def _template(path: Path) -> str:
    """The user's copy of the question, read once."""
    if not path.is_file():
        raise ValueError(
            f"no file {path}; instructions takes your copy of the official question, null for our own words"
        )
    text = path.read_text(encoding="utf-8").strip()
    if len({(blank[1] or blank[2]).lower() for blank in _BLANKS.finditer(text)}) < 2:
        raise ValueError(
            f"{path} has no {{prompt}} or no {{explanation}}; write them where those of the picture belong"
        )
    return text


def _told(attempt: Mapping[str, Any]) -> str:
    """Why an attempt is of no use, in words."""
    if error := attempt.get("error"):
        return error
    if refusal := attempt.get("refusal"):
        return f"the model refused: {refusal}"
    if attempt["reply"] is None:
        return f"the model said nothing (finish reason {attempt['finish_reason'] or 'untold'})"
    return f"{attempt['reply'][:200]!r}"


def _in_words(marks: Marks) -> str:
    told = ", ".join(f"{name.replace('_', ' ')} {mark:g}" for name, mark in marks.given.items())
    return f"{told}; not given: {', '.join(marks.filled)}, counted as 0" if marks.filled else told


def _full_line(sample: BenchmarkPrompt, row: ScoredTrajectory) -> dict[str, Any]:
    return {
        "prompt_id": sample.record["prompt_id"],
        "prompt": sample.prompt,
        "key": sample.record["explanation"],
        "image_path": sample.file,
        "evaluation": row.details["attempts"][-1]["reply"],
    }


def _score_line(sample: BenchmarkPrompt, row: ScoredTrajectory) -> dict[str, Any]:
    marks = {name: row.details[name] for name in (*CRITERIA, "score") if name in row.details}
    return {"prompt_id": sample.record["prompt_id"], "Subcategory": sample.record["subcategory"], **marks}
