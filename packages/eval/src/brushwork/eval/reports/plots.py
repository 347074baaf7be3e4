"""Which charts a report draws of its numbers: score by cost, by images and by step, learning curves, histograms."""

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from brushwork.eval.reports import charts
from brushwork.eval.reports.interval_chart import IntervalSeries, interval_chart
from brushwork.eval.reports.paper import PROCESS_BASELINES
from brushwork.eval.reports.process_tables import agreement, by_step
from brushwork.eval.reports.runs import Run
from brushwork.eval.reports.score_tables import column, is_geneval
from brushwork.eval.reports.summary import ArmSummary, Summary
from brushwork.eval.reports.tables import words
from brushwork.eval.statistics import Interval


def score_forest(summary: Summary) -> Markup:
    """All scores side by side, the overall ones first."""
    kinds = list(dict.fromkeys(kind for arm in summary.arms for kind in arm.kinds))
    groups = [(words(name), [arm.overalls.get(name) for arm in summary.arms]) for name in summary.weights]
    groups += [(column(kind), [arm.kinds.get(kind) for arm in summary.arms]) for kind in kinds]
    return charts.forest(groups)


def cost_charts(summary: Summary) -> list[Markup]:
    """Headline score against denoising steps, on GenEval with the paper's points, and against model forwards."""
    paper = [
        IntervalSeries(label=row.strategy.removeprefix("BAGEL + "), points=((float(row.cost), exact(row.overall)),))
        for row in PROCESS_BASELINES
        if is_geneval(summary)
    ]
    panels = {"denoise_steps": ("denoising steps an answer", paper), "model_forwards": ("model forwards an answer", [])}
    return [
        chart
        for term, (label, others) in panels.items()
        if (chart := interval_chart("score against cost", [*cost_series(summary, term), *others], label))
    ]


def cost_series(summary: Summary, term: str) -> list[IntervalSeries]:
    """A point an arm that tells this cost."""
    return [
        IntervalSeries(label=words(arm.name), arm=place, points=((arm.cost[term].mean, arm.overall),))
        for place, arm in enumerate(summary.arms)
        if term in arm.cost
    ]


def exact(score: float) -> Interval:
    """A figure that came without an interval."""
    return Interval(estimate=score, low=score, high=score, num=0)


def rounds_chart(summary: Summary) -> Markup:
    """Score by the number of images that an answer took; nothing where all took one."""
    if all(len(arm.rounds) < 2 for arm in summary.arms):
        return Markup("")
    return interval_chart("score by images", series(summary, score_by_rounds), "images in the answer", whole=True)


def step_charts(summary: Summary) -> list[Markup]:
    """Agreement of drafts with plans and survival of objects, by the number of the step."""
    panels: dict[str, Callable[[ArmSummary], Mapping[int, Interval]]] = {
        "first draft shows the plans": lambda arm: agreement(arm, "first"),
        "last draft shows the plans": lambda arm: agreement(arm, "last"),
        "objects stay": lambda arm: by_step(arm.process["survival"], "rate_step_", "stood_step_"),
    }
    drawn = [interval_chart(title, series(summary, points), "step", whole=True) for title, points in panels.items()]
    return [chart for chart in drawn if chart]


def score_by_rounds(arm: ArmSummary) -> Mapping[int, Interval]:
    """Number of images → score."""
    return arm.score_by_rounds


def series(summary: Summary, points: Callable[[ArmSummary], Mapping[int, Interval]]) -> list[IntervalSeries]:
    """A connected series an arm."""
    return [
        IntervalSeries(
            label=words(arm.name),
            arm=place,
            points=tuple((float(x), score) for x, score in points(arm).items()),
            connected=True,
        )
        for place, arm in enumerate(summary.arms)
    ]


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
