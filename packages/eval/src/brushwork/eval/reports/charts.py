"""Small SVG charts for the report, drawn here so that the page needs no library and no network.

Colours come from the page's style sheet through the classes `arm-0` … `arm-7`, hence follow light and dark mode; arms
also differ by the shape of their mark. All text is escaped.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from brushwork.eval.reports.runs import Curve
from brushwork.eval.statistics import Interval

NUM_ARM_STYLES = 8
QUARTERS = (0, 0.25, 0.5, 0.75, 1)
MAX_POINTS = 160
"""Bins along a learning curve: about one a pixel pair at the size at which it is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a line chart.

    Attributes:
        arm: number of the arm, decides colour and mark.
        label: what the tooltip calls it.
        points: (x, y) in data units, by growing x.
        dashed: validation rather than training.
    """

    arm: int
    label: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """Data values to pixels.

    Attributes:
        low: data value at `start`.
        high: data value at `end`.
        start: pixel of `low`.
        end: pixel of `high`; less than `start` for an axis that goes up.
        logarithmic: equal factors are equally far apart; needs `low` > 0.
    """

    low: int | float
    high: int | float
    start: int | float
    end: int | float
    logarithmic: bool = False

    def __call__(self, value: int | float) -> float:
        """The pixel of a value."""
        low, high, at = (math.log(one) if self.logarithmic else one for one in (self.low, self.high, value))
        return self.start + (at - low) / ((high - low) or 1) * (self.end - self.start)


def svg(style: str, width: int | float, height: int | float, label: str, content: Markup) -> Markup:
    """A picture that fills its column and has a name for screen readers."""
    frame = '<svg class="{}" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>'
    return Markup(frame).format(style, width, height, label, content)


def standalone(chart: Markup, style: str) -> str:
    """A chart as a file of its own: with its namespace and the page's style sheet inside."""
    head, _, rest = str(chart).partition(">")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{head}><style>{style}</style>{rest}\n"


def line(x1: int | float, y1: int | float, x2: int | float, y2: int | float, style: str) -> Markup:
    """A straight line."""
    return Markup(f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')


def words(text: str, x: int | float, y: int | float, style: str = "", anchor: str = "middle") -> Markup:
    """A line of text, escaped."""
    element = '<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    return Markup(element).format(style, x, y, anchor, text)


def joined(parts: Iterable[Markup]) -> Markup:
    """The parts one after the other."""
    return Markup("").join(parts)


def mark(arm: int, x: int | float, y: int | float, size: int | float = 4) -> Markup:
    """The arm's mark: circle, square, triangle, diamond, then again."""
    style = f'class="mark arm-{arm % NUM_ARM_STYLES}"'
    if arm % 4 == 0:
        return Markup(f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>')
    corners = {
        1: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2: [(0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
        3: [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
    }[arm % 4]
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
    return Markup(f'<polygon {style} points="{points}"/>')


def legend_mark(arm: int) -> Markup:
    """The arm's mark as a picture of 14 by 14 for legends and table rows."""
    frame = '<svg class="key" viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">{}</svg>'
    return Markup(frame).format(mark(arm, 7, 7))


def interval_bar(interval: Interval, arm: int, width: int = 150, labelled: bool = False) -> Markup:
    """One interval on a 0-1 axis, small enough for a table cell.

    Args:
        interval: what to show; nothing is drawn where there is no estimate.
        arm: number of the arm.
        width: in pixels.
        labelled: write 0, 0.5 and 1 below the axis.
    """
    if math.isnan(interval.estimate):
        return Markup("")
    axis = Axis(low=0, high=1, start=8, end=width - 8)
    parts = [line(axis(tick), 3, axis(tick), 17, "grid") for tick in QUARTERS]
    if labelled:
        parts += [words(f"{tick:g}", axis(tick), 30, "tick") for tick in (0, 0.5, 1)]
    label = f"{interval.estimate:.2f}, from {interval.low:.2f} to {interval.high:.2f}"
    size = f'viewBox="0 0 {width} {34 if labelled else 20}" width="{width}"'
    return Markup(
        f'<svg class="interval" {size} role="img" aria-label="{label}">'
        f"{joined(parts)}{whisker(interval, arm, axis, 10)}</svg>"
    )


def whisker(interval: Interval, arm: int, axis: Axis, y: int | float) -> Markup:
    """An interval as a line with the arm's mark at the estimate."""
    limits = line(axis(interval.low), y, axis(interval.high), y, f"whisker arm-{arm % NUM_ARM_STYLES}")
    return limits + mark(arm, axis(interval.estimate), y)


def forest(groups: Sequence[tuple[str, Sequence[Interval | None]]]) -> Markup:
    """All intervals side by side: a band per kind, in it a whisker per arm, on a common 0-1 axis.

    Args:
        groups: (kind, one interval per arm in the order of the arms; None where the arm has no such kind). The first
            group is set in bold.
    """
    left, width, row, gap = 132, 900, 12, 13
    axis = Axis(low=0, high=1, start=left, end=width - 24)
    parts, top = [], 10.0
    for number, (label, intervals) in enumerate(groups):
        centre = top + row * len(intervals) / 2
        parts.append(words(label, left - 14, centre + 4, "strong" if number == 0 else "", anchor="end"))
        for arm, interval in enumerate(intervals):
            if interval is None or math.isnan(interval.estimate):
                continue
            limits = f" ({interval.low:.2f} to {interval.high:.2f}), {interval.num} judged" if interval.num else ""
            tip = f"{label}: {interval.estimate:.2f}{limits}"
            drawn = whisker(interval, arm, axis, top + row * (arm + 0.5))
            parts.append(Markup("<g><title>{}</title>{}</g>").format(tip, drawn))
        top += row * len(intervals) + gap
        parts.append(line(8, top - gap / 2, width - 8, top - gap / 2, "grid"))
    grid = [line(axis(tick), 4, axis(tick), top - gap / 2, "grid") for tick in QUARTERS]
    grid += [words(f"{tick:g}", axis(tick), top + 10, "tick") for tick in QUARTERS]
    label = "Share of prompts passed, by kind and arm, with 95% intervals"
    return svg("chart", width, top + 18, label, joined(grid + parts))


def line_chart(title: str, series: Sequence[Series], x_label: str) -> Markup:
    """Learning curves of one quantity; the y axis is logarithmic where the values span more than a factor of 12.

    Returns:
        The chart; nothing where no series has a point.
    """
    series = [one for one in series if one.points]
    values = [y for one in series for _, y in one.points]
    if not values:
        return Markup("")
    width, height, left, right, top, bottom = 300, 200, 44, 12, 26, 36
    logarithmic = min(values) > 0 and max(values) / min(values) > 12
    y_ticks = ticks_logarithmic(min(values), max(values)) if logarithmic else ticks(min(0.0, *values), max(values))
    x_ticks = ticks(0.0, max(x for one in series for x, _ in one.points))
    across = Axis(low=0, high=x_ticks[-1], start=left, end=width - right)
    up = Axis(low=y_ticks[0], high=y_ticks[-1], start=height - bottom, end=top, logarithmic=logarithmic)
    parts = [words(title, left, 14, "strong", anchor="start")]
    for tick in y_ticks:
        parts.append(line(left, up(tick), width - right, up(tick), "grid"))
        parts.append(words(f"{tick:g}", left - 6, up(tick) + 3.5, "tick", anchor="end"))
    parts += [words(f"{tick:g}", across(tick), height - bottom + 14, "tick") for tick in x_ticks]
    note = f"{x_label}; y logarithmic" if logarithmic else x_label
    parts.append(words(note, (left + width - right) / 2, height - 5, "tick"))
    for one in series:
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in one.points)
        style = f"curve{' dashed' if one.dashed else ''} arm-{one.arm % NUM_ARM_STYLES}"
        curve = Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>').format(style, path, one.label)
        parts += [curve, mark(one.arm, across(one.points[-1][0]), up(one.points[-1][1]), 3)]
    return svg("chart", width, height, f"{title} against {x_label}", joined(parts))


def histogram(counts: Sequence[int], arm: int, label: str) -> Markup:
    """Bars over 1, 2, 3, …, with the counts above them."""
    return columns([(str(number), count) for number, count in enumerate(counts, start=1)], arm, label)


def columns(bins: Sequence[tuple[str, int]], arm: int, label: str) -> Markup:
    """Bars of one width, below each what it counts and above it the count; wide enough for both.

    Args:
        bins: (what is counted, how many) from left to right.
        arm: number of the arm.
        label: what screen readers call the chart.
    """
    longest = max((len(text) for name, count in bins for text in (name, str(count))), default=0)
    bar, height, bottom = max(28, 6 * longest + 4), 76, 16
    width = len(bins) * bar + 8
    up = Axis(low=0, high=max((count for _, count in bins), default=0) or 1, start=height - bottom, end=14)
    parts = []
    for number, (name, count) in enumerate(bins):
        left, top = number * bar + 4, up(count)
        parts.append(
            Markup(
                f'<rect class="bar arm-{arm % NUM_ARM_STYLES}" x="{left}" y="{top:.1f}" width="{bar - 6}" '
                f'height="{height - bottom - top:.1f}"/>'
            )
        )
        middle = left + (bar - 6) / 2
        parts += [words(str(count or ""), middle, top - 3, "tick"), words(name, middle, height - 4, "tick")]
    label = f"{label}: {', '.join(str(count) for _, count in bins)}"
    return framed(width, height, label, parts)


def ranking(counts: Mapping[str, int], arm: int, label: str, most: int = 40) -> Markup:
    """A bar for each name with its count behind it, the longest first.

    Args:
        counts: name → how many.
        arm: number of the arm.
        label: what screen readers call the chart.
        most: names that are shown; the rest is summed up in words.
    """
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown, rest = ranked[:most], ranked[most:]
    left, row, length, width = 150, 20, 160, 380
    across = Axis(low=0, high=max((count for _, count in shown), default=0) or 1, start=left, end=left + length)
    parts = []
    for number, (name, count) in enumerate(shown):
        top, end = number * row, across(count)
        short = name if len(name) <= 24 else f"{name[:23]}…"
        bar = Markup(
            f'<rect class="bar arm-{arm % NUM_ARM_STYLES}" x="{left}" y="{top + 3}" width="{end - left:.1f}" '
            f'height="{row - 6}"/>'
        )
        parts.append(Markup("<g><title>{}</title>{}</g>").format(f"{name}: {count}", bar))
        parts.append(words(short.replace("_", " ") or "–", left - 8, top + 14, "tick", anchor="end"))
        parts.append(words(f"{count:,}", end + 6, top + 14, "tick", anchor="start"))
    if rest:
        text = f"{len(rest)} more, together {sum(count for _, count in rest):,}"
        parts.append(words(text, left, len(shown) * row + 14, "tick", anchor="start"))
    named = ", ".join(f"{name} {count}" for name, count in shown)
    return framed(width, row * (len(shown) + bool(rest)), f"{label}: {named}", parts)


def framed(width: int, height: int, label: str, parts: Iterable[Markup]) -> Markup:
    """A small chart at its natural size, with a name for screen readers."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    frame = f'<svg class="histogram" {size} role="img" aria-label="{{}}">{{}}</svg>'
    return Markup(frame).format(label, joined(parts))


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers that cover the range."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(round(number * step, 10)) for number in range(first, last + 1)]


def ticks_logarithmic(low: float, high: float) -> list[float]:
    """Powers of ten that cover a positive range, with 2 and 5 between where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    between = (1, 2, 5) if last - first <= 2 else (1,)
    candidates = [factor * 10.0**power for power in range(first - 1, last + 2) for factor in between]
    lower = max(tick for tick in candidates if tick <= low)
    upper = min(tick for tick in candidates if tick >= high)
    return [tick for tick in candidates if lower <= tick <= upper]


def smoothed(curve: Curve, by_minutes: bool) -> tuple[tuple[float, float], ...]:
    """A curve as means over at most `MAX_POINTS` equal stretches of the x axis.

    Args:
        curve: the column of the log.
        by_minutes: x is training minutes, points without them being left out; otherwise optimiser steps.
    """
    points = [(minutes if by_minutes else step, value) for step, minutes, value in curve.points]
    points = [point for point in points if math.isfinite(point[0])]
    if len(points) <= MAX_POINTS:
        return tuple(points)
    stretch = max(x for x, _ in points) / MAX_POINTS or 1.0
    bins: dict[int, list[tuple[float, float]]] = {}
    for x, y in points:
        bins.setdefault(int(x / stretch), []).append((x, y))
    return tuple((mean(x for x, _ in held), mean(y for _, y in held)) for _, held in sorted(bins.items()))


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean of at least one value."""
    values = list(values)
    return sum(values) / len(values)
