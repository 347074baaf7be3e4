"""The report's tables of scores: in the paper's layout with its rows below ours, strategies by cost, pairs of arms."""

import math
from collections.abc import Mapping

from brushwork.eval.reports.pairs import Pair, find
from brushwork.eval.reports.paper import (
    GENEVAL,
    GENEVAL_NAMES,
    PROCESS_BASELINES,
    SAME_AS,
    SOURCE,
    WISE,
    PaperRow,
)
from brushwork.eval.reports.summary import ArmSummary, Summary
from brushwork.eval.reports.tables import NONE, Cell, Table, TableRow, number, rate, signed, words
from brushwork.eval.statistics import Interval


def column(kind: str) -> str:
    """The paper's name of a kind where it has one."""
    return GENEVAL_NAMES.get(SAME_AS.get(kind, kind), words(kind))


def is_geneval(summary: Summary) -> bool:
    """Whether the arms answered GenEval, whose levels are those of the paper."""
    return "geneval" in summary.benchmark.lower()


def has_geneval_kinds(summary: Summary) -> bool:
    """Whether the kinds are GenEval's, as those of the embedded world are."""
    kinds = {SAME_AS.get(kind, kind) for arm in summary.arms for kind in arm.kinds}
    return set(GENEVAL_NAMES) <= kinds


def paper_rows(summary: Summary) -> tuple[PaperRow, ...]:
    """The paper's rows that belong below ours; for the embedded world only those that show what the process changes."""
    if is_geneval(summary):
        return GENEVAL
    if "wise" in summary.benchmark.lower():
        # WISE_Verified has other prompts, and one overall.
        return () if summary.arms[0].settings["judge"].get("protocol") == "verified" else WISE
    return GENEVAL[-2:] if has_geneval_kinds(summary) else ()


def score_table(summary: Summary) -> Table:
    """Scores by kind and overall, in the paper's layout, with the paper's rows below ours."""
    kinds = list(dict.fromkeys(kind for arm in summary.arms for kind in arm.kinds))
    overalls = list(summary.weights)
    ours = [
        TableRow(
            label=words(arm.name),
            arm=place,
            cells=(
                *(rate(arm.kinds.get(kind)) for kind in kinds),
                *(rate(arm.overalls.get(name), strong=name == overalls[0]) for name in overalls),
                judged(arm),
            ),
        )
        for place, arm in enumerate(summary.arms)
    ]
    papers = [
        TableRow(
            label=f"paper: {row.label}",
            paper=True,
            cells=(
                *(number(own_score(row, kind), 2) for kind in kinds),
                *(paper_overall(row, summary.weights[name], len(overalls) == 1) for name in overalls),
                Cell(text=NONE),
            ),
        )
        for row in paper_rows(summary)
    ]
    heads = ("arm", *map(column, kinds), *map(words, overalls), "judged")
    return Table(title="Scores", columns=heads, rows=(*ours, *papers), notes=score_notes(summary))


def judged(arm: ArmSummary) -> Cell:
    """How many answers stand behind the scores, and what became of the others."""
    parts = {
        "no verdict": arm.num_failures,
        "refused": arm.num_rejected,
        "not drawn": arm.num_missing,
        "without an image, failed": arm.num_blank,
    }
    lacking = arm.num_failures + arm.num_rejected + arm.num_missing
    small = [f"{count} {name}" for name, count in parts.items() if count]
    if lacking and math.isnan(arm.overall.estimate) and arm.judged.num:
        small.append(f"mean of the judged {arm.judged.estimate:.2f}")
    return Cell(text=f"{arm.num_prompts - lacking} of {arm.num_prompts}", small=tuple(small))


def own_score(row: PaperRow, kind: str) -> float | None:
    """The paper's score for a kind of ours."""
    known = {SAME_AS.get(name.lower(), name.lower()): score for name, score in row.kinds.items()}
    return known.get(SAME_AS.get(kind.lower(), kind.lower()))


def paper_overall(row: PaperRow, weights: Mapping[str, float], printed: bool) -> Cell:
    """The printed overall; where we report several, each computed from the paper's categories."""
    if printed:
        return number(row.overall, 2)
    shares = {kind.lower(): weight for kind, weight in weights.items()} or dict.fromkeys(row.kinds, 1 / len(row.kinds))
    value = sum(shares.get(kind, 0.0) * score for kind, score in row.kinds.items())
    return Cell(text=f"{value:.2f}", small=("computed", f"printed {row.overall:.2f}"))


def score_notes(summary: Summary) -> tuple[str, ...]:
    """How the scores came about, and what the paper's rows are worth beside them."""
    of = "share of answers that pass" if summary.measure == "passed" else "mean of the judge's scores, 0 to 1"
    weighing = {
        name: "each kind weighing the same"
        if not weights
        else "weighted " + ", ".join(f"{words(kind)} {weight:g}" for kind, weight in weights.items())
        for name, weights in summary.weights.items()
    }
    notes = [
        f"Score of a kind: {of}. " + " ".join(f"{words(name)}: {how}." for name, how in weighing.items()),
        "Small figures: 95% intervals. No verdict: the judge could not say or the sample could not be read. Refused: "
        "the sampler would not draw it. These and what is not drawn count neither for nor against.",
    ]
    notes.append(f"What was judged by whom: {'; '.join(dict.fromkeys(map(judged_by, summary.arms)))}.")
    kinds = [kind for arm in summary.arms for kind in arm.kinds]
    if any(kind.startswith("ood") for kind in kinds):
        notes.append("Kinds that begin with “ood” are out of the overall.")
    if paper_rows(summary) and is_geneval(summary):
        notes.append(f"Rows “paper” are the paper's own ({SOURCE}), with its detector, prompts and seeds, not ours.")
    elif paper_rows(summary) and has_geneval_kinds(summary):
        notes.append(
            f"Rows “paper” are the paper's own on GenEval with BAGEL-7B ({SOURCE}). The kinds are the same six, the "
            "levels are not comparable: only which kinds gain from the process is."
        )
    elif paper_rows(summary):
        notes.append(
            f"Rows “paper” are the paper's own ({SOURCE}), with its judge. Two overalls are in use for WISE, so both "
            "stand here, computed from the paper's categories; its printed BAGEL rows are plain means of the six, that "
            "of FLUX.1-dev fits the weights."
        )
    return tuple(notes)


def judged_by(arm: ArmSummary) -> str:
    """Benchmark, prompt set and judge, on which the level of a score hangs."""
    benchmark, judge = arm.settings["benchmark"], arm.settings["judge"]
    told = {"prompts": benchmark.get("prompt_set") or benchmark.get("prompts_file"), "protocol": judge.get("protocol")}
    told |= {name: judge.get(name) for name in ("detector", "model")}
    told = {name: value.get("model") if isinstance(value, Mapping) else value for name, value in told.items()}
    parts = [f"{name} {value}" for name, value in told.items() if value]
    return ", ".join([str(benchmark.get("benchmark")), *parts, f"judge {judge.get('judge', 'not told')}"])


def baseline_table(summary: Summary) -> Table | None:
    """Ways to reason on the way: what each costs and scores; None where the paper's table is of something else."""
    if not has_geneval_kinds(summary):
        return None
    ours = []
    for place, arm in enumerate(summary.arms):
        steps = arm.cost.get("denoise_steps")
        measured = (f"{steps.mean:,.1f} measured",) if steps else ()
        trained = f"{arm.training['steps']:,.0f} steps" if "steps" in arm.training else NONE
        figures = Cell(text=number(arm.paper_cost, 0).text, small=measured)
        cells = (Cell(text=trained), figures, rate(arm.overall, strong=True))
        ours.append(TableRow(label=words(arm.name), arm=place, cells=cells))
    papers = [
        TableRow(
            label=f"paper: {row.strategy}",
            paper=True,
            cells=(
                Cell(text=f"{row.data} samples" if row.data else NONE),
                number(row.cost, 0),
                number(row.overall, 2),
            ),
        )
        for row in PROCESS_BASELINES
    ]
    level = "" if is_geneval(summary) else " Their levels are GenEval's, hence not comparable with ours."
    notes = (
        "Cost is the paper's: 50 denoising steps for each image, rejected candidates included. Text, and calls of "
        "other models, are not in it; they are in the table of costs.",
        f"Rows “paper” are the paper's own ({SOURCE}).{level}",
    )
    heads = ("strategy", "training", "cost", "overall")
    return Table(title="Cost against score", columns=heads, rows=(*ours, *papers), notes=notes)


def pair_matrix(summary: Summary) -> Table | None:
    """Each arm against each other on the same prompts; None with one arm."""
    if not summary.pairs:
        return None
    names = [arm.name for arm in summary.arms]
    rows = tuple(
        TableRow(label=words(name), arm=place, cells=tuple(against(summary, name, other) for other in names))
        for place, name in enumerate(names)
    )
    notes = (
        "Row minus column, headline score, on the prompts that both were judged on. Limits: 95%, paired bootstrap, "
        "prompts drawn again kind by kind. Set in bold where they exclude zero; each stands alone, without a "
        "correction for their number. Below: answers on which the row is better, worse and the same.",
    )
    return Table(title="Arm against arm", columns=("", *map(words, names)), rows=rows, notes=notes)


def against(summary: Summary, name: str, other: str) -> Cell:
    """One place of the matrix."""
    interval = find(summary.pairs, other, name)
    pair = next((one for one in summary.pairs if {one.first, one.second} == {name, other}), None)
    if pair is None or interval is None or not interval.num:
        return Cell(text=NONE)
    better, worse = (pair.wins, pair.losses) if pair.second == name else (pair.losses, pair.wins)
    return Cell(
        text=signed(interval.estimate),
        small=(limits(interval), f"{better} / {worse} / {pair.ties}"),
        strong=not interval.low <= 0 <= interval.high,
    )


def pair_table(summary: Summary) -> Table | None:
    """All that is known of each pair, a row a pair; None with one arm."""
    if not summary.pairs:
        return None
    heads = (
        "pair", "difference", "closed form", "better in", "answers", "only the first better",
        "only the second better", "same", "both passed", "neither passed", "p", "left out",
    )  # fmt: skip
    notes = (
        "Second minus first. Closed form: Agresti and Min's limits for matched pairs, where all kinds weigh the same. "
        "Better in: share of the resamples in which the second arm is better. p: exact test that wins and losses are "
        "equally likely, McNemar's where answers pass or fail; it looks at answers, not at kinds. Left out: answers "
        "that have no judged counterpart in the other arm, or are of a kind that is not in the headline.",
    )
    return Table(title="Pairs in detail", columns=heads, rows=tuple(map(pair_row, summary.pairs)), notes=notes)


def pair_row(pair: Pair) -> TableRow:
    """One pair in figures."""
    counts = (pair.num, pair.losses, pair.wins, pair.ties, pair.both, pair.neither)
    return TableRow(
        label=f"{words(pair.first)} → {words(pair.second)}",
        cells=(
            gain(pair.difference),
            gain(pair.closed_form),
            Cell(text=NONE if math.isnan(pair.better) else f"{pair.better:.1%}"),
            *(Cell(text=f"{count:,}") for count in counts),
            Cell(text="<0.001" if pair.p_value < 0.001 else f"{pair.p_value:.3f}"),
            Cell(text=f"{pair.left_out:,}"),
        ),
    )


def gain(interval: Interval | None) -> Cell:
    """A difference with its limits; a dash where there is none."""
    if interval is None or not interval.num:
        return Cell(text=NONE)
    return Cell(text=signed(interval.estimate), small=(limits(interval),))


def limits(interval: Interval) -> str:
    """The limits of a difference."""
    return f"{signed(interval.low)} to {signed(interval.high)}"
