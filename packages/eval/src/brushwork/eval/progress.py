"""How far a long task is, and how long it will take: a bar on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def progress_bar(doing: str, total: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Shows the bar; gives the function that says how much is done.

    Args:
        doing: what is done, in one word.
        total: of what is to be done.
        shown: false in processes that leave the telling to another.
    """
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda done: progress.update(task, completed=done)
