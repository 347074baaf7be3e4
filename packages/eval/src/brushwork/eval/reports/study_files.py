"""A study's results as files that stay in the repository: a summary of each run, the table as JSON and as Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from brushwork.eval.reports.markdown import escaped, table_markdown
from brushwork.eval.reports.paper import SOURCE
from brushwork.eval.reports.process_tables import COSTS
from brushwork.eval.reports.run_summary import RunSummary, portable, write_summary
from brushwork.eval.reports.study import STRATEGIES, STUDIES, StudyResult, read_row, read_study
from brushwork.eval.reports.study_facts import RUNS_FOLDER, RowFacts, row_facts
from brushwork.eval.reports.study_table import column_name, explanations, gain, has_paper, heading, signed
from brushwork.eval.reports.summary import without_nan
from brushwork.eval.reports.tables import NONE, Cell, Table, TableRow, number, rate, words
from brushwork.eval.verdicts import write_text


def write_results(name: str, runs: str | Path, results: str | Path) -> StudyResult:
    """Write the summaries of a study's judged runs, and its table of all that the results then hold.

    Args:
        name: one of `study.STUDIES`.
        runs: folder that holds `<row>/seed-<n>/`; what is judged there replaces what the results held of it.
        results: gets `runs/<row>/seed-<n>.json`, `<name>.json` and `<name>.md`; equal runs give equal files.

    Returns:
        The table, of the summaries alone.

    Raises:
        FileNotFoundError: no row has a judged run or a summary.
        ValueError: no such study, or a file that is no summary.
    """
    folder = Path(results) / RUNS_FOLDER
    for row in (*STUDIES.get(name, ()), *STRATEGIES.get(name, ())):
        for summary in read_row(Path(runs) / row.option).values():
            write_summary(summary, folder)
    result = read_study(name, folder)
    found = {row.option: list(read_row(folder / row.option).values()) for row in result.rows}
    facts = row_facts(found, result.rows[0].option)
    write_text(Path(results) / f"{name}.json", results_json(result, facts, found))
    write_text(Path(results) / f"{name}.md", results_markdown(result, facts, found))
    return result


def results_json(result: StudyResult, facts: Mapping[str, RowFacts], runs: Mapping[str, Sequence[RunSummary]]) -> str:
    """The table and the facts of each row, by its option."""
    content = {"format": 1, "paper": SOURCE, "origin": origin(runs), **asdict(result)}
    content["facts"] = {row: asdict(of_row) for row, of_row in facts.items()}
    return json.dumps(portable(without_nan(content)), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def results_markdown(
    result: StudyResult, facts: Mapping[str, RowFacts], runs: Mapping[str, Sequence[RunSummary]]
) -> str:
    """The same as tables, below a title."""
    parts = [f"# {escaped(words(result.name).capitalize())}", escaped(heading(result))]
    for place, table in enumerate(study_tables(result, facts)):
        notes = table.notes if place else (*table.notes, *explanations(result))
        parts += [f"## {escaped(table.title)}", table_markdown(table), *map(escaped, notes)]
    made = origin(runs)
    parts.append(f"## How it was obtained\n\n{escaped('; '.join(made['machines']))}. {escaped(made['dates'])}.")
    parts.append("\n".join(["```", *made["commands"], "```"]))
    parts.append(f"What each run was made by stands in `{RUNS_FOLDER}/ROW/seed-N.json`.")
    return "\n\n".join(parts) + "\n"


def study_tables(result: StudyResult, facts: Mapping[str, RowFacts]) -> list[Table]:
    """Scores beside the paper's, differences, every kind, and what it took."""
    return [score_table(result), difference_table(result, facts), kind_table(result, facts), cost_table(result, facts)]


def score_table(result: StudyResult) -> Table:
    """Our levels, and below each row the paper's."""
    rows = []
    for place, row in enumerate(result.rows):
        seeds = ", ".join(map(str, row.seeds)) or row.missing.partition(":")[0]
        ours = (Cell(text=seeds), *(rate(cell.ours) for cell in row.cells.values()))
        rows.append(TableRow(label=row.label, arm=place, cells=ours))
        if any(cell.paper is not None for cell in row.cells.values()):
            papers = (Cell(text=""), *(number(cell.paper, 2) for cell in row.cells.values()))
            rows.append(TableRow(label="the paper's", paper=True, cells=papers))
    title = "Scores, beside the paper's" if has_paper(result) else "Scores"
    return Table(title=title, columns=("row", "seeds", *map(column_name, result.columns)), rows=tuple(rows))


def difference_table(result: StudyResult, facts: Mapping[str, RowFacts]) -> Table:
    """Each row but the first against it: ours, the paper's, whether the signs agree, and the paired test."""
    rows = []
    for place, row in enumerate(result.rows[1:], 1):
        cells = []
        for cell in row.cells.values():
            paper = () if cell.paper_difference is None else (f"paper {signed(cell.paper_difference)}",)
            verdict = (cell.verdict,) if cell.verdict else ()
            cells.append(Cell(text=gain(cell.difference), small=(*paper, *verdict)))
        own = facts.get(row.option)
        test = None if own is None else own.paired
        cells.append(Cell(text=NONE if test is None else f"{test.better} / {test.worse}"))
        cells.append(Cell(text=NONE if test is None else small_number(test.p_value)))
        rows.append(TableRow(label=row.label, arm=place, cells=tuple(cells)))
    note = (
        "Better / worse: different prompts that the row passes more often than the first row, and less often, seeds "
        "and repetitions together, in the kinds of the overall score; p: exact sign test of the two, which knows "
        "nothing of the luck of training."
    )
    heads = ("row", *map(column_name, result.columns), "better / worse", "p")
    title = f"Differences to “{result.rows[0].label}”"
    return Table(title=title, columns=heads, rows=tuple(rows), notes=(note,))


def kind_table(result: StudyResult, facts: Mapping[str, RowFacts]) -> Table:
    """How many different prompts each kind has, its score in every row, and the overall score of every seed."""
    kinds = list(dict.fromkeys(kind for of_row in facts.values() for kind in of_row.kinds))
    asked = {kind: counts for own in facts.values() for kind, counts in own.prompts.items()}
    counts = (*(Cell(text="{} / {}".format(*asked[kind])) for kind in kinds), Cell(text=""))
    rows = [TableRow(label="different prompts / asked", cells=counts)]
    for place, row in enumerate(result.rows):
        own = facts.get(row.option)
        if own is not None:
            seeds = Cell(text=", ".join(f"{score:.2f}" for score in own.by_seed.values()))
            cells = (*(rate(own.kinds[kind]) for kind in kinds), seeds)
            rows.append(TableRow(label=row.label, arm=place, cells=cells))
    repeated = "Prompts that a kind repeats are drawn with other seeds; intervals and tests count each of them once."
    outside = "Kinds whose name starts with “ood” are harder than what was learnt, and stay out of the overall score."
    notes = (repeated, outside) if any(kind.startswith("ood") for kind in kinds) else (repeated,)
    heads = ("row", *map(words, kinds), "overall by seed")
    return Table(title="Every kind of prompt", columns=heads, rows=tuple(rows), notes=notes)


def cost_table(result: StudyResult, facts: Mapping[str, RowFacts]) -> Table:
    """What training and an answer took, and how the process went."""
    shown = [term for term in ("images", "denoise_steps", "text_tokens", "seconds") if any_tells(facts, term)]
    rows = []
    for place, row in enumerate(result.rows):
        own = facts.get(row.option)
        if own is not None:
            cells = (
                number(own.steps, 0),
                number(own.minutes, 1),
                *(number(own.costs.get(term), COSTS[term][1]) for term in shown),
                *(rate(own.process[name], of=True) for name in ("precision", "recall")),
                number(own.f1, 2),
                *(rate(own.process[name], of=True) for name in ("mended", "objects_stay")),
            )
            rows.append(TableRow(label=row.label, arm=place, cells=cells))
    heads = (
        "row", "training steps", "training minutes", *(COSTS[term][0] for term in shown), "inspection precision",
        "recall", "F1", "mended", "objects stay",
    )  # fmt: skip
    note = (
        "Steps and minutes: of the training of a seed; a strategy has those of the model that it draws with. Costs: "
        "means of an answer. Inspections: of the model's own drafts, the judge telling which are wrong, by their plans "
        "or, without any, by the prompt. Mended: of the wrong drafts that were redrawn on an inspection's word, those "
        "that became right. Objects stay: of those that should stand from one draft to the next. The intervals of "
        "these take drafts and objects as independent, which those of one prompt are not: they are too narrow."
    )
    return Table(title="Training, cost and process", columns=heads, rows=tuple(rows), notes=(note,))


def any_tells(facts: Mapping[str, RowFacts], term: str) -> bool:
    """Whether some row knows this cost."""
    return any(term in own.costs for own in facts.values())


def small_number(p_value: float) -> str:
    """A p-value in words."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def origin(runs: Mapping[str, Sequence[RunSummary]]) -> dict[str, Any]:
    """Where and when the runs were drawn and judged, and the commands of the first of them."""
    steps = [run.origin.get(verb) or {} for of_row in runs.values() for run in of_row for verb in ("predict", "test")]
    machines = [step["machine"] for step in steps if step.get("machine")]
    named = dict.fromkeys(
        ", ".join(str(one[key]) for key in ("processor", "accelerator", "torch") if one.get(key)) for one in machines
    )
    dates = sorted(str(date)[:10] for one in (*steps, *machines) if (date := one.get("date")))
    first = [step["command"] for step in steps[:2] if step.get("command")]
    return {
        "machines": list(named) or ["The runs do not name a machine"],
        "dates": " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "The runs tell no date",
        "commands": first,
    }
