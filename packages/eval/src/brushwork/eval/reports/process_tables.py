"""The report's tables beside the scores: what an answer cost, how the process went, what each arm was run with."""

from collections.abc import Mapping, Sequence

from brushwork.eval.reports.runs import Run
from brushwork.eval.reports.settings import setting_rows
from brushwork.eval.reports.summary import ArmSummary, Summary
from brushwork.eval.reports.tables import NONE, Cell, Table, TableRow, number, rate, words
from brushwork.eval.statistics import Interval, wilson

COSTS = {
    "images": ("images sampled", 2),
    "denoise_steps": ("denoising steps", 1),
    "model_forwards": ("model forwards", 1),
    "text_tokens": ("text tokens", 1),
    "external_calls": ("external calls", 2),
    "seconds": ("seconds", 3),
    "peak_memory_mib": ("peak memory, MiB", 0),
}
"""Term of `cost_summary` → head and digits of its column."""
TRAINING = {"steps": 0, "minutes": 1}
"""What the training log tells → digits."""


def cost_table(summary: Summary) -> Table:
    """What an answer cost, term by term; a term that no arm tells has no column."""
    told = {term: how for term, how in COSTS.items() if any(term in arm.cost for arm in summary.arms)}
    trained = {name: digits for name, digits in TRAINING.items() if any(name in arm.training for arm in summary.arms)}
    rows = tuple(
        TableRow(
            label=words(arm.name),
            arm=place,
            cells=(
                number(arm.cost["rounds"].mean if "rounds" in arm.cost else None, 2),
                *(cost_cell(arm, term, digits) for term, (_, digits) in told.items()),
                number(arm.paper_cost, 0),
                *(number(arm.training.get(name), digits) for name, digits in trained.items()),
            ),
        )
        for place, arm in enumerate(summary.arms)
    )
    heads = ("arm", "images in the answer", *(head for head, _ in told.values()), "paper's unit")
    notes = (
        "Means per answer, behind them the standard deviation over prompts, as measured while sampling. Seconds are "
        "shares of a batch's wall time; of peak memory the largest is given. Images sampled: rejected candidates "
        "included. Model forwards count each branch of guidance. External calls: planners, inspectors, verifiers and "
        "endpoints outside the model. Paper's unit: 50 × images sampled. Training is what the log tells.",
    )
    return Table(
        title="Cost of an answer", columns=(*heads, *(f"training {name}" for name in trained)), rows=rows, notes=notes
    )


def cost_cell(arm: ArmSummary, term: str, digits: int) -> Cell:
    """One term of an arm with its spread, and over how many answers where not all tell it."""
    cost = arm.cost.get(term)
    if cost is None:
        return Cell(text=NONE)
    if cost.per_image is None:  # peak memory does not add up
        return number(cost.total, digits)
    small = [f"± {cost.deviation:,.{digits}f}"] if cost.deviation else []
    answered = arm.cost["rounds"].num
    return Cell(
        text=f"{cost.mean:,.{digits}f}", small=(*small, *([f"{cost.num} of {answered}"] * (cost.num < answered)))
    )


def inspection_table(summary: Summary) -> Table:
    """How well the arms see and mend the errors in their own drafts."""
    rows = []
    for place, arm in enumerate(summary.arms):
        seen, mended, spoilt = (arm.process[name] for name in ("inspection", "refine_success", "over_correction"))
        unread = (f"{arm.num_unjudged_drafts} more not judged",) if arm.num_unjudged_drafts else ()
        cells = (
            Cell(text=f"{seen['drafts']:.0f}", small=unread),
            Cell(text=f"{seen['wrong']:.0f}"),
            Cell(text=f"{seen['flagged']:.0f}"),
            rate(share(seen["flagged_wrong"], seen["flagged"])),
            rate(share(seen["flagged_wrong"], seen["wrong"])),
            number(seen["f1"], 2),
            rate(share(mended["mended"], mended["refined_wrong"]), of=True),
            rate(share(spoilt["spoilt"], spoilt["refined_right"]), of=True),
        )
        if not seen["drafts"] and not unread:
            cells = (Cell(text="inspects nothing"), *(Cell(text=NONE) for _ in cells[1:]))
        rows.append(TableRow(label=words(arm.name), arm=place, cells=cells))
    heads = ("arm", "inspected drafts", "wrong", "objected to", "precision", "recall", "F1", "mended", "over-corrected")
    notes = (
        "On the models' own drafts. Truth is the judge: does the draft show what has been planned so far, or, without "
        "any plan, what the prompt asks for? Precision: "
        "of the drafts that the inspection objects to, how many are wrong. Recall: of the wrong drafts, how many it "
        "objects to. Mended: of the wrong drafts that were redrawn on its word, how many became right. Over-corrected: "
        "of the right drafts that were redrawn, how many became wrong. Drafts whose plan the judge cannot read are "
        "left out, and counted as not judged.",
    )
    return Table(title="Inspection", columns=heads, rows=tuple(rows), notes=notes)


def step_table(summary: Summary) -> Table:
    """Plans against prompts, drafts against plans, what stays and what is lost on the way, and how answers end."""
    rows = []
    for place, arm in enumerate(summary.arms):
        plans, kept, held = (arm.process[name] for name in ("plan_consistency", "survival", "retention"))
        ends = {name: arm.process["outcome"][name] for name in ("unfinished", "wrong", "no_image", "unjudged")}
        cells = (
            rate(share(plans["clean"], plans["trajectories"]), of=True),
            rate(total(agreement(arm, "first"))),
            rate(total(agreement(arm, "last"))),
            rate(share(kept["survived"], kept["stood"])),
            rate(share(held["first"], held["trajectories"])),
            rate(share(held["peak"], held["trajectories"])),
            rate(share(held["final"], held["trajectories"])),
            rate(share(held["regressions"], held["passing"]), of=True),
            Cell(text=", ".join(f"{count:.0f} {words(name)}" for name, count in ends.items() if count) or NONE),
            Cell(text=", ".join(f"{count} {words(reason)}" for reason, count in arm.stopped.items()) or NONE),
        )
        rows.append(TableRow(label=words(arm.name), arm=place, cells=cells))
    heads = (
        "arm", "plans keep to the prompt", "first draft shows the plans", "last draft shows the plans", "objects stay",
        "first draft passes", "some draft passes", "last draft passes", "passed, then lost", "not passed", "stopped by",
    )  # fmt: skip
    notes = (
        "Plans keep to the prompt: answers without a plan that contradicts it. First and last draft: of each step, by "
        "the plans so far. Objects stay: of those that should stand from one draft to the next. First, some, last "
        "draft passes: as the answer, of trajectories all of whose drafts were judged. Unfinished: nothing is wrong, "
        "something is missing.",
    )
    return Table(title="Plans and drafts", columns=heads, rows=tuple(rows), notes=notes)


def share(part: int | float, whole: int | float) -> Interval:
    """A share of things that were counted, with its interval."""
    return wilson(round(part), round(whole))


def agreement(arm: ArmSummary, which: str) -> dict[int, Interval]:
    """Step, counted from 1 → how often its first or last draft shows the plans so far."""
    found = arm.process["plan_agreement"]
    return by_step(found, f"{which}_rate_step_", f"{which}_drafts_step_")


def by_step(found: Mapping[str, float], rates: str, counts: str) -> dict[int, Interval]:
    """The entries of a metric's vectors by their numbers, where there is a case."""
    numbered = {int(name.removeprefix(counts)): round(num) for name, num in found.items() if name.startswith(counts)}
    return {step: share(found[f"{rates}{step}"] * num, num) for step, num in sorted(numbered.items()) if num}


def total(steps: Mapping[int, Interval]) -> Interval:
    """All steps together."""
    num = sum(interval.num for interval in steps.values())
    return share(sum(interval.estimate * interval.num for interval in steps.values()), num)


def settings_table(runs: Sequence[Run]) -> Table:
    """A row a setting, a column an arm; a setting that is the same in all is given once."""
    rows = []
    for name, values in setting_rows(runs):
        if any(values):
            cells = [Cell(text=value or NONE) for value in values]
            if len(runs) > 1 and len(set(values)) == 1:
                cells = [cells[0], *(Cell(text="″") for _ in values[1:])]
            rows.append(TableRow(label=name, cells=tuple(cells)))
    heads = ("setting", *(words(run.name) for run in runs))
    return Table(title="Settings", columns=heads, rows=tuple(rows), notes=("″: as in the first arm.",))
