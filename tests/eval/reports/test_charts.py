"""Charts: well-formed, escaped, and inside their frame."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brushwork.eval.reports.charts import (
    Axis,
    Series,
    forest,
    histogram,
    interval_bar,
    legend_mark,
    line_chart,
    smoothed,
    standalone,
    ticks,
    ticks_logarithmic,
)
from brushwork.eval.reports.interval_chart import IntervalSeries, interval_chart
from brushwork.eval.reports.runs import Curve
from brushwork.eval.statistics import Interval, wilson

UNKNOWN = Interval(estimate=math.nan, low=0.0, high=1.0, num=0)
POINTS = ((1.0, wilson(3, 9)), (2.0, UNKNOWN), (3.0, wilson(9, 9)))
ARMS = [IntervalSeries(label="<b>&", points=POINTS, arm=arm, connected=True) for arm in range(9)]
PAPER = IntervalSeries(label="paper <b>", points=((1000.0, Interval(estimate=0.7, low=0.7, high=0.7, num=0)),))
SERIES = [Series(arm=arm, label="<b>&", points=((0.0, 3.0), (4.0, 0.1))) for arm in range(7)]


@pytest.mark.parametrize(
    "chart",
    [
        forest([("overall", [wilson(3, 9), None]), ("<script>", [UNKNOWN, wilson(9, 9)])]),
        line_chart("loss <&>", SERIES, "minutes"),
        line_chart("one point", [Series(arm=0, label="", points=((0.0, 0.0),))], "steps"),
        histogram([3, 0, 1], 2, "images <&>"),
        histogram([], 0, "nothing"),
        interval_bar(wilson(0, 4), 5),
        interval_bar(wilson(4, 4), 0, 300, labelled=True),
        interval_chart("score <&>", [*ARMS, PAPER], "steps"),
        interval_chart("score", ARMS, "images", whole=True),
        standalone(line_chart("loss", SERIES, "steps"), "svg { fill: none }"),
        *map(legend_mark, range(9)),
    ],
)
def test_charts_are_well_formed_and_escaped(chart):
    ElementTree.fromstring(chart)
    assert "<script>" not in chart and "<b>" not in chart and "nan" not in chart


def test_nothing_known_draws_nothing():
    assert interval_chart("score", [IntervalSeries(label="a", points=((1.0, UNKNOWN),), arm=0)], "steps") == ""
    assert interval_bar(UNKNOWN, 0) == "" == line_chart("loss", [Series(arm=0, label="", points=())], "steps")


@given(st.floats(-50, 50), st.floats(0.001, 1000))
def test_ticks_cover_the_range_in_few_round_steps(low, span):
    found = ticks(low, low + span)
    assert found[0] <= low + 1e-6 * span and found[-1] >= low + span * (1 - 1e-6)
    assert 2 <= len(found) <= 9


@given(st.floats(1e-6, 1e3), st.floats(12, 1e6))
def test_logarithmic_ticks_cover_the_range(low, factor):
    found = ticks_logarithmic(low, low * factor)
    assert found[0] <= low and found[-1] >= low * factor and len(found) <= 13


def test_an_axis_maps_its_ends_to_its_pixels():
    up = Axis(low=0.01, high=100, start=200, end=0, logarithmic=True)
    assert (up(0.01), up(1), up(100)) == pytest.approx((200, 100, 0))


def test_long_curves_become_means_of_stretches():
    curve = Curve(name="train/loss", points=tuple((float(step), math.nan, float(step % 2)) for step in range(4000)))
    points = smoothed(curve, by_minutes=False)
    assert len(points) <= 161 and all(abs(value - 0.5) < 0.05 for _, value in points[:-1])
    assert smoothed(curve, by_minutes=True) == ()


def test_the_paper_s_points_are_hollow_and_a_wide_range_is_logarithmic():
    chart = interval_chart("score", [*ARMS[:1], PAPER], "denoising steps")
    root = ElementTree.fromstring(chart)
    assert [mark.get("class") for mark in root.iter("circle")] == ["hollow", "mark arm-0", "mark arm-0"], "ours on top"
    assert "denoising steps; logarithmic" in chart
    assert "hollow" not in interval_chart("score", ARMS[:1], "denoising steps")


def test_points_lie_inside_their_frame():
    for whole in (False, True):
        root = ElementTree.fromstring(interval_chart("score", [*ARMS, PAPER][: 9 if whole else 10], "x", whole))
        _, _, width, height = map(float, str(root.get("viewBox")).split())
        marks = [(float(str(mark.get("cx"))), float(str(mark.get("cy")))) for mark in root.iter("circle")]
        assert marks and all(0 < x < width and 0 < y < height for x, y in marks)


def test_a_chart_alone_brings_its_namespace_and_its_colours():
    root = ElementTree.fromstring(standalone(line_chart("loss", SERIES, "steps"), ".arm-0 { fill: red }"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root[0].text == ".arm-0 { fill: red }"
