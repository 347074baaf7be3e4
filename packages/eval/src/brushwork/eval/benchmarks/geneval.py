"""GenEval (Ghosh et al. 2023, arXiv:2310.11513): its prompts, and its examiner of pictures.

Verdicts follow the official evaluator rule for rule; the detector is a counterpart of the official one (see
`Mask2FormerDetector`), so that scores are told together with the detector's name.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.eval.benchmark import BenchmarkPrompt, Scale
from brushwork.eval.benchmarks.geneval_folder import keys_of, walk, write_official
from brushwork.eval.benchmarks.geneval_prompts import PROMPT_SETS, TAGS, object_names, parse_request, read_metadata
from brushwork.eval.benchmarks.geneval_rules import OFFICIAL, Detection, Kept, Options, keep, shortcomings
from brushwork.eval.verdicts import ScoredTrajectory
from brushwork.tokens.trajectory import Image

log = logging.getLogger(__name__)

SCALE = Scale(kinds=TAGS, unit="prompt")
"""The pictures of a prompt are no independent trials."""
MAX_IMAGES = 1000
"""Of a prompt: a seed is 1000 x the prompt's number + the image's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenEval:
    """553 prompts of six tasks, each drawn four times.

    Attributes:
        prompt_set: "short" (the official one), "long" (BAGEL's rewriting, four to eight points easier), or the path of
            a metadata file of the same form.
        images_per_prompt: 1 to 1000; officially 4.
        seed: 1 more is another seed for every picture.
        folder: pictures in the official layout: then these are asked for, as the official evaluator finds them, with
            the prompts that lie beside them.
    """

    prompt_set: str = "short"
    images_per_prompt: int = 4
    seed: int = 0
    folder: str | None = None

    def prompts(self) -> list[BenchmarkPrompt]:
        """One for each picture, in the official order; a picture's seed depends on no setting but `seed`.

        Raises:
            FileNotFoundError: no such prompt set or folder, or the folder is incomplete.
            ValueError: metadata that are not of the official form, a number of images that is out of range, or a folder
                without pictures.
        """
        if not 1 <= self.images_per_prompt <= MAX_IMAGES:
            raise ValueError(f"images_per_prompt is {self.images_per_prompt}; expected 1 to {MAX_IMAGES}")
        if self.folder is not None:
            return self._found(Path(self.folder))
        return [
            BenchmarkPrompt(
                key=f"{number:05d}-{sample:05d}",
                prompt=metadata["prompt"],
                kind=metadata["tag"],
                seed=(self.seed * 1_000_000 + number * MAX_IMAGES + sample) % 2**31,
                record=metadata,
                file=f"{number:05d}/samples/{sample:05d}.png",
            )
            for number, metadata in enumerate(read_metadata(self.prompt_set))
            for sample in range(self.images_per_prompt)
        ]

    def _found(self, folder: Path) -> list[BenchmarkPrompt]:
        found = walk(folder)
        if not found:
            raise ValueError(
                f"{folder} holds no picture; expected {folder / '00000' / 'samples' / '00000.png'} and others"
            )
        asked = [metadata["prompt"] for metadata in read_metadata(self.prompt_set)]
        there = Counter(metadata["prompt"] for _, metadata in found)
        lacking = Counter(asked * self.images_per_prompt) - there
        if lacking:
            log.warning(
                "%s holds %d pictures of %d prompts; of the set %r, %d prompts x %d pictures, it lacks %d pictures of "
                "%d prompts, which the official score leaves out",
                folder, len(found), len(there), self.prompt_set, len(asked), self.images_per_prompt,
                lacking.total(), len(lacking),
            )  # fmt: skip
        keys = keys_of(file for file, _ in found)
        return [
            BenchmarkPrompt(
                key=key, prompt=metadata["prompt"], kind=metadata["tag"], seed=number, record=metadata, file=file
            )
            for number, (key, (file, metadata)) in enumerate(zip(keys, found, strict=True))
        ]

    def describe(self) -> dict[str, Any]:
        """The settings: scores of two prompt sets cannot be compared. Of a folder it is told which set lies in it."""
        there = {"prompt_set": self._set_found(Path(self.folder))} if self.folder is not None else {}
        return {"benchmark": "geneval", **asdict(self), **there}

    def _set_found(self, folder: Path) -> str:
        found = {metadata["prompt"] for _, metadata in walk(folder)}
        for name in dict.fromkeys((self.prompt_set, *PROMPT_SETS)):
            if found <= {metadata["prompt"] for metadata in read_metadata(name)}:
                return name
        return "the folder's own"


@runtime_checkable
class Detector(Protocol):
    """Finds the objects of a picture."""

    def __call__(self, image: Image) -> list[Detection]:
        """All that it sees, weak candidates included, in GenEval's class names."""
        ...

    def describe(self) -> dict[str, Any]:
        """Model and settings, JSON-able."""
        ...


@runtime_checkable
class ColorNamer(Protocol):
    """Names the colours of objects."""

    def __call__(self, name: str, image: Image, objects: Sequence[Detection]) -> list[str]:
        """The colour of each object, one of `COLORS`; all are of the class `name`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Model and settings, JSON-able."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GenEvalExaminer:
    """Judges a picture by the objects that a detector finds in it, and by their colours and places.

    The reason is the official one, hence empty where a picture passes. A picture is unfinished where it lacks objects
    and shows nothing wrong.

    Attributes:
        detector: finds the objects.
        colors: names their colours; asked only where a colour decides.
        options: thresholds; the official ones by default.
        scale: passed or not; the overall score is the mean of the tasks' scores.
    """

    detector: Detector
    colors: ColorNamer
    options: Options = OFFICIAL
    scale: Scale = SCALE

    def __post_init__(self) -> None:
        """See that the detector tells all objects that count.

        Raises:
            ValueError: it leaves out some that the thresholds would let in.
        """
        floor = getattr(self.detector, "floor", 0.0)
        least = min(self.options.threshold, self.options.counting_threshold)
        if floor > least:
            raise ValueError(f"the detector's floor {floor:g} is above the threshold {least:g}; expected at most that")

    def examine(self, sample: BenchmarkPrompt, image: Image) -> Verdict | JudgeFailure:
        """The official verdict; `details` hold the objects that count, as class → [left, top, right, bottom, score].

        Raises:
            ValueError: the sample is none of GenEval's.
            ImportError, FileNotFoundError: a model cannot be loaded.
        """
        if "tag" not in sample.record:
            raise ValueError(
                f"prompt {sample.key} has no clauses; expected one of GenEval: predict with benchmark=geneval, or "
                "choose a judge of any prompt, such as judge=llm"
            )
        request = parse_request(sample.record)
        kept = keep(self.detector(image), request.tag, self.options)
        wrong = shortcomings(request, kept, lambda name, objects: self.colors(name, image, objects), self.options)
        return Verdict(
            passed=not wrong,
            score=float(not wrong),
            reason="\n".join(one.text for one in wrong),
            judge="geneval/1",
            unfinished=bool(wrong) and all(one.missing for one in wrong),
            details={"kept": _listed(kept)},
        )

    def describe(self) -> dict[str, Any]:
        """Version, detector, colours, thresholds."""
        return {
            "judge": "geneval/1",
            "detector": self.detector.describe(),
            "colors": self.colors.describe(),
            "options": asdict(self.options),
        }

    def write_official(
        self, rows: Sequence[ScoredTrajectory], samples: Sequence[BenchmarkPrompt], folder: Path
    ) -> None:
        """Write the official results file and summary into a folder, see `geneval_folder.write_official`."""
        write_official(rows, samples, folder)


def _listed(kept: Kept) -> dict[str, list[list[float]]]:
    """The objects as the official details list them: classes in the detector's order, scores in single precision."""
    order = {name: number for number, name in enumerate(object_names())}
    return {
        name: [[*map(float, one.box), float(np.float32(one.score))] for one in kept[name]]
        for name in sorted(kept, key=lambda name: order.get(name, len(order)))
    }
