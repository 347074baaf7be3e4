"""What results say across studies, as charts and tables for a notebook: cost, inspections, where answers fail."""

import base64
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from brushwork.eval.failures import CAUSES
from brushwork.eval.reports import charts
from brushwork.eval.reports.interval_chart import IntervalSeries, interval_chart
from brushwork.eval.reports.process_tables import COSTS
from brushwork.eval.reports.run_summary import RunSummary
from brushwork.eval.reports.study_facts import RowFacts, all_faults, place
from brushwork.eval.reports.tables import NONE, Cell, Table, TableRow, number, rate, words

LINE = 20
"""Pixels that a line of a legend takes."""


def cost_chart(facts: Mapping[str, RowFacts], term: str = "denoise_steps") -> Markup:
    """Overall score against a cost of an answer, a mark a row; nothing where no row tells the cost."""
    points = {row: own.costs[term] for row, own in facts.items() if term in own.costs}
    return with_legend("score against cost", facts, points, f"{COSTS[term][0]} an answer")


def inspection_chart(facts: Mapping[str, RowFacts]) -> Markup:
    """Overall score against the F1 of the inspections of own drafts, a mark a row; nothing where none inspects."""
    points = {row: own.f1 for row, own in facts.items() if own.f1 is not None}
    return with_legend("score against inspection", facts, points, "F1 of the inspections of own drafts")


def with_legend(title: str, facts: Mapping[str, RowFacts], points: Mapping[str, float], x_label: str) -> Markup:
    """The overall scores of some rows against a number, and below the chart the rows by their marks."""
    rows = list(facts)
    series = [
        IntervalSeries(label=row, arm=rows.index(row), points=((x, facts[row].overall),)) for row, x in points.items()
    ]
    chart = interval_chart(title, series, x_label)
    if not chart:
        return chart
    width, height = 420, 270
    inside = Markup(str(chart).replace("<svg ", f'<svg width="{width}" height="{height}" ', 1))
    lines = [
        charts.mark(one.arm or 0, 50, height + LINE * (at + 0.5))
        + charts.words(words(one.label), 62, height + LINE * (at + 0.5) + 4, anchor="start")
        for at, one in enumerate(series)
    ]
    content = charts.joined([inside, *lines])
    return charts.svg("chart", width, height + LINE * len(lines) + 6, f"{title} against {x_label}", content)


def as_image(chart: Markup, style: str, width: int = 560) -> str:
    """A chart as an HTML image that keeps its style sheet to itself; empty for no chart.

    Args:
        chart: one of this module.
        style: see `report.style_sheet`.
        width: in pixels.
    """
    if not chart:
        return ""
    drawn = base64.b64encode(charts.standalone(chart, style).encode()).decode()
    return f'<img width="{width}" style="background: Canvas" src="data:image/svg+xml;base64,{drawn}">'


def cause_table(facts: Mapping[str, RowFacts]) -> Table:
    """Of 100 answers of a row, how many fail by each cause first."""
    rows = [
        TableRow(
            label=words(row),
            cells=tuple(per_hundred(sum(own.faults.get(cause, ())), own.num_answers) for cause in CAUSES),
        )
        for row, own in facts.items()
    ]
    return Table(title="Of 100 answers, what goes wrong first", columns=("row", *map(words, CAUSES)), rows=tuple(rows))


def step_table(facts: Mapping[str, RowFacts]) -> Table:
    """Of 100 answers of a row, how many go wrong first in each step."""
    steps = max((len(counts) for own in facts.values() for counts in own.faults.values()), default=0)
    rows = []
    for row, own in facts.items():
        totals = [sum(counts[step] for counts in own.faults.values() if step < len(counts)) for step in range(steps)]
        rows.append(TableRow(label=words(row), cells=tuple(per_hundred(one, own.num_answers) for one in totals)))
    heads = ("row", *(f"step {step}" for step in range(1, steps + 1)))
    return Table(title="Of 100 answers, where they go wrong first", columns=heads, rows=tuple(rows))


def kind_fault_table(runs: Sequence[RunSummary]) -> Table:
    """Of 100 answers to a kind of prompt, how many fail by each cause first, all seeds of a row together."""
    rows = []
    for kind in sorted({kind for run in runs for kind in run.answers}, key=place):
        answered = sum(len(run.answers[kind].passed) for run in runs if kind in run.answers)
        faults = all_faults(runs, (kind,))
        cells = tuple(per_hundred(sum(faults.get(cause, ())), answered) for cause in CAUSES)
        rows.append(TableRow(label=words(kind), cells=cells))
    title = "Of 100 answers to a kind, what goes wrong first"
    return Table(title=title, columns=("kind", *map(words, CAUSES)), rows=tuple(rows))


def per_hundred(count: int, num: int) -> Cell:
    """A count in a hundred; a dash where there is none."""
    return Cell(text=f"{100 * count / num:.1f}" if count and num else NONE)


def outside_table(facts: Mapping[str, RowFacts]) -> Table:
    """Kinds that are harder than what was learnt, beside the overall score, which leaves them out."""
    kinds = sorted({kind for own in facts.values() for kind in own.kinds if kind.startswith("ood")})
    rows = [
        TableRow(label=words(row), cells=(rate(own.overall), *(rate(own.kinds.get(kind)) for kind in kinds)))
        for row, own in facts.items()
    ]
    heads = ("row", "overall", *(words(kind).removeprefix("ood ") for kind in kinds))
    return Table(title="Beyond what was learnt", columns=heads, rows=tuple(rows) if kinds else ())


def inspection_table(facts: Mapping[str, RowFacts], planted: Mapping[str, Mapping[str, float | None]]) -> Table:
    """Inspections of own drafts beside those of planted flaws.

    Args:
        facts: of the rows; those that inspect nothing are left out.
        planted: row → `precision`, `recall` and `f1` on planted flaws, means over the seeds; empty where unknown.
    """
    rows = [
        TableRow(
            label=words(row),
            cells=(
                *(rate(own.process[name]) for name in ("precision", "recall")),
                number(own.f1, 2),
                *(number(planted.get(row, {}).get(name), 2) for name in ("precision", "recall", "f1")),
                rate(own.process["mended"]),
                rate(own.process["spoilt"]),
            ),
        )
        for row, own in facts.items()
        if own.f1 is not None
    ]
    heads = (
        "row", "precision", "recall", "F1", "planted: precision", "planted: recall", "planted: F1", "mended", "spoilt",
    )  # fmt: skip
    return Table(title="Inspections of own drafts, and of planted flaws", columns=heads, rows=tuple(rows))
