"""An ablation study: the judged runs of its rows against the first one, beside the paper's table where it has one."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from brushwork.eval.reports.budgets import as_trained, inequalities, misdrawn
from brushwork.eval.reports.run_summary import RunSummary, read_summary, summarise_run
from brushwork.eval.reports.runs import load_run
from brushwork.eval.reports.study_scores import Outcomes, difference, outcomes, rate
from brushwork.eval.statistics import Interval, Spread, over_runs, pooled_spread, wilson
from brushwork.eval.verdicts import VERDICTS_FILE

OVERALL = "overall"
EQUAL = "overall, equal exposure"
EQUAL_KINDS = ("two_objects", "position", "color_attribution", "chain")
"""Kinds of which drafts on the way show no more that is held out than finished scenes do, see `ShapesWorld`."""
COLUMNS = {"counting": "counting", "colors": "color", "position": "position", "color_attribution": "color attr."}
"""Kind of prompt → the paper's name of its column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRow:
    """A row of a study before anything has run.

    Attributes:
        option: of `ablation`, which is also the folder of its runs.
        label: the paper's name of the row, or ours.
        paper: kind → the paper's score; empty where the paper has no such row.
    """

    option: str
    label: str
    paper: Mapping[str, float] = field(default_factory=dict)


def paper_table(kinds: Sequence[str], *rows: tuple[str, str, Sequence[float]]) -> tuple[StudyRow, ...]:
    """Rows (option, label, scores in the order of the kinds) as the paper prints them."""
    return tuple(
        StudyRow(option=option, label=label, paper=dict(zip(kinds, scores, strict=True)))
        for option, label, scores in rows
    )


def knob(**labels: str) -> tuple[StudyRow, ...]:
    """Rows that the paper does not have, by their options."""
    return tuple(StudyRow(option=option, label=label) for option, label in labels.items())


STUDIES: dict[str, tuple[StudyRow, ...]] = {
    "augmentation": paper_table(
        ("colors", "position", "color_attribution"),
        ("plain_multi_turn_only", "without augmentation", (0.81, 0.58, 0.50)),
        ("no_augmentation", "without augmentation, with self-critique", (0.84, 0.61, 0.53)),
        ("multi_turn_only", "with augmentation", (0.82, 0.67, 0.62)),
        ("all_subsets", "with augmentation, with self-critique", (0.87, 0.72, 0.69)),
    ),
    "critique": paper_table(
        ("colors", "position", "color_attribution"),
        ("multi_turn_only", "baseline (none)", (0.82, 0.67, 0.62)),
        ("scene_graph_critique", "+ scene-graph (symbolic correction)", (0.83, 0.70, 0.67)),
        ("all_subsets", "+ self-sampling", (0.87, 0.72, 0.69)),
    ),
    "supervision": paper_table(
        ("counting", "colors", "position", "color_attribution"),
        ("multi_turn_only", "baseline", (0.61, 0.84, 0.66, 0.62)),
        ("conflict_only", "+ instruction-intermediate conflict", (0.62, 0.85, 0.71, 0.65)),
        ("alignment_only", "+ image-instruction alignment", (0.73, 0.86, 0.69, 0.65)),
        ("all_subsets", "with both", (0.75, 0.87, 0.72, 0.69)),
    ),
    "lambda_ce": knob(
        all_subsets="text and picture losses weigh the same",
        lambda_ce_quarter="text loss × 0.25",
        lambda_ce_double="text loss × 2",
    ),
    "flawed_drafts": knob(all_subsets="flawed drafts are context only", draw_flawed="flawed drafts are learnt too"),
    "context": knob(
        all_subsets="drafts as latents and vision",
        latent_context="drafts as latents alone",
        vision_context="drafts as vision alone",
    ),
    "noise_copies": knob(
        all_subsets="two noise copies", one_noise_copy="one noise copy", four_noise_copies="four noise copies"
    ),
    "history": knob(all_subsets="all states so far", last_state="the last state alone"),
    "baselines": knob(
        single_pass="one pass, no process",
        text_plan="plans in text, with detours, then one picture",
        plain_text_plan="plans in text, then one picture",
        refine_only="one draft, inspected and mended, no plans",
        plain_multi_turn_only="plans and sketches, no detours, no inspections",
        multi_turn_only="plans and sketches, with detours, no inspections",
        no_image_feedback="the whole process, drafts read back blank",
        all_subsets="the whole process",
    ),
}
"""The rows of each study, the first being what the others are compared with; the paper's numbers stand here alone."""

STRATEGIES: dict[str, tuple[StudyRow, ...]] = {
    "baselines": knob(
        best_of_2="the better of two single passes, by the judge itself",
        best_of_3="the best of three single passes, by the judge itself",
        oracle_planner="the whole process, perfect plans",
        oracle_inspector="the whole process, perfect inspections",
    ),
}
"""Rows that train nothing and draw with the model of another row: below the others of a study."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One figure of one row.

    Attributes:
        ours: mean over the seeds.
        difference: to the study's first row on the same prompts; None in that row.
        paper: the paper's score, where it has one.
        paper_difference: to the paper's first row.
        verdict: on the paper's difference: "agrees" or "disagrees" in sign where our interval excludes zero, else "not
            settled"; empty where the two cannot be compared.
    """

    ours: Interval
    difference: Interval | None
    paper: float | None
    paper_difference: float | None
    verdict: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RowResult:
    """One row of the table.

    Attributes:
        option, label: as in `StudyRow`.
        seeds: of the judged runs; empty where the row has not run.
        cells: kind or "overall" → figure; without runs, the paper's part alone.
        recall: of the wrong drafts, the share that the inspections objected to, all seeds together.
        mended: of the wrong drafts that were redrawn on the inspection's word, the share that became right.
        steps: of the optimiser that the model learnt, seed by seed; None where a run does not tell.
        minutes: that it learnt.
        missing: what is still to be run, and how; empty where all is there.
    """

    option: str
    label: str
    seeds: tuple[int, ...]
    cells: dict[str, Cell]
    recall: Interval
    mended: Interval
    steps: tuple[int | float | None, ...]
    minutes: tuple[int | float | None, ...]
    missing: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyResult:
    """A study as it stands.

    Attributes:
        name: of the study.
        benchmark: what the runs answered.
        num_prompts: the prompts of one run.
        num_distinct: how many of them are different.
        columns: of the table: kinds, then "overall", where all of `EQUAL_KINDS` were asked `EQUAL`, the mean over them,
            then kinds that are out of the overall score.
        rows: in the study's order.
        warnings: what makes the rows unequal.
    """

    name: str
    benchmark: str
    num_prompts: int
    num_distinct: int
    columns: tuple[str, ...]
    rows: tuple[RowResult, ...]
    warnings: tuple[str, ...]


def read_study(name: str, runs: str | Path) -> StudyResult:
    """Everything that the table says.

    Args:
        name: one of `STUDIES`.
        runs: folder that holds `<row>/seed-<n>/`, each a judged run folder, or `<row>/seed-<n>.json`, its summary.

    Raises:
        FileNotFoundError: no row has a judged run; the message names the commands that make them.
        ValueError: no such study, or a file that is no summary.
    """
    if name not in STUDIES:
        raise ValueError(f"study is {name!r}; expected one of: {', '.join(STUDIES)}")
    rows = (*STUDIES[name], *STRATEGIES.get(name, ()))
    found = {row.option: read_row(Path(runs) / row.option) for row in rows}
    missing = {row.option: what_is_missing(name, Path(runs) / row.option) for row in rows}
    judged = [run for of_row in found.values() for run in of_row.values()]
    if not judged:
        raise FileNotFoundError(f"no row of study {name} is judged in {runs}; {missing[rows[0].option]}")
    passed = {option: [outcomes(run) for run in of_row.values()] for option, of_row in found.items()}
    all_kinds = dict.fromkeys(kind for of_row in passed.values() for run in of_row for kind in run)
    inside = tuple(kind for kind in all_kinds if not kind.startswith("ood"))
    columns = {kind: (kind,) for kind in rows[0].paper or COLUMNS} | {OVERALL: inside}
    columns |= {EQUAL: EQUAL_KINDS} if set(EQUAL_KINDS) <= set(inside) else {}
    columns |= {kind: (kind,) for kind in all_kinds if kind not in inside}
    cells: dict[str, dict[str, Cell]] = {row.option: {} for row in rows}
    for column, kinds in columns.items():
        spread = seed_spread(passed, kinds)
        for row in rows:
            first = passed[rows[0].option] if row is not rows[0] else None
            papers = row.paper.get(column), rows[0].paper.get(column)
            cells[row.option][column] = make_cell(passed[row.option], first, kinds, spread, papers)
    return StudyResult(
        name=name,
        benchmark=benchmark_name(judged[0]),
        num_prompts=max(run.num_prompts for run in judged),
        num_distinct=max(run.distinct_prompts for run in judged),
        columns=tuple(columns),
        rows=tuple(row_result(row, found[row.option], cells[row.option], missing[row.option]) for row in rows),
        warnings=tuple(
            unequal(
                {row.label: list(found[row.option].values()) for row in rows},
                {row.label for row in rows if is_strategy(row.option)},
            )
        ),
    )


def is_strategy(option: str) -> bool:
    """Whether this row trains nothing, see `STRATEGIES`."""
    return any(row.option == option for rows in STRATEGIES.values() for row in rows)


def seed_spread(rows: Mapping[str, Sequence[Outcomes]], kinds: Sequence[str]) -> Spread:
    """How far the runs of a row lie apart in the mean over these kinds, pooled over the rows.

    Strategies are left out: theirs are the models of other rows once more, not further luck of training.

    Args:
        rows: option → the runs of its seeds.
        kinds: of prompt.
    """
    alone = [[rate([run], kinds) for run in runs] for option, runs in rows.items() if not is_strategy(option)]
    return pooled_spread([one.estimate for one in of_row if one.num] for of_row in alone)


def read_row(folder: Path) -> dict[int, RunSummary]:
    """The judged runs of a row by their seed, from their folders and, where there is none, from their summaries."""
    summaries = {seed: read_summary(path) for seed, path in by_seed(folder, ".json").items()}
    judged = {seed: path for seed, path in by_seed(folder).items() if (path / VERDICTS_FILE).is_file()}
    runs = {seed: summarise_run(load_run(folder.name, path), seed) for seed, path in judged.items()}
    return dict(sorted((summaries | runs).items()))


def by_seed(folder: Path, suffix: str = "") -> dict[int, Path]:
    """What a row's folder holds of each seed: run folders, judged or not, or files with this suffix."""
    found = [(re.fullmatch(rf"seed-(\d+){re.escape(suffix)}", path.name), path) for path in folder.glob("seed-*")]
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def unequal(rows: Mapping[str, Sequence[RunSummary]], strategies: Iterable[str] = ()) -> list[str]:
    """Sentences on what the rows, by their labels, should share and do not; a strategy samples in its own way."""
    told = {label: [dict(run.budgets) for run in runs] for label, runs in rows.items()}
    for label in strategies:
        for run in told.get(label, ()):
            run.pop("sampler", None)
    return inequalities(told) + [
        sentence for label, runs in rows.items() for sentence in misdrawn(label, [run.as_drawn for run in runs])
    ]


def benchmark_name(run: RunSummary) -> str:
    """What the run answered, in words."""
    name = str(run.benchmark.get("benchmark", ""))
    return {"shapes": "the embedded world"}.get(name, name)


def what_is_missing(study: str, folder: Path) -> str:
    """Which runs of a row are not there or not judged, and the command that is next; empty where all is done."""
    found, strategy = by_seed(folder), is_strategy(folder.name)
    if not found and by_seed(folder, ".json"):
        return ""
    if not found and strategy:
        return f"not run: make study-{study}"
    if not found:
        return f"not run: lightning fit -m study={study} ablation={folder.name} seed=0"
    unjudged = [path for path in found.values() if not (path / VERDICTS_FILE).is_file()]
    if not unjudged:
        return ""
    run, names = unjudged[0], ", ".join(path.name for path in unjudged)
    if strategy:
        return f"{names} not judged: make study-{study}"
    settings = run / "fit.yaml"
    drawn = as_trained(settings.read_text(encoding="utf-8") if settings.is_file() else "")
    predict = f"lightning predict out={run} sampler.folder={run}/model{drawn}"
    return f"{names} not judged: {predict} && lightning test out={run}"


def row_result(row: StudyRow, runs: Mapping[int, RunSummary], cells: dict[str, Cell], missing: str) -> RowResult:
    """The row with what its drafts say of the process, all seeds together."""
    return RowResult(
        option=row.option,
        label=row.label,
        seeds=tuple(runs),
        cells=cells,
        recall=share(runs.values(), "inspection", "flagged_wrong", "wrong"),
        mended=share(runs.values(), "refine_success", "mended", "refined_wrong"),
        steps=tuple(run.training.get("steps") for run in runs.values()),
        minutes=tuple(run.training.get("minutes") for run in runs.values()),
        missing=missing,
    )


def share(runs: Iterable[RunSummary], metric: str, part: str, whole: str) -> Interval:
    """A share of what a metric of the process counted, all runs together."""
    counts = [(run.process[metric][part] or 0, run.process[metric][whole] or 0) for run in runs]
    return wilson(int(sum(part for part, _ in counts)), int(sum(whole for _, whole in counts)))


def make_cell(
    runs: Sequence[Outcomes],
    first: Sequence[Outcomes] | None,
    kinds: Sequence[str],
    spread: Spread,
    papers: tuple[float | None, float | None],
) -> Cell:
    """A figure of the row with these runs.

    Args:
        runs: one for each seed.
        first: the first row's runs; None in that row.
        kinds: of prompt, each weighing the same.
        spread: of the figure from seed to seed.
        papers: the paper's figure in this row and in the first.
    """
    gain = paper_gain = None
    if first is not None:
        gain = over_runs(difference(first, runs, kinds), [len(first), len(runs)], spread, floor=-1.0)
        paper_gain = None if papers[0] is None or papers[1] is None else papers[0] - papers[1]
    return Cell(
        ours=over_runs(rate(runs, kinds), [len(runs)], spread),
        difference=gain,
        paper=papers[0],
        paper_difference=paper_gain,
        verdict=verdict(gain, paper_gain),
    )


def verdict(ours: Interval | None, papers: float | None) -> str:
    """Whether our difference has the sign of the paper's."""
    if ours is None or papers is None or not ours.num:
        return ""
    if ours.low <= 0 <= ours.high:
        return "not settled"
    return "agrees" if ours.estimate * papers > 0 else "disagrees"
