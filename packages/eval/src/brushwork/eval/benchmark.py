"""What a benchmark is: prompts to draw, an examiner of the pictures, and the scale on which verdicts become scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from brushwork.critic.verdict import Judge, JudgeFailure, Verdict
from brushwork.tokens.trajectory import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkPrompt:
    """One thing to draw.

    Attributes:
        key: unique in the benchmark, safe as a file name; the same for every arm, so that arms can be paired.
        prompt: the user's words.
        kind: the category that scores are grouped by. A kind that starts with "ood" is reported in a column of its
            own and stays out of the overall average.
        seed: of the sampler's random numbers for this prompt, 0 to 2**31 - 1.
        record: what the examiner needs beyond the prompt, JSON-able; GenEval's clauses, WISE's explanation.
        file: where the benchmark's official layout has the picture, relative to its folder, such as
            "00000/samples/00000.png"; empty where it has no official place, which is then `<key>.png`.
    """

    key: str
    prompt: str
    kind: str
    seed: int
    record: Mapping[str, Any] = field(default_factory=dict, hash=False)
    file: str = ""


@runtime_checkable
class Benchmark(Protocol):
    """Where prompts come from.

    A benchmark may carry `describe() -> dict[str, Any]`, JSON-able facts that stand in every result file: at least
    `benchmark`, its name, then the prompt set and its settings.
    """

    def prompts(self) -> list[BenchmarkPrompt]:
        """All prompts, the same at every call."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How verdicts become scores: a kind's score is a mean over its rows, an overall score a mean over its kinds.

    Attributes:
        measure: of a row: "passed" counts 1 where it passed, "score" is the judge's own number, 0 to 1.
        kinds: in the order of the tables; others follow as they come.
        overalls: name of each overall score → weight of each kind; no weights at all: every kind that was judged counts
            alike. The first is the headline.
        unit: what an interval speaks of: single rows, or prompts, where a prompt has several pictures.
        num_required: prompts that must be asked, and all of them judged, before there is an overall score (WISE's rule,
            1,000); the mean of what was judged is told apart. 0: none.
    """

    measure: Literal["passed", "score"] = "passed"
    unit: Literal["row", "prompt"] = "row"
    kinds: tuple[str, ...] = ()
    overalls: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: {"overall": {}})
    num_required: int = 0


@runtime_checkable
class Examiner(Protocol):
    """Judges the answers to a benchmark by its records."""

    @property
    def scale(self) -> Scale:
        """On which its verdicts are scored."""
        ...

    def examine(self, sample: BenchmarkPrompt, image: Image) -> Verdict | JudgeFailure:
        """The verdict on one picture; raises only for misuse and for models that cannot be loaded."""
        ...

    def describe(self) -> dict[str, Any]:
        """What stands in every result file, JSON-able: at least `judge` (name and version), then models, thresholds."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptExaminer:
    """Any judge of prompts as an examiner: the record is not looked at.

    Attributes:
        judge: says whether a picture shows a prompt.
        scale: of its verdicts.
    """

    judge: Judge
    scale: Scale = Scale()

    def examine(self, sample: BenchmarkPrompt, image: Image) -> Verdict | JudgeFailure:
        """The judge's answer to the prompt's words."""
        return self.judge(sample.prompt, image)

    def describe(self) -> dict[str, Any]:
        """The judge's name, or its type where it has none."""
        return {"judge": str(getattr(self.judge, "name", type(self.judge).__qualname__))}
