"""The progress bar of `score.py`, which shares a terminal with the results."""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

BAR_FROM = 8
"""Images from which a progress bar is worth its lines."""


def scoring_bar(total: int, stream: TextIO) -> Progress:
    """A bar on standard error; none where the rows appear on the same terminal."""
    rows_on_terminal = stream is sys.stdout and stream.isatty()
    shown = total >= BAR_FROM and sys.stderr.isatty() and not rows_on_terminal
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def print_above(progress: Progress, message: str) -> None:
    """Print a line above the bar."""
    progress.console.print(message, markup=False, highlight=False, soft_wrap=True)
