"""Judged runs → one self-contained HTML page, a contact sheet and `results.json`: `lightning report`.

Given a data set instead, the page that shows what is in it; given a study, its table beside the paper's.
"""

import io
import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image as PillowImage
from rich.console import Console
from rich.text import Text

from brushwork.eval import charts
from brushwork.eval.contact_sheet import contact_sheet
from brushwork.eval.dataset import dataset_context
from brushwork.eval.filmstrip import filmstrip
from brushwork.eval.gallery import choose_hero, choose_keys, make_cards
from brushwork.eval.machine import command_line
from brushwork.eval.runs import Run, load_runs
from brushwork.eval.statistics import Interval, wilson
from brushwork.eval.study import read_study
from brushwork.eval.study_table import explanations, study_context, study_json, study_table
from brushwork.eval.summary import ArmSummary, summarise, to_json
from brushwork.eval.verdicts import write_text

log = logging.getLogger(__name__)

NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def report(
    runs: str | Path | Mapping[str, str | Path] | None,
    out: str | Path,
    title: str = "Drawing in strokes, measured",
    baseline: str | None = None,
    gallery_per_kind: int = 2,
    seed: int = 0,
    dataset: str | Path | None = None,
    study: str | None = None,
) -> Path:
    """Compare arms that answered the same benchmark, or the rows of a study, or show what a data set holds.

    Args:
        runs: arm name → run folder, or one folder whose subfolders are the arms. A run folder holds `verdicts.jsonl`
            and `predictions/`, and may hold `logs/**/metrics.csv` (Lightning) and the `*.yaml` of its commands. None:
            `outputs`, or `outputs/studies` for a study.
        out: gets `report.html`, `contact_sheet.png`, `results.json` and, where an answer has several drafts, one of
            them as `trajectory.png`.
        title: the page's headline.
        baseline: arm against which the others are compared prompt by prompt; the first where it is None.
        gallery_per_kind: passed and failed answers that the gallery shows at least, of each kind and arm; of a data
            set, samples of each split, kind and label.
        seed: of the gallery's choice.
        dataset: folder of shards that `lightning build` wrote. Where it is given, `out` gets `dataset.html` alone;
            runs, title, baseline and study are not looked at.
        study: one of `brushwork.eval.study.STUDIES`, whose rows are in `runs` as `<row>/seed-<n>/`. Its table goes to
            stdout, and `out` gets `study.html` and `study.json` alone; title, baseline, gallery and seed are not looked
            at.

    Returns:
        The path of `report.html`, `dataset.html` or `study.html`.

    Raises:
        FileNotFoundError: a run has no verdicts, or the data set no shards; the message names the command that makes
            them.
        ValueError: no runs, a baseline that is none of them, a negative gallery size or seed, or no such study.
    """
    folder = Path(out)
    if dataset is not None:
        facts = {"date": now(), "command": command_line()}
        page = render({**dataset_context(dataset, gallery_per_kind, seed), **facts}, "dataset")
        write_text(folder / "dataset.html", page)
        log.info("wrote %s", folder / "dataset.html")
        return folder / "dataset.html"
    if study is not None:
        return report_study(study, "outputs/studies" if runs is None else runs, folder)
    loaded = load_runs("outputs" if runs is None else runs)
    arms = summarise(loaded, baseline)
    cards = make_cards(loaded, choose_keys(loaded, gallery_per_kind, seed))
    everything = sorted({row.key for run in loaded for row in run.rows})
    hero = choose_hero(make_cards(loaded, everything)) if cards else None  # of all answers, not only those shown
    gallery = {"cards": cards, "hero": hero, "gallery_per_kind": gallery_per_kind, "gallery_seed": seed}
    page = render({**gallery, **page_context(loaded, arms, baseline or loaded[0].name), "title": title})
    write_text(folder / "report.html", page)
    results = {"format": 1, "date": now(), "runs": {arm.name: to_json(arm) for arm in arms}}
    write_text(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_picture(contact_sheet(loaded, cards), folder / "contact_sheet.png")
    written = ["report.html", "contact_sheet.png", "results.json"]
    if hero is not None:
        write_picture(filmstrip(hero), folder / "trajectory.png")
        written.append("trajectory.png")
    for name in written:
        log.info("wrote %s", folder / name)
    return folder / "report.html"


def report_study(name: str, runs: str | Path | Mapping[str, str | Path], folder: Path) -> Path:
    """Print the table of a study and write it as a page and as JSON.

    Raises:
        FileNotFoundError: no row has a judged run.
        ValueError: no such study, or runs that are not one folder.
    """
    if isinstance(runs, Mapping):
        raise ValueError("a study's rows are subfolders of one folder; expected e.g. runs=outputs/studies")
    result = read_study(name, runs)
    console = Console()
    console.print(study_table(result))
    console.print(*(Text(sentence) for sentence in explanations(result)), sep="\n", soft_wrap=True)
    page = render({**study_context(result), "date": now(), "command": command_line()}, "study")
    write_text(folder / "study.html", page)
    content = {"format": 1, "date": now(), **study_json(result)}
    write_text(folder / "study.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    log.info("wrote %s and %s", folder / "study.html", folder / "study.json")
    return folder / "study.html"


def page_context(runs: Sequence[Run], arms: Sequence[ArmSummary], baseline: str) -> dict[str, Any]:
    """What the template asks for besides the gallery."""
    kinds = list(dict.fromkeys(kind for arm in arms for kind in arm.kinds))
    groups = [("overall", [arm.overall for arm in arms])]
    groups += [(kind.replace("_", " "), [arm.kinds.get(kind) for arm in arms]) for kind in kinds]
    rows = [row for run in runs for row in run.rows]
    outcomes = {True: "passed", False: "failed", None: "unjudged"}
    shown = {outcomes[row.passed] for row in rows}
    num_prompts = max(arm.num_prompts for arm in arms)
    return {
        "runs": runs,
        "arms": arms,
        "baseline": baseline,
        "kinds": kinds,
        "ood": any(kind.startswith("ood") for kind in kinds),
        "outcomes": [outcome for outcome in outcomes.values() if outcome in shown],
        "judged": [sum(row.passed is not None for row in run.rows) for run in runs],
        "judges": ", ".join(sorted({row.judge for row in rows if row.judge})) or "none",
        "lead": f"{num_prompts} prompts of {count(len(kinds), 'kind')}, {count(len(arms), 'arm')}, {now()}.",
        "num_prompts": num_prompts,
        "date": now(),
        "command": command_line(),
        "marks": [charts.legend_mark(arm) for arm in range(len(arms))],
        "bars": [charts.interval_bar(arm.overall, number) for number, arm in enumerate(arms)],
        "tile_bars": [charts.interval_bar(arm.overall, number, 300, labelled=True) for number, arm in enumerate(arms)],
        "prompts_of": {kind: prompts_of(kind, runs) for kind in kinds},
        "forest": charts.forest(groups),
        "curves": learning_curves(runs),
        "histograms": [
            charts.histogram(arm.rounds, number, "answers with 1, 2, 3, … images") for number, arm in enumerate(arms)
        ],
        "process": [process_view(arm) for arm in arms],
        "machines": [describe_machine(run.samples.get("machine", {})) for run in runs],
        "commands": [commands(run) for run in runs],
        "seeds": [{name: seeds(text) for name, text in run.settings.items()} for run in runs],
    }


def render(context: Mapping[str, Any], name: str = "report") -> str:
    """The page of this name; every text is escaped, and a name that the template misspells is an error."""
    templates = files("brushwork.eval").joinpath("templates")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(templates.joinpath(f"{name}.html.j2").read_text(encoding="utf-8"))
    # Our own files, hence safe to embed as they are.
    style = Markup(templates.joinpath("report.css").read_text(encoding="utf-8").strip())
    script = templates.joinpath(f"{name}.js")
    script = Markup(script.read_text(encoding="utf-8").strip()) if script.is_file() else ""
    return template.render(**context, style=style, script=script)


def learning_curves(runs: Sequence[Run]) -> list[Markup]:
    """A chart for each quantity that the logs hold, training solid and validation dashed."""
    by_minutes = any(math.isfinite(minutes) for run in runs for curve in run.curves for _, minutes, _ in curve.points)
    panels: dict[str, list[charts.Series]] = {}
    for arm, run in enumerate(runs):
        for curve in run.curves:
            stage, _, quantity = curve.name.rpartition("/")
            series = charts.Series(
                arm=arm,
                label=f"{run.name}: {curve.name}",
                points=charts.smoothed(curve, by_minutes),
                dashed=stage.startswith("val"),
            )
            panels.setdefault(quantity, []).append(series)
    x_label = "training minutes" if by_minutes else "optimiser steps"
    return [chart for name, series in panels.items() if (chart := charts.line_chart(name, series, x_label))]


def prompts_of(kind: str, runs: Sequence[Run]) -> dict[str, int]:
    """How many prompts of a kind were judged or should have been, at most in one arm, and how many are different."""
    asked = [[row.prompt for row in run.rows if row.kind == kind] for run in runs]
    return {"num": max(map(len, asked)), "distinct": max(len(set(prompts)) for prompts in asked)}


def process_view(arm: ArmSummary) -> dict[str, Any]:
    """The process metrics as counts and intervals."""
    inspection, success, spoiling = (arm.process[name] for name in ("inspection", "refine_success", "over_correction"))
    f1 = inspection["f1"]
    return {
        "drafts": int(inspection["drafts"]),
        "wrong": int(inspection["wrong"]),
        "flagged": int(inspection["flagged"]),
        "precision": share(inspection["flagged_wrong"], inspection["flagged"]),
        "recall": share(inspection["flagged_wrong"], inspection["wrong"]),
        "f1": None if math.isnan(f1) else f1,
        "mended": share(success["mended"], success["refined_wrong"]),
        "spoilt": share(spoiling["spoilt"], spoiling["refined_right"]),
    }


def share(part: float, whole: float) -> Interval:
    """A share of counted drafts with its interval."""
    return wilson(int(part), int(whole))


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


def write_picture(picture: PillowImage.Image, path: Path) -> None:
    """Write a PNG beside its place and move it there."""
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(buffer.getvalue())
    os.replace(partial, path)
