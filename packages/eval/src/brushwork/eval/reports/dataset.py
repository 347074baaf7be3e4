"""A data set that `lightning build` wrote, as its page shows it: statistics, charts, and a fair gallery of samples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from brushwork.data.manifest import statistics_table
from brushwork.eval.reports import charts
from brushwork.eval.reports.gallery import data_uri
from brushwork.eval.reports.survey import (
    NUM_EXAMPLES,
    Survey,
    class_of,
    example_rejects,
    find_splits,
    read_manifest,
    survey,
)
from brushwork.tokens.trajectory import Inspection, Plan, Trajectory

MAX_CARDS = 400
"""Samples in the gallery at most, should a corpus have hundreds of kinds."""
MAX_REASONS = 20
MAX_BINS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One draft as the page shows it; it keeps no picture but the small one.

    Attributes:
        source: the picture as a data URI.
        name: which draft of which step.
        inspection: what was said of it.
        flawed: it holds a planted error.
        plan: the plan that it begins to carry out; None for its refinements and in a single pass.
        refines: the corrective instruction that it answers; empty for the first draft of a step.
        dangles: its own corrective instruction is answered by no draft.
        final: it is the answer.
    """

    source: str
    name: str
    inspection: Inspection | None
    flawed: bool
    plan: Plan | None
    refines: str
    dangles: bool
    final: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One sample of the gallery; `plans` are those written before anything was drawn."""

    key: str
    split: str
    kind: str
    label: str
    prompt: str
    finished: bool
    flawed_plans: int
    flawed_drafts: int
    plans: tuple[Plan, ...]
    frames: tuple[Frame, ...]


def dataset_context(dataset: str | Path, gallery_per_kind: int, seed: int) -> dict[str, Any]:
    """Reads a folder of shards and answers all that the template asks for but date and command.

    Args:
        dataset: a folder that `lightning build` wrote, finished or not, or any other folder of shards.
        gallery_per_kind: samples in the gallery of each split, kind and label, where there are as many.
        seed: of what is read and shown; the same folder and seed give the same page.

    Raises:
        FileNotFoundError: no such folder, or no shards in it.
        ValueError: a negative seed or size of the gallery.
    """
    if min(seed, gallery_per_kind) < 0:
        raise ValueError(f"seed={seed}, gallery_per_kind={gallery_per_kind}: expected 0 or more")
    folder = Path(dataset)
    known, build = read_manifest(folder)
    generators = {split: np.random.default_rng([seed, *split.encode()]) for split in find_splits(folder)}
    surveys = survey(folder, known, generators)
    cards, num_classes = draw_cards(surveys, generators, gallery_per_kind)
    totals = {"splits": {one.split: vars(one.report) for one in surveys}}
    table = statistics_table(totals)
    counts = sum((one.report.rejected for one in surveys), Counter())
    return {
        "folder": str(dataset),
        "name": folder.resolve().name or str(dataset),
        "subsets": sorted({name for one in surveys for name in one.report.subsets}),
        "surveys": surveys,
        "headers": [str(column.header) for column in table.columns],
        "rows": list(zip(*(map(str, column.cells) for column in table.columns), strict=True)),
        "panels": [panels(one, number) for number, one in enumerate(surveys)],
        "rejects": example_rejects(folder, counts),
        "reasons": [one.unreadable.most_common(MAX_REASONS) for one in surveys],
        "cards": cards,
        "num_classes": num_classes,
        "gallery_per_kind": gallery_per_kind,
        "seed": seed,
        "max_cards": MAX_CARDS,
        "num_examples": NUM_EXAMPLES,
        "choices": {name: list(dict.fromkeys(getattr(card, name) for card in cards)) for name in ("split", "kind")}
        | {"label": sorted({card.label for card in cards})},
        **build,
    }


def panels(one: Survey, number: int) -> list[tuple[str, Markup]]:
    """The charts of a split, each with its title; none of what no sample has."""
    found: list[tuple[str, Markup]] = []
    for title, lengths in (("images a sample", one.rounds), ("words a prompt", one.words)):
        if lengths:
            found.append((title, charts.columns(binned(lengths), number, f"samples by {title}")))
    for title, counts in (
        ("samples of each kind", one.report.kinds),
        ("samples of each label", one.report.labels),
        ("operations of the plans", one.operations),
        ("planted flaws", one.flaws),
    ):
        if counts:
            found.append((title, charts.ranking(counts, number, title)))
    return found


def binned(counts: Mapping[int, int]) -> list[tuple[str, int]]:
    """Counts of whole numbers in at most `MAX_BINS` + 1 bins of one round width, the empty ones between them too."""
    low, high = min(counts), max(counts)
    width = next(w * 10**power for power in range(20) for w in (1, 2, 5) if high - low < MAX_BINS * w * 10**power)
    bins = Counter[int]()
    for value, number in counts.items():
        bins[value // width] += number
    return [
        (f"{place * width}" if width == 1 else f"{place * width}–{(place + 1) * width - 1}", bins[place])
        for place in range(low // width, high // width + 1)
    ]


def draw_cards(
    surveys: Sequence[Survey], generators: Mapping[str, np.random.Generator], per_kind: int
) -> tuple[list[Card], int]:
    """The gallery, and of how many combinations of split, kind and label it was drawn.

    What turns out to be unreadable is counted and the next sample taken in its place.
    """
    classes = [(one, kind, label) for one in surveys for kind, label in sorted(one.groups)]
    queues = [iter(generators[one.split].permutation(one.groups[kind, label])) for one, kind, label in classes]
    drawn: list[tuple[int, Card]] = []
    for _ in range(per_kind):  # round by round, so that a limit costs every class the same
        for place, (one, _, _) in enumerate(classes):
            if len(drawn) == MAX_CARDS:
                break
            assert one.shards is not None, "it has samples"
            for number in queues[place]:
                sample = one.shards[int(number)]
                if isinstance(sample, Trajectory):
                    drawn.append((place, make_card(one.split, sample)))
                    break
                one.reject(sample)
    return [card for _, card in sorted(drawn, key=lambda pair: pair[0])], len(classes)


def make_card(split: str, sample: Trajectory) -> Card:
    """A sample ready to be shown."""
    plans = [step.plan for step in sample.steps if step.plan is not None]
    # In a text plan all plans stand together ahead of the only picture, elsewhere each before its own.
    ahead = any(not step.drafts for step in sample.steps)
    frames: list[Frame] = []
    num_drafts = sum(1 for _ in sample.drafts)
    for place, step in enumerate(sample.steps, start=1):
        refines = ""
        for number, draft in enumerate(step.drafts, start=1):
            asked = draft.inspection.refine if draft.inspection else ""
            frames.append(
                Frame(
                    source=data_uri(draft.image),
                    name=f"draft {number} of step {place}",
                    inspection=draft.inspection,
                    flawed=draft.flawed,
                    plan=step.plan if number == 1 and not ahead else None,
                    refines=refines,
                    dangles=bool(asked) and number == len(step.drafts),
                    final=sample.finished and len(frames) + 1 == num_drafts,
                )
            )
            refines = asked
    kind, label = class_of(sample)
    return Card(
        key=sample.key,
        split=split,
        kind=kind,
        label=label,
        prompt=sample.prompt,
        finished=sample.finished,
        flawed_plans=sum(plan.flawed for plan in plans),
        flawed_drafts=sum(draft.flawed for draft in sample.drafts),
        plans=tuple(plans) if ahead else (),
        frames=tuple(frames),
    )
