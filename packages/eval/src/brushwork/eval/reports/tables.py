"""Tables as text, cell by cell: the page and the Markdown file are two ways to set them."""

import math
from dataclasses import dataclass

from brushwork.eval.statistics import Interval

NONE = "–"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What stands in one place.

    Attributes:
        text: the figure.
        small: what is set below it, or behind it in brackets.
        strong: the figure that a row is about.
    """

    text: str
    small: tuple[str, ...] = ()
    strong: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One row.

    Attributes:
        label: what it is about.
        cells: one for each column but the first.
        arm: number of the arm; None for the paper's rows and for settings.
        paper: the paper's numbers, not ours.
    """

    label: str
    cells: tuple[Cell, ...]
    arm: int | None = None
    paper: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table.

    Attributes:
        title: its heading.
        columns: heads, that of the row labels first.
        rows: ours, then the paper's.
        notes: sentences on how to read it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()


def words(name: str) -> str:
    """A name of the code as words."""
    return name.replace("_", " ")


def signed(value: int | float) -> str:
    """A difference with its sign; what rounds to zero has a plus."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def number(value: int | float | None, digits: int = 1) -> Cell:
    """A figure; a dash where there is none."""
    return Cell(text=NONE if value is None or math.isnan(value) else f"{value:,.{digits}f}")


def rate(interval: Interval | None, strong: bool = False, of: bool = False) -> Cell:
    """A share with its limits, and with its denominator where that is asked for."""
    if interval is None or not interval.num or math.isnan(interval.estimate):
        return Cell(text=NONE)
    small = [f"{interval.low:.2f}–{interval.high:.2f}"] + [f"of {interval.num}"] * of
    return Cell(text=f"{interval.estimate:.2f}", small=tuple(small), strong=strong)
