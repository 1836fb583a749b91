"""The metrics that a run has logged, read back from its folder.

From `metrics.csv`, and where that holds none, from the journal, which is all that a run keeps that
logs to MLflow alone.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from vqr1.config.renamed import present_name
from vqr1.errors import DataError
from vqr1.tracking.events import Metrics, read_events
from vqr1.tracking.journal import journal_file

METRICS_FILE = "metrics.csv"
_NO_METRICS = ("epoch", "step")


def logged_metrics(folder: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """What was logged, in its order.

    Args:
        folder: of a run.

    Yields:
        A step, and values by the metrics' present names; NaN where one was undefined.

    Raises:
        DataError: `metrics.csv` is damaged.
    """
    rows = list(_csv_rows(folder / METRICS_FILE))
    yield from rows or _journal_rows(folder)


def whole_lines(text: str) -> str:
    """The lines of a log that were written whole.

    What follows the last line end was cut off by a kill: .6 of .612 would be another number. A
    power loss leaves zeros for rows that were not on the disk yet.
    """
    text = text.partition("\0")[0]
    return text[: text.rfind("\n") + 1]


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, float]]]:
    if not file.is_file():
        return
    try:
        rows = csv.DictReader(io.StringIO(whole_lines(file.read_text(encoding="utf-8"))))
        names = list(rows.fieldnames or [])
        if len(set(names)) < len(names):
            raise ValueError(f"two columns of one name among {', '.join(names)}")
        for row in rows:
            values = {
                present_name(name): float(text)
                for name, text in row.items()
                if text and name not in _NO_METRICS
            }
            if values:
                yield int(row["step"]), values
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{file}: damaged: {error}") from error


def _journal_rows(folder: Path) -> Iterator[tuple[int, dict[str, float]]]:
    for _, event in read_events(journal_file(folder)):
        if isinstance(event, Metrics):
            yield event.step, {present_name(name): v for name, v in event.values.items()}
