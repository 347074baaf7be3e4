"""What came of one prompt, for whoever typed it: the words of its trajectory on stdout, its drafts in a picture."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from brushwork.eval.export import write_png
from brushwork.eval.reports.filmstrip import filmstrip
from brushwork.eval.reports.gallery import make_strip
from brushwork.eval.verdicts import ScoredDraft, ScoredTrajectory
from brushwork.tokens.trajectory import Trajectory

STRIP_FILE, ANSWER_FILE = "trajectory.png", "answer.png"


def show_drawing(trajectory: Trajectory, folder: Path) -> None:
    """Writes the strip of drafts and, in its own size, the answer; prints what was said and where the pictures are."""
    strip = np.asarray(filmstrip(make_strip(0, unjudged(trajectory), trajectory)))
    answer = {ANSWER_FILE: trajectory.final_image} if trajectory.finished else {}
    said = Table.grid(padding=(0, 2))
    for role, text in narration(trajectory):
        said.add_row(Text(role, style="dim"), Text(text))
    console = Console()
    console.print(said)
    for name, picture in {**answer, STRIP_FILE: strip}.items():
        write_png(picture, folder / name)
        console.print(Text(str(folder / name)), soft_wrap=True)


def narration(trajectory: Trajectory) -> Iterator[tuple[str, str]]:
    """A trajectory in words: who speaks and what is said, prompt, plans, inspections and refinements in order."""
    yield "prompt", trajectory.prompt
    if "thought" in trajectory.meta:
        yield "thought", str(trajectory.meta["thought"])
    drawn = 0
    for step in trajectory.steps:
        if step.plan is not None:
            yield "plan", step.plan.instruction
        for draft in step.drafts:
            drawn += 1
            yield "draw", f"draft {drawn}"
            if draft.inspection is not None:
                yield "inspect", " · ".join(filter(None, (draft.inspection.plan_check, draft.inspection.draft_check)))
                if draft.inspection.refine:
                    yield "refine", draft.inspection.refine
    why = str(trajectory.meta.get("stopped", "end")).replace("_", " ")
    ending = "" if why == "end" else f", stopped: {why}"
    seconds = trajectory.meta.get("cost", {}).get("seconds")
    took = "" if seconds is None else f", in {seconds:.1f} s"
    yield "answer", (f"draft {drawn}" if trajectory.finished else "none") + ending + took


def unjudged(trajectory: Trajectory) -> ScoredTrajectory:
    """The row of a trajectory of which no judge has said anything."""
    drafts = [
        ScoredDraft(
            step=number,
            draft=place,
            accepts=draft.inspection.accepts if draft.inspection else None,
            shows_plan=None,
            satisfies_prompt=None,
        )
        for number, step in enumerate(trajectory.steps)
        for place, draft in enumerate(step.drafts)
    ]
    return ScoredTrajectory(
        key=trajectory.key,
        prompt=trajectory.prompt,
        kind="free",
        seed=trajectory.meta.get("seed"),
        passed=None,
        score=None,
        reason="",
        judge="",
        rounds=len(drafts),
        steps=len(trajectory.steps),
        drafts=tuple(drafts),
    )
