"""What a row of a study says beyond the paper's columns: every kind, each seed, the paired test, costs, the process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from brushwork.eval.reports.pairs import sign_test
from brushwork.eval.reports.run_summary import RunSummary
from brushwork.eval.reports.study import STRATEGIES, STUDIES, read_row, seed_spread, share
from brushwork.eval.reports.study_scores import Outcomes, outcomes, paired_scores, rate
from brushwork.eval.reports.summary import GENEVAL_KINDS
from brushwork.eval.statistics import Interval, over_runs
from brushwork.eval.verdicts import read_record

RUNS_FOLDER = "runs"
INSPECTIONS_FILE = "inspections.json"
SHARES = {
    "precision": ("inspection", "flagged_wrong", "flagged"),
    "recall": ("inspection", "flagged_wrong", "wrong"),
    "mended": ("refine_success", "mended", "refined_wrong"),
    "spoilt": ("over_correction", "spoilt", "refined_right"),
    "objects_stay": ("survival", "survived", "stood"),
    "plans_keep": ("plan_consistency", "clean", "trajectories"),
}
"""Share of the process → the metric that counts it, the part and the whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """A row and the first one, prompt by prompt, each different prompt counting once.

    Attributes:
        better: prompts that the row passes more often than the first row, seeds and repetitions together.
        worse: prompts that it passes less often.
        p_value: of the exact test that the two are equally likely, prompts being independent.
    """

    better: int
    worse: int
    p_value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFacts:
    """A row, all seeds together where nothing else is said.

    Attributes:
        prompts: kind → how many different prompts a seed was asked, and how many prompts.
        kinds: score of each kind, see `study_scores.rate`; over the wider of prompts and seeds.
        overall: of the kinds but those that start with "ood".
        by_seed: the overall score of each seed.
        paired: with the first row on the same prompts; None in that row, and without it.
        process: each of `SHARES`.
        f1: of the inspections of the model's own drafts; None where nothing is inspected.
        faults: cause → answers that failed by it in the 1st, 2nd, … step.
        num_answers: of all seeds, those that were judged.
        costs: mean of each term over the answers of all seeds.
        steps, minutes: of training, means over the seeds that tell.
    """

    prompts: Mapping[str, tuple[int, int]]
    kinds: Mapping[str, Interval]
    overall: Interval
    by_seed: Mapping[int, float]
    paired: Paired | None
    process: Mapping[str, Interval]
    f1: float | None
    faults: Mapping[str, Sequence[int]]
    num_answers: int
    costs: Mapping[str, float]
    steps: float | None
    minutes: float | None


def read_runs(results: str | Path) -> dict[str, dict[int, RunSummary]]:
    """Row → seed → summary, of all rows in a folder of results, in the order of the studies; empty where there is none.

    Raises:
        ValueError: a file is no summary.
    """
    folder = Path(results) / RUNS_FOLDER
    known = [row.option for study in (*STUDIES.values(), *STRATEGIES.values()) for row in study]
    there = sorted(path.name for path in folder.glob("*") if path.is_dir())
    rows = {row: read_row(folder / row) for row in dict.fromkeys((*known, *there)) if row in there}
    return {row: runs for row, runs in rows.items() if runs}


def read_planted(results: str | Path) -> dict[str, dict[str, float | None]]:
    """Row → `precision`, `recall` and `f1` of the inspections of planted flaws, means over the seeds that know it.

    Returns:
        All of `inspections.json` in a folder of results, which `benchmarks/inspection.py` writes; empty without it.

    Raises:
        ValueError: the file is damaged.
    """
    found = read_record(Path(results) / INSPECTIONS_FILE, "benchmarks/inspection.py writes it")
    names = ("precision", "recall", "f1")
    return {
        row: {name: mean_of([of_seed["planted"].get(name) for of_seed in seeds.values()]) for name in names}
        for row, seeds in found.items()
    }


def row_facts(rows: Mapping[str, Sequence[RunSummary]], first: str) -> dict[str, RowFacts]:
    """The facts of every row that has a run.

    Intervals are a study's where the rows are: the spread of seeds is pooled over those that are given.

    Args:
        rows: row → the runs of its seeds, of one benchmark.
        first: the row with which the others are compared.
    """
    passed = {row: [outcomes(run) for run in runs] for row, runs in rows.items()}
    found = dict.fromkeys(kind for runs in passed.values() for run in runs for kind in run)
    kinds = {kind: (kind,) for kind in sorted(found, key=place)}
    inside = tuple(kind for kind in kinds if not kind.startswith("ood"))
    levels = {name: with_seeds(passed, some) for name, some in {**kinds, "": inside}.items()}
    return {
        row: RowFacts(
            prompts=asked(runs),
            kinds={kind: levels[kind][row] for kind in kinds},
            overall=levels[""][row],
            by_seed={run.seed: rate([own], inside).estimate for run, own in zip(runs, passed[row], strict=True)},
            paired=None if row == first else paired(passed.get(first, []), passed[row], inside),
            process={name: share(runs, *counts) for name, counts in SHARES.items()},
            f1=f1_of(runs),
            faults=all_faults(runs),
            num_answers=sum(len(of_kind) for run in passed[row] for of_kind in run.values()),
            costs=mean_costs(runs),
            steps=mean_of([run.training.get("steps") for run in runs]),
            minutes=mean_of([run.training.get("minutes") for run in runs]),
        )
        for row, runs in rows.items()
        if runs
    }


def place(kind: str) -> tuple[bool, int, str]:
    """Where a kind stands: GenEval's first, those out of the overall score last."""
    known = GENEVAL_KINDS.index(kind) if kind in GENEVAL_KINDS else len(GENEVAL_KINDS)
    return kind.startswith("ood"), known, kind


def asked(runs: Sequence[RunSummary]) -> dict[str, tuple[int, int]]:
    """Kind → different prompts and prompts, of the first run that was asked any of it."""
    found: dict[str, tuple[int, int]] = {}
    for run in runs:
        for kind, answers in run.answers.items():
            found.setdefault(kind, (len(set(answers.prompts)), len(answers.prompts)))
    return found


def with_seeds(passed: Mapping[str, Sequence[Outcomes]], kinds: Sequence[str]) -> dict[str, Interval]:
    """Row → the rate of its runs over these kinds, widened by the spread of single runs, which is pooled over rows."""
    spread = seed_spread(passed, kinds)
    return {row: over_runs(rate(runs, kinds), [len(runs)], spread) for row, runs in passed.items() if runs}


def paired(first: Sequence[Outcomes], runs: Sequence[Outcomes], kinds: Sequence[str]) -> Paired | None:
    """The runs of a row and those of the first on the prompts that both were judged on; None where there are none."""
    scores = [pair for kind in kinds for pair in paired_scores(first, runs, kind)]
    gains = [round(after - before, 9) for before, after in scores]  # sums of equal shares may differ in the last digit
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return Paired(better=better, worse=worse, p_value=sign_test(better, worse)) if gains else None


def f1_of(runs: Sequence[RunSummary]) -> float | None:
    """Of the inspections of all seeds together, "this draft is wrong" being the positive class."""
    found, flagged, wrong = (
        sum(run.process["inspection"][name] or 0 for run in runs) for name in ("flagged_wrong", "flagged", "wrong")
    )
    inspected = any(run.process["inspection"]["drafts"] for run in runs)
    return 2 * found / (flagged + wrong) if inspected and flagged + wrong else None


def all_faults(runs: Sequence[RunSummary], kinds: Sequence[str] | None = None) -> dict[str, list[int]]:
    """Cause → failures by step, all seeds together, of these kinds or of all."""
    found: dict[str, list[int]] = {}
    for run in runs:
        for kind, causes in run.faults.items():
            for cause, steps in causes.items() if kinds is None or kind in kinds else ():
                total = found.setdefault(cause, [])
                total += [0] * (len(steps) - len(total))
                for step, count in enumerate(steps):
                    total[step] += count
    return found


def mean_costs(runs: Sequence[RunSummary]) -> dict[str, float]:
    """Term → mean over the answers of all seeds that tell it."""
    terms = dict.fromkeys(term for run in runs for term in run.costs)
    told = {term: [run.costs[term] for run in runs if term in run.costs] for term in terms}
    return {
        term: float(sum((cost["mean"] or 0) * (cost["num"] or 0) for cost in costs))
        / max(1, sum(cost["num"] or 0 for cost in costs))
        for term, costs in told.items()
    }


def mean_of(values: Sequence[int | float | None]) -> float | None:
    """Of the values that are known."""
    known = [value for value in values if value is not None]
    return float(fmean(known)) if known else None
