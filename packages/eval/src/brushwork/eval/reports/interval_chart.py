"""Scores with their intervals against a number: what an answer costs, how many images it took, which step it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from brushwork.eval.reports.charts import (
    NUM_ARM_STYLES,
    Axis,
    joined,
    line,
    mark,
    svg,
    ticks,
    ticks_logarithmic,
    words,
)
from brushwork.eval.statistics import Interval

SHOULDER = 4
"""Pixels by which arms stand apart where they share an x, so that their limits do not hide each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IntervalSeries:
    """The points of one arm, or of the paper.

    Attributes:
        label: what the tooltip calls it; of the paper's points, what stands beside them.
        points: (x, score), by growing x; scores without an estimate are not drawn.
        arm: number of the arm, decides colour and mark; None for the paper, whose marks are hollow.
        connected: the points follow one another.
    """

    label: str
    points: tuple[tuple[float, Interval], ...]
    arm: int | None = None
    connected: bool = False


def interval_chart(title: str, series: Sequence[IntervalSeries], x_label: str, whole: bool = False) -> Markup:
    """Draw scores between 0 and 1 against x; the x axis is logarithmic where it spans more than a factor of 12.

    Args:
        title: set above.
        series: the arms, and the paper.
        x_label: set below.
        whole: x counts something: ticks at whole numbers, and arms stand a little apart.

    Returns:
        The chart; nothing where there is no point.
    """
    series = [known(one) for one in series]
    across = [x for one in series for x, _ in one.points]
    if not across:
        return Markup("")
    width, height, left, right, top, bottom = 420, 270, 40, 16, 28, 38
    logarithmic = not whole and min(across) > 0 and max(across) / min(across) > 12
    if whole:
        x_ticks = [float(tick) for tick in range(round(min(across)), round(max(across)) + 1)]
        x_ticks = x_ticks[:: len(x_ticks) // 12 + 1]
        x_axis = Axis(low=min(across) - 0.5, high=max(across) + 0.5, start=left, end=width - right)
    else:
        x_ticks = ticks_logarithmic(min(across), max(across)) if logarithmic else ticks(0.0, max(across))
        x_axis = Axis(low=x_ticks[0], high=x_ticks[-1], start=left + 8, end=width - right - 8, logarithmic=logarithmic)
    y_axis = Axis(low=0, high=1, start=height - bottom, end=top)
    parts = [words(title, left, 14, "strong", anchor="start")]
    for tick in ticks(0.0, 1.0):
        parts.append(line(left, y_axis(tick), width - right, y_axis(tick), "grid"))
        parts.append(words(f"{tick:g}", left - 6, y_axis(tick) + 3.5, "tick", anchor="end"))
    parts += [words(f"{tick:g}", x_axis(tick), height - bottom + 14, "tick") for tick in x_ticks]
    note = f"{x_label}; logarithmic" if logarithmic else x_label
    parts.append(words(note, (left + width - right) / 2, height - 6, "tick"))
    arms = sorted({one.arm for one in series if one.arm is not None})
    for one in sorted(series, key=lambda one: one.arm is not None):  # ours on top of the paper's
        aside = (arms.index(one.arm) - (len(arms) - 1) / 2) * SHOULDER if whole and one.arm is not None else 0
        parts.append(drawn(one, x_axis, y_axis, aside))
    return svg("chart", width, height, f"{title} against {x_label}", joined(parts))


def known(series: IntervalSeries) -> IntervalSeries:
    """The series without points of which nothing is known."""
    points = tuple((x, score) for x, score in series.points if score.estimate == score.estimate)
    return IntervalSeries(label=series.label, points=points, arm=series.arm, connected=series.connected)


def drawn(series: IntervalSeries, x_axis: Axis, y_axis: Axis, aside: int | float) -> Markup:
    """The points of a series, shifted by some pixels, with their limits."""
    style = "paper" if series.arm is None else f"arm-{series.arm % NUM_ARM_STYLES}"
    parts = []
    if series.connected and len(series.points) > 1:
        path = " ".join(f"{x_axis(x) + aside:.1f},{y_axis(score.estimate):.1f}" for x, score in series.points)
        parts.append(Markup(f'<polyline class="curve faint {style}" points="{path}"/>'))
    for x, score in series.points:
        px, py = x_axis(x) + aside, y_axis(score.estimate)
        tip = f"{series.label}: {score.estimate:.2f} at {x:g}"
        if series.arm is None:
            shape = Markup(f'<circle class="hollow" cx="{px:.1f}" cy="{py:.1f}" r="4.5"/>')
            beyond = px > (x_axis.start + x_axis.end) / 2
            shape += words(series.label, px - 8 if beyond else px + 8, py + 3.5, "tick", "end" if beyond else "start")
        else:
            tip += f" ({score.low:.2f} to {score.high:.2f}), {score.num} judged"
            limits = line(px, y_axis(score.low), px, y_axis(score.high), f"whisker thin {style}")
            shape = limits + mark(series.arm, px, py)
        parts.append(Markup("<g><title>{}</title>{}</g>").format(tip, shape))
    return joined(parts)
