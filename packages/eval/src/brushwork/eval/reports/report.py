"""Judged runs → one self-contained HTML page, the same as Markdown and as JSON, and pictures: `lightning report`.

Given a data set instead, the page that shows what is in it; given a study, its table beside the paper's.
"""

import io
import json
import logging
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image as PillowImage
from rich.console import Console
from rich.text import Text

from brushwork.eval.machine import command_line
from brushwork.eval.reports.charts import standalone
from brushwork.eval.reports.contact_sheet import contact_sheet
from brushwork.eval.reports.dataset import dataset_context
from brushwork.eval.reports.filmstrip import filmstrip
from brushwork.eval.reports.gallery import choose_hero, choose_keys, group_cards, make_cards
from brushwork.eval.reports.markdown import report_markdown
from brushwork.eval.reports.page import now, page_context, report_tables
from brushwork.eval.reports.runs import load_runs
from brushwork.eval.reports.study import read_study
from brushwork.eval.reports.study_files import write_results
from brushwork.eval.reports.study_table import explanations, study_context, study_json, study_table
from brushwork.eval.reports.summary import summarise, to_json
from brushwork.eval.verdicts import write_text

log = logging.getLogger(__name__)

PICTURES = {
    "scores.svg": "Scores with 95% intervals, by kind and arm",
    "cost.svg": "Score against cost",
    "trajectory.png": "One trajectory, step by step",
    "contact_sheet.png": "Answers of all arms to the same prompts",
}
"""File beside the page → what it shows, in the order of `report.md`."""


def report(
    runs: str | Path | Mapping[str, str | Path] | None,
    out: str | Path,
    title: str = "Drawing in strokes, measured",
    baseline: str | None = None,
    gallery_per_kind: int = 2,
    seed: int = 0,
    dataset: str | Path | None = None,
    study: str | None = None,
    results: str | Path | None = None,
) -> Path:
    """Compare arms that answered the same benchmark, or the rows of a study, or show what a data set holds.

    Args:
        runs: arm name → run folder, or one folder whose subfolders are the arms. A run folder holds `verdicts.jsonl`
            and `predictions/`, and may hold `scores.json`, `logs/**/metrics.csv` (Lightning) and the `*.yaml` of its
            commands. None: `outputs`, or `outputs/studies` for a study.
        out: gets `report.html`, the same as `report.md` and `results.json`, the charts `scores.svg` and `cost.svg`,
            `contact_sheet.png` and, where an answer has several drafts, one of them as `trajectory.png`.
        title: the page's headline.
        baseline: arm against which the page's tiles compare the others prompt by prompt; the first where it is None.
        gallery_per_kind: passed and failed answers that the gallery shows at least, of each kind and arm; of a data
            set, samples of each split, kind and label.
        seed: of the gallery's choice and of the bootstrap.
        dataset: folder of shards that `lightning build` wrote. Where it is given, `out` gets `dataset.html` alone;
            runs, title, baseline and study are not looked at.
        study: one of `study.STUDIES`, whose rows are in `runs` as `<row>/seed-<n>/`. Its table goes to stdout, and
            `out` gets `study.html` and `study.json` alone; title, baseline, gallery and seed are not looked at.
        results: of a study: folder that gets small files to keep, a summary of each run and the table, see
            `write_results`. The table is then made of all summaries in it, also of runs that are no longer in `runs`.

    Returns:
        The path of `report.html`, `dataset.html` or `study.html`.

    Raises:
        FileNotFoundError: a run has no verdicts, or the data set no shards; the message names the command that makes
            them.
        ValueError: no runs, runs of different benchmarks or scales, a baseline that is none of them, a negative gallery
            size or seed, or no such study.
    """
    folder = Path(out)
    if dataset is not None:
        facts = {"date": now(), "command": command_line()}
        page = render({**dataset_context(dataset, gallery_per_kind, seed), **facts}, "dataset")
        write_text(folder / "dataset.html", page)
        log.info("wrote %s", folder / "dataset.html")
        return folder / "dataset.html"
    if study is not None:
        return report_study(study, "outputs/studies" if runs is None else runs, folder, results)
    return report_runs("outputs" if runs is None else runs, folder, title, baseline, gallery_per_kind, seed)


def report_runs(
    runs: str | Path | Mapping[str, str | Path],
    folder: Path,
    title: str,
    baseline: str | None,
    gallery_per_kind: int,
    seed: int,
) -> Path:
    """Read the runs, sum them up once, and write every view of the summary; arguments and errors as in `report`."""
    loaded = load_runs(runs)
    summary = summarise(loaded, baseline, seed=seed)
    tables = report_tables(loaded, summary)
    cards = make_cards(loaded, choose_keys(loaded, gallery_per_kind, seed))
    hero = choose_hero(loaded) if cards else None  # of all answers, not only those shown
    context = page_context(loaded, summary, tables) | {"title": title, "hero": hero}
    gallery = {"gallery": group_cards(cards), "gallery_per_kind": gallery_per_kind, "gallery_seed": seed}
    results = {"format": 2, "date": now(), "command": command_line(), **to_json(summary)}
    texts = {
        "report.html": render({**context, **gallery}),
        "results.json": json.dumps(results, indent=1, ensure_ascii=False) + "\n",
    }
    charts = {"scores.svg": context["forest"], "cost.svg": next(iter(context["cost_charts"]), "")}
    texts |= {name: standalone(chart, style_sheet()) for name, chart in charts.items() if chart}
    pictures = {"contact_sheet.png": contact_sheet(loaded, cards)}
    pictures |= {} if hero is None else {"trajectory.png": filmstrip(hero)}
    shown = [(name, words) for name, words in PICTURES.items() if name in texts or name in pictures]
    texts["report.md"] = report_markdown(title, context["lead"], summary.warnings, list(tables.values()), shown)
    for name, text in texts.items():
        write_text(folder / name, text)
    for name, picture in pictures.items():
        write_picture(picture, folder / name)
    for name in (*texts, *pictures):
        log.info("wrote %s", folder / name)
    return folder / "report.html"


def report_study(
    name: str, runs: str | Path | Mapping[str, str | Path], folder: Path, results: str | Path | None = None
) -> Path:
    """Print the table of a study and write it as a page and as JSON, and among results where their folder is given.

    Raises:
        FileNotFoundError: no row has a judged run.
        ValueError: no such study, or runs that are not one folder.
    """
    if isinstance(runs, Mapping):
        raise ValueError("a study's rows are subfolders of one folder; expected e.g. runs=outputs/studies")
    result = read_study(name, runs) if results is None else write_results(name, runs, results)
    console = Console()
    console.print(study_table(result))
    console.print(*(Text(sentence) for sentence in explanations(result)), sep="\n", soft_wrap=True)
    page = render({**study_context(result), "date": now(), "command": command_line()}, "study")
    write_text(folder / "study.html", page)
    content = {"format": 1, "date": now(), **study_json(result)}
    write_text(folder / "study.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    log.info("wrote %s and %s", folder / "study.html", folder / "study.json")
    return folder / "study.html"


def render(context: Mapping[str, Any], name: str = "report") -> str:
    """The page of this name; every text is escaped, and a name that the template misspells is an error."""
    templates = files("brushwork.eval.reports").joinpath("templates")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(templates.joinpath(f"{name}.html.j2").read_text(encoding="utf-8"))
    # Our own files, hence safe to embed as they are.
    style = Markup(style_sheet())
    script = templates.joinpath(f"{name}.js")
    script = Markup(script.read_text(encoding="utf-8").strip()) if script.is_file() else ""
    return template.render(**context, style=style, script=script)


def style_sheet() -> str:
    """The style of all pages."""
    return files("brushwork.eval.reports").joinpath("templates", "report.css").read_text(encoding="utf-8").strip()


def write_picture(picture: PillowImage.Image, path: Path) -> None:
    """Write a PNG beside its place and move it there."""
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(buffer.getvalue())
    os.replace(partial, path)
