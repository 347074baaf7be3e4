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
    """How a run was sampled, whatever the model folder and what must be as in training."""
    lines = told(run, "predict", "sampler").splitlines()
    return "\n".join(line for line in lines if line.partition(":")[0].strip() not in {"folder", *AS_TRAINED})


def as_trained(fit: str) -> str:
    """The overrides with which `predict` draws as a run was trained, from the text of its `fit.yaml`."""
    trained = {name: setting(fit, "segmenter", name) for name in AS_TRAINED}
    return "".join(
        f" sampler.sampling.{name}={value}" for name, value in trained.items() if value not in ("", AS_TRAINED[name])
    )


BUDGETS: dict[str, Callable[[Run], str]] = {
    "max_steps": lambda run: told(run, "fit", "trainer", "max_steps"),
    "max_time": lambda run: told(run, "fit", "trainer", "max_time"),
    "model": lambda run: told(run, "fit", "model"),
    "sampler": sampling,
    "prompts": asked,
    "judge": lambda run: ", ".join(sorted({row.judge for row in run.rows if row.judge})),
}
"""What must be the same in all rows, and where a run tells it."""


def inequalities(rows: Mapping[str, Sequence[Run]]) -> list[str]:
    """A sentence for each budget that the rows, by their labels, do not share or do not tell."""
    sentences = []
    for name, told_by in BUDGETS.items():
        holders: dict[str, list[str]] = {}
        for label in rows:
            for value in dict.fromkeys(told_by(run) for run in rows[label]):
                holders.setdefault(value, []).append(label)
        if len(holders) == 1 and "" not in holders:
            continue
        shared = set.intersection(*(set(value.splitlines()) for value in holders))
        parts = []
        for value, labels in holders.items():
            own = ", ".join(line.strip() for line in value.splitlines() if line not in shared)
            parts.append(f"{own or 'not told'} in “{'”, “'.join(labels)}”")
        sentences.append(f"Unequal {name}: {'; '.join(parts)}.")
    return sentences + [sentence for label, runs in rows.items() for sentence in misdrawn(label, runs)]


def misdrawn(label: str, runs: Iterable[Run]) -> list[str]:
    """A sentence for each setting that some run of a row was trained with and not sampled with."""
    pairs = [
        (name, told(run, "fit", "segmenter", name), told(run, "predict", "sampler", "sampling", name))
        for run in runs
        for name in AS_TRAINED
    ]
    return [
        f"“{label}” was trained with {name}={trained} and sampled with {name}={drawn}."
        for name, trained, drawn in dict.fromkeys(pairs)
        if trained and drawn and trained != drawn
    ]


def benchmark_of(run: Run) -> str:
    """What the run answered, in words."""
    target = told(run, "predict", "benchmark", "_target_").rpartition(".")[2]
    return {"ShapesBenchmark": "the embedded world", "": "a benchmark that the runs do not name"}.get(target, target)
