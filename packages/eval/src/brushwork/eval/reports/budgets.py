"""Whether runs may be compared: the budgets, settings and prompts that they tell, and where these differ."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import dedent

from brushwork.eval.reports.runs import Run

AS_TRAINED = {"context": "both", "history": "full"}
"""What sampling must share with training, `segmenter` there and `sampler.sampling` here, with the usual choice."""


def setting(text: str, *keys: str) -> str:
    """The value under nested keys of a YAML file as the command writes it, as text; empty where there is none."""
    for key in keys:
        found = re.search(rf"^{re.escape(key)}:(.*(?:\n[ -].*)*)", text, flags=re.MULTILINE)
        text = dedent(found[1].lstrip("\n")).strip() if found else ""
    return text


def asked(run: Run) -> str:
    """How many prompts a run was asked, and a digest of them and their seeds."""
    prompts = sorted((row.key, row.prompt, row.seed) for row in run.rows)
    digest = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:8]
    failures = sum(row.passed is None for row in run.rows)
    return f"{len(prompts)} (digest {digest}){f', {failures} without a verdict' if failures else ''}"


def told(run: Run, verb: str, *keys: str) -> str:
    """A setting of the command with this verb that made the run."""
    return setting(run.settings.get(f"{verb}.yaml", ""), *keys)


def sampling(run: Run) -> str:
    """How a run was sampled, whatever the model folder and what must be as in training; without indentation."""
    return without(told(run, "predict", "sampler"), "folder", *AS_TRAINED)


def without(text: str, *keys: str) -> str:
    """The lines of a YAML text without indentation, but for those of these keys."""
    lines = [line.strip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line.partition(":")[0] not in keys)


def as_trained(fit: str) -> str:
    """The overrides with which `predict` draws as a run was trained, from the text of its `fit.yaml`."""
    trained = {name: setting(fit, "segmenter", name) for name in AS_TRAINED}
    return "".join(
        f" sampler.sampling.{name}={value}" for name, value in trained.items() if value not in ("", AS_TRAINED[name])
    )


BUDGETS: dict[str, Callable[[Run], str]] = {
    "max_steps": lambda run: told(run, "fit", "trainer", "max_steps"),
    "max_time": lambda run: told(run, "fit", "trainer", "max_time"),
    "model": lambda run: without(told(run, "fit", "model"), "base"),  # a folder that the run writes
    "sampler": sampling,
    "benchmark": lambda run: without(told(run, "predict", "benchmark")),
    "prompts": asked,
    "judge": lambda run: ", ".join(sorted({row.judge for row in run.rows if row.judge})),
}
"""What must be the same in all rows, and where a run tells it."""


def budgets(run: Run) -> dict[str, str]:
    """What the run tells of each of `BUDGETS`."""
    return {name: told_by(run) for name, told_by in BUDGETS.items()}


def as_drawn(run: Run) -> dict[str, tuple[str, str]]:
    """Each of `AS_TRAINED` as the run was trained with it and as it was sampled with it."""
    return {
        name: (told(run, "fit", "segmenter", name), told(run, "predict", "sampler", "sampling", name))
        for name in AS_TRAINED
    }


def inequalities(rows: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
    """A sentence for each budget that the rows do not share or do not tell.

    Args:
        rows: label → `budgets` of its runs; those that are left out are not compared.
    """
    sentences = []
    for name in BUDGETS:
        holders: dict[str, list[str]] = {}
        for label, runs in rows.items():
            for value in dict.fromkeys(run[name] for run in runs if name in run):
                holders.setdefault(value, []).append(label)
        if len(holders) == 1 and "" not in holders:
            continue
        shared = set.intersection(*(set(value.splitlines()) for value in holders))
        parts = []
        for value, labels in holders.items():
            own = ", ".join(line.strip() for line in value.splitlines() if line not in shared)
            parts.append(f"{own or 'not told'} in “{'”, “'.join(labels)}”")
        sentences.append(f"Unequal {name}: {'; '.join(parts)}.")
    return sentences


def misdrawn(label: str, runs: Iterable[Mapping[str, Sequence[str]]]) -> list[str]:
    """A sentence for each setting, see `as_drawn`, that some run of a row was trained with and not sampled with."""
    pairs = dict.fromkeys((name, *pair) for run in runs for name, pair in run.items())
    return [
        f"“{label}” was trained with {name}={trained} and sampled with {name}={drawn}."
        for name, trained, drawn in pairs
        if trained and drawn and trained != drawn
    ]


def benchmark_of(run: Run) -> str:
    """What the run answered, in words."""
    target = told(run, "predict", "benchmark", "_target_").rpartition(".")[2]
    return {"ShapesBenchmark": "the embedded world", "": "a benchmark that the runs do not name"}.get(target, target)
