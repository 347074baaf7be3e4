"""The table of a study in words: lines for the terminal, and what its page and its JSON file say."""

from dataclasses import asdict
from statistics import fmean
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from brushwork.eval.reports import charts
from brushwork.eval.reports.study import COLUMNS, EQUAL, EQUAL_KINDS, OVERALL, RowResult, StudyResult
from brushwork.eval.reports.summary import without_nan
from brushwork.eval.reports.tables import words
from brushwork.eval.statistics import Interval


def level(interval: Interval) -> str:
    """A rate with its limits."""
    if not interval.num:
        return "–"
    return f"{interval.estimate:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"{value:+.2f}".replace("-", "−")


def gain(interval: Interval | None) -> str:
    """A difference with its limits."""
    if interval is None or not interval.num:
        return "–"
    return f"{signed(interval.estimate)} ({signed(interval.low)} to {signed(interval.high)})"


def explanations(result: StudyResult) -> list[str]:
    """What stands below the table: how to read it, what is missing and what is unequal."""
    missing = [f"“{row.label}”: {row.missing}" for row in result.rows if row.missing]
    return [*reading(result), *missing, *result.warnings]


def heading(result: StudyResult) -> str:
    """What the figures are, and what they are not."""
    seeds = sorted({seed for row in result.rows for seed in row.seeds})
    ours = (
        f"Ours: {result.benchmark}, {result.num_prompts} prompts, {result.num_distinct} of them different, training "
        f"seeds {', '.join(map(str, seeds))}."
    )
    if not has_paper(result):
        return f"{ours} The paper has no such table."
    return (
        f"{ours} The paper's: GenEval with BAGEL-7B. Not comparable in level, only in the sign and size of differences."
    )


def reading(result: StudyResult) -> list[str]:
    """How the intervals came about."""
    if max(len(row.seeds) for row in result.rows) > 1:
        seeds = (
            "They are the wider of two: over different prompts, seeds and repetitions averaged; and Student's over "
            "training seeds, whose spread is pooled over the rows that were trained."
        )
    else:
        seeds = "With one training seed a row they speak of different prompts alone, not of the luck of training."
    sentences = [f"Differences are to the first row, on the same prompts. Intervals: 95%. {seeds}"]
    verdicts = [cell.verdict for row in result.rows for cell in row.cells.values() if cell.verdict]
    if verdicts:
        counts = ", ".join(f"{word} {verdicts.count(word)}" for word in ("agrees", "disagrees", "not settled"))
        sentences.append(
            f"Of {len(verdicts)} differences of the paper: {counts}. Agrees and disagrees speak of the sign where our "
            "interval excludes zero. Each interval stands alone, without a correction for their number; the paper "
            "gives none."
        )
    return [*sentences, *exposure(result)]


def exposure(result: StudyResult) -> list[str]:
    """What the second overall score is for, and which rows the first one favours."""
    sentences = []
    if EQUAL in result.columns:
        *others, last = map(words, EQUAL_KINDS)
        sentences.append(
            f"{EQUAL.capitalize()}: the mean over {', '.join(others)} and {last}, where drafts on the way show no more "
            "of what is held out than finished scenes do."
        )
    if result.name == "baselines":
        sentences.append(
            "A confound: rows with drafts on the way see in them what is held out as a finished scene: a coloured "
            "shape alone (colors), fewer of a shape (counting), three and four coloured shapes. A single pass and "
            "plans in text never see these, which may favour the process in those kinds and so in the overall score."
        )
    return sentences


def has_paper(result: StudyResult) -> bool:
    """Whether the paper has this table."""
    return any(cell.paper is not None for row in result.rows for cell in row.cells.values())


def column_name(column: str) -> str:
    """The paper's name where it has one."""
    return words(COLUMNS.get(column, column))


def learnt(row: RowResult) -> str:
    """How long the models of a row were trained, the mean over its seeds; empty where no run tells."""
    told = {"steps": (row.steps, "{:,.0f} steps"), "minutes": (row.minutes, "{:.1f} minutes")}
    known = {name: [one for one in values if one is not None] for name, (values, _) in told.items()}
    return ", ".join(told[name][1].format(fmean(values)) for name, values in known.items() if values)


def study_table(result: StudyResult) -> Group:
    """The table for a terminal of 80 characters: a block for each row, in it a line for each column."""
    widths = {"": 11, "ours": 19, "difference": 22}
    if has_paper(result):
        widths |= {"paper": 5, "diff.": 5, "sign": 11}
    blocks = []
    for row in result.rows:
        seeds = f"seeds {', '.join(map(str, row.seeds))}" if row.seeds else row.missing.partition(":")[0]
        facts = ", ".join(filter(None, (row.option, seeds, learnt(row))))
        block = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for head, width in widths.items():
            block.add_column(head, width=width)
        for column, cell in row.cells.items():
            paper = "" if cell.paper is None else f"{cell.paper:.2f}"
            paper_difference = "" if cell.paper_difference is None else signed(cell.paper_difference)
            figures = [column_name(column), level(cell.ours), gain(cell.difference)]
            block.add_row(*[*figures, paper, paper_difference, cell.verdict][: len(widths)])
        blocks += [Text(f"{row.label} ({facts})", style="bold"), block, ""]
    return Group(f"Study: {result.name}", heading(result), "", *blocks)


def study_context(result: StudyResult) -> dict[str, Any]:
    """What the template `study` asks for."""
    groups: list[tuple[str, list[Interval | None]]] = []
    for column in sorted(result.columns, key=lambda column: column != OVERALL):
        cells = [row.cells[column] for row in result.rows]
        groups.append((column_name(column), [cell.ours for cell in cells]))
        if any(cell.paper is not None for cell in cells):
            groups.append(("the paper's", [point(cell.paper) for cell in cells]))
    return {
        "result": result,
        "paper": has_paper(result),
        "heading": heading(result),
        "reading": reading(result),
        "column_name": column_name,
        "gain": gain,
        "signed": signed,
        "learnt": learnt,
        "marks": [charts.legend_mark(number) for number in range(len(result.rows))],
        "forest": charts.forest(groups),
    }


def point(score: float | None) -> Interval | None:
    """A figure that came without an interval."""
    return None if score is None else Interval(estimate=score, low=score, high=score, num=0)


def study_json(result: StudyResult) -> dict[str, Any]:
    """The result as JSON-able values."""
    return without_nan(asdict(result))
