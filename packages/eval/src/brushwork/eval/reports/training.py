"""What is known of the training of the model that answered: whose run it was, how long it learnt, and from what."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from brushwork.eval.reports.runs import METRICS_FILES, Curve, Run, read_curves
from brushwork.eval.reports.summary import training_so_far
from brushwork.eval.verdicts import read_record
from brushwork.flow.adapters import MADE_BY

MODEL_FOLDER = "model"


def trained_folder(run: Run) -> Path | None:
    """The folder of the run that trained the model; a strategy draws with that of another row.

    Returns:
        The run's own folder, or the one beside it, `<row>/seed-<n>`, or elsewhere, that the sampler names; None where
        the model was not trained in any, such as one that is named.
    """
    if (run.folder / MODEL_FOLDER).is_dir() or "fit.yaml" in run.settings:
        return run.folder
    model = Path(str(run.scored.get("sampler", {}).get("model") or ""))
    if len(model.parts) < 2:
        return None
    places = (run.folder.parents[1].joinpath(*model.parts[-3:-1]), model.parent)
    return next((place for place in places if (place / MODEL_FOLDER).is_dir() or (place / "fit.yaml").is_file()), None)


def with_training(run: Run, folder: Path | None) -> Run:
    """The run with the log and the settings of the training of its model in this folder, where that is not its own."""
    if folder is None or folder == run.folder:
        return run
    settings = folder / "fit.yaml"
    fit = {"fit.yaml": settings.read_text(encoding="utf-8")} if settings.is_file() else {}
    logs = sorted(folder.glob(METRICS_FILES), key=lambda path: path.stat().st_mtime)
    return replace(run, settings={**run.settings, **fit}, curves=read_curves(logs))


def training_of(run: Run, folder: Path | None) -> dict[str, Any]:
    """Facts of the training, as far as they are told.

    Args:
        run: `with_training`.
        folder: `trained_folder` of the run.

    Returns:
        `run`: row and seed that trained the model, or the model's name; `steps` of the optimiser and `minutes`;
        `tokens` and `images` learnt from, about, by the log's speeds; `validation`: the last loss of each name;
        `base`: folder or name of what the training began with, or the function that made it; `finetune`: the function
        that chose what learns; `data`: folders; `versions`, `commit`.
    """
    if folder is None:
        model = run.scored.get("sampler", {}).get("model")
        return {"run": str(model)} if model else {}
    made = read_record(folder / MODEL_FOLDER / MADE_BY, "train the model again")
    config = made.get("config") or {}
    model, data = config.get("model") or {}, config.get("data") or {}
    facts = {
        "run": "/".join(folder.parts[-2:]),
        **training_so_far(run),
        **({"steps": made["steps"]} if "steps" in made else {}),
        **amounts(run.curves),
        "validation": {curve.name: curve.points[-1][-1] for curve in run.curves if curve.name.startswith("val/")},
        "base": model.get("source") or last_name(model),
        "finetune": last_name(config.get("finetune") or {}),
        "view": last_name(data.get("view") or {}),
        "data": [folder for folder in (data.get("folder"), *(data.get("more") or ())) if folder],
        "versions": made.get("versions"),
        "commit": made.get("commit"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "", [], {})}


def last_name(node: Mapping[str, Any]) -> str:
    """The function or class that a node of a config calls, without its module."""
    return ".".join(part for part in str(node.get("_target_") or "").split(".")[-1:])


def amounts(curves: Sequence[Curve]) -> dict[str, int]:
    """Tokens and images that were learnt from, by the speeds of the log, to three digits; empty without them."""
    by_name = {curve.name: {step: value for step, _, value in curve.points} for curve in curves}
    seconds = by_name.get("speed/step_seconds", {})
    found = {}
    for what in ("tokens", "images"):
        speeds = by_name.get(f"speed/{what}_per_second", {})
        total, before = 0.0, -1.0  # steps are logged from 0
        for step, speed in sorted(speeds.items()):
            total += speed * seconds.get(step, 0.0) * max(0.0, step - before)
            before = step
        if total and math.isfinite(total):
            found[what] = int(float(f"{total:.3g}"))
    return found
