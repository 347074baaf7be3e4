"""What the report's page shows: the summary's tables and charts, and where the numbers come from."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from brushwork.eval.machine import command_line
from brushwork.eval.reports import charts
from brushwork.eval.reports.plots import cost_charts, learning_curves, rounds_chart, score_forest, step_charts
from brushwork.eval.reports.process_tables import cost_table, inspection_table, settings_table, step_table
from brushwork.eval.reports.runs import Run
from brushwork.eval.reports.score_tables import baseline_table, column, pair_matrix, pair_table, score_table
from brushwork.eval.reports.summary import Summary
from brushwork.eval.reports.tables import Table

NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def report_tables(runs: Sequence[Run], summary: Summary) -> dict[str, Table]:
    """All tables by the place where they stand, in the order of the report; what says nothing is left out."""
    tables = {
        "scores": score_table(summary),
        "matrix": pair_matrix(summary),
        "baselines": baseline_table(summary),
        "cost": cost_table(summary),
        "inspection": inspection_table(summary),
        "steps": step_table(summary),
        "pairs": pair_table(summary),
        "settings": settings_table(runs),
    }
    return {name: table for name, table in tables.items() if table is not None}


def page_context(runs: Sequence[Run], summary: Summary, tables: Mapping[str, Table]) -> dict[str, Any]:
    """What the template asks for besides title and gallery."""
    arms = summary.arms
    kinds = list(dict.fromkeys(kind for arm in arms for kind in arm.kinds))
    rows = [row for run in runs for row in run.rows]
    outcomes = {True: "passed", False: "failed", None: "unjudged"}
    shown = {outcomes[row.passed] for row in rows}
    return {
        "runs": runs,
        "summary": summary,
        "arms": arms,
        "tables": tables,
        "kinds": kinds,
        "column": column,
        "asked": [asked_of(kind, runs) for kind in kinds],
        "outcomes": [outcome for outcome in outcomes.values() if outcome in shown],
        "judges": ", ".join(sorted({row.judge for row in rows if row.judge})) or "none",
        "lead": lead(summary),
        "date": now(),
        "command": command_line(),
        "marks": [charts.legend_mark(arm) for arm in range(len(arms))],
        "tile_bars": [charts.interval_bar(arm.overall, number, 300, labelled=True) for number, arm in enumerate(arms)],
        "forest": score_forest(summary),
        "cost_charts": cost_charts(summary),
        "curves": learning_curves(runs),
        "histograms": [
            charts.histogram(arm.rounds, number, "answers with 1, 2, 3, … images") for number, arm in enumerate(arms)
        ],
        "rounds_chart": rounds_chart(summary),
        "step_charts": step_charts(summary),
        "machines": [describe_machine(run.samples.get("machine", {})) for run in runs],
        "commands": [commands(run) for run in runs],
        "seeds": [{name: seeds(text) for name, text in run.settings.items()} for run in runs],
    }


def lead(summary: Summary) -> str:
    """The sentence below the headline."""
    kinds = {kind for arm in summary.arms for kind in arm.kinds}
    num, distinct = max((arm.num_prompts, arm.settings["prompts"]["distinct"]) for arm in summary.arms)
    asked = f"{num:,} prompts" if distinct == num else f"{num:,} answers to {distinct:,} different prompts"
    named = f"{summary.benchmark}: " if summary.benchmark else ""
    return f"{named}{asked} of {count(len(kinds), 'kind')}, {count(len(summary.arms), 'arm')}, {now()}."


def asked_of(kind: str, runs: Sequence[Run]) -> str:
    """How many prompts of a kind were asked, at most in one arm, and how many are different."""
    asked = [
        [row.prompt for row in run.rows if row.kind == kind]
        + [one["prompt"] for one in run.rejected if one.get("kind") == kind]
        for run in runs
    ]
    distinct = max(len(set(prompts)) for prompts in asked)
    return f"{column(kind)} {max(map(len, asked))} ({distinct} different)"


def commands(run: Run) -> list[str]:
    """The commands behind a run: what opens a configuration as a comment, and what `predict` recorded."""
    first_lines = [text.partition("\n")[0] for text in run.settings.values()]
    found = [line.removeprefix("#").strip() for line in first_lines if re.match(r"#\s*lightning\s", line)]
    return list(dict.fromkeys(command for command in (*found, run.samples.get("command", "")) if command))


def seeds(text: str) -> str:
    """Every `seed: …` of a configuration, for its summary line."""
    found = re.findall(r"^\s*((?:\w+_)?seed):\s*(\d+)", text, flags=re.MULTILINE)
    return ", ".join(f"{name} {value}" for name, value in dict.fromkeys(found))


def describe_machine(facts: Mapping[str, str]) -> str:
    """One line on the machine."""
    known = {
        "processor": "{}",
        "cores": "{} cores",
        "threads": "OMP_NUM_THREADS={}",
        "accelerator": "{}",
        "system": "{}",
        "python": "Python {}",
        "torch": "torch {}",
    }
    return ", ".join(form.format(facts[name]) for name, form in known.items() if name in facts)


def count(number: int, noun: str) -> str:
    """A number and its noun: "six kinds", "one arm", "12 kinds"."""
    word = NUMBER_WORDS[number] if number < len(NUMBER_WORDS) else str(number)
    return f"{word} {noun}{'' if number == 1 else 's'}"


def now() -> str:
    """The present minute, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
