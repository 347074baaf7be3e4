"""What each arm of a report was asked, drawn with and judged by, and where the arms differ in what should be equal."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from brushwork.eval.reports.budgets import benchmark_of
from brushwork.eval.reports.runs import Run

STEPS = {"num_steps", "steps", "num_timesteps"}
GUARDED = {"text_scale", "image_scale", "guidance", "guidance_scale", "image_size", "size"}
"""Last words of a sampler's settings that two arms should share where both tell them; so with the steps of an image."""
FINGERPRINT = "sampler.fingerprint"


def asked(run: Run) -> dict[str, tuple[str, int | None]]:
    """Key → (words, seed) of every prompt of the run, drawn or not."""
    samples = run.samples.get("samples", [])
    if samples:
        return {sample["key"]: (sample["prompt"], sample.get("seed")) for sample in samples}
    return {row.key: (row.prompt, row.seed) for row in run.rows}


def arm_settings(run: Run) -> dict[str, Any]:
    """All that is known of how an arm came about, JSON-able, for `results.json`."""
    prompts = asked(run)
    words = json.dumps(sorted((key, prompt) for key, (prompt, _) in prompts.items()))
    distinct = len({prompt for prompt, _ in prompts.values()})
    seeds = [seed for _, seed in prompts.values() if seed is not None]
    return {
        "benchmark": run.scored.get("benchmark") or {"benchmark": benchmark_of(run)},
        "prompts": {
            "num": len(prompts),
            "distinct": distinct,
            "digest": hashlib.sha256(words.encode()).hexdigest()[:8],
        },
        "seeds": {"distinct": len(set(seeds)), "first": seeds[0]} if seeds else {},
        "judge": run.scored.get("judge") or {"judge": judges(run)},
        "sampler": run.scored.get("sampler") or {"fingerprint": run.samples.get("sampler", "")},
        "predicted": {"command": run.samples.get("command", ""), "machine": run.samples.get("machine", {})},
        "judged": {name: run.scored[name] for name in ("date", "command", "machine") if name in run.scored},
    }


def judges(run: Run) -> str:
    """Names and versions of those who judged."""
    return ", ".join(sorted({row.judge for row in run.rows if row.judge}))


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted name, value in words)."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def setting_rows(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(setting, value of each arm) for benchmark, prompts, seeds, judge and sampler; empty where an arm tells none."""
    parts = ("benchmark", "prompts", "seeds", "judge", "sampler")
    of_arms = [dict(flat({part: arm_settings(run)[part] for part in parts})) for run in runs]
    names = dict.fromkeys(name for settings in of_arms for name in settings)
    if any(name.startswith("sampler.") and name != FINGERPRINT for name in names):
        names.pop(FINGERPRINT, None)  # the same once more, in one line
    return [(shortened(name), [settings.get(name, "") for settings in of_arms]) for name in names]


def shortened(name: str) -> str:
    """`judge.judge` is plainly the judge."""
    first, _, rest = name.partition(".")
    return first if first == rest else name


def inequalities(runs: Sequence[Run]) -> list[str]:
    """A sentence for everything that should be equal in all arms and is not; it stands at the top of the report."""
    sentences = [*unequal_prompts(runs)]
    told = {"judge": [judges(run) for run in runs], "steps of an image": [steps_of_image(run) for run in runs]}
    for name, values in setting_rows(runs):
        part, _, rest = name.partition(".")
        is_guarded = part in ("benchmark", "judge") or (part == "sampler" and last_word(name) in GUARDED)
        if is_guarded and rest != "":
            told[name] = values
    for name, values in told.items():
        holders: dict[str, list[str]] = {}
        for run, value in zip(runs, values, strict=True):
            if value:
                holders.setdefault(value, []).append(f"“{run.name}”")
        if len(holders) > 1:
            listed = "; ".join(f"{value} in {', '.join(names)}" for value, names in holders.items())
            sentences.append(f"Unequal {name}: {listed}.")
    return sentences


def unequal_prompts(runs: Sequence[Run]) -> Iterator[str]:
    """Where arms were asked other prompts than the first, in other words or with other seeds."""
    first, *others = runs
    known = asked(first)
    for run in others:
        own, names = asked(run), f"“{first.name}” and “{run.name}”"
        shared = known.keys() & own.keys()
        if own.keys() != known.keys():
            yield f"Unequal prompts: {names} share {len(shared)}; {len(known)} and {len(own)} were asked."
        reworded = sum(known[key][0] != own[key][0] for key in shared)
        if reworded:
            yield (
                f"Unequal words: {names} were asked {reworded} prompts in different words under the same keys, as the "
                "short and the long prompts of GenEval are; their scores are not comparable, and such prompts are not "
                "paired."
            )
        reseeded = sum(known[key][1] != own[key][1] for key in shared)
        if reseeded:
            yield f"Unequal seeds: {names} drew {reseeded} of {len(shared)} prompts with different seeds."


def steps_of_image(run: Run) -> str:
    """Denoising steps of one image, as the sampler's settings say; else as its costs tell; else empty."""
    told = [value for name, value in flat(arm_settings(run)["sampler"]) if last_word(name) in STEPS]
    if told:
        return told[0]
    counted = [row for row in run.rows if row.cost.get("denoise_steps") and (row.cost.get("images") or row.rounds)]
    images = sum(row.cost.get("images") or row.rounds for row in counted)
    return f"{sum(row.cost['denoise_steps'] for row in counted) / images:.3g}" if images else ""


def last_word(name: str) -> str:
    """The setting's own name."""
    return name.rpartition(".")[2]
