"""The progress bar of every command: what is done, how many of how many, time taken and left.

Not here: the lines that a training prints into a log file (`training/callbacks/progress.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def new_progress(
    console: Console | None = None, *, shown: bool = True, more: tuple[ProgressColumn, ...] = ()
) -> Progress:
    """A display of bars in the one form.

    Args:
        console: where it appears; None: standard output.
        shown: otherwise nothing is printed.
        more: columns on the right.
    """
    return Progress(
        # What is done may hold the name of a file.
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        *more,
        console=console,
        disable=not shown,
    )


@contextmanager
def progress_bar(
    label: str, total: int, *, shown: bool = True, console: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """One bar.

    Args:
        label: what is done.
        total: of how many.
        shown: otherwise nothing is printed.
        console: where it appears; None: standard output.

    Yields:
        A function that moves the bar on by a number, never beyond its end.
    """
    with new_progress(console, shown=shown) as progress:
        task = progress.add_task(label, total=total)

        def advance(count: int) -> None:
            left = total - progress.tasks[task].completed
            progress.update(task, advance=min(count, left))

        yield advance
