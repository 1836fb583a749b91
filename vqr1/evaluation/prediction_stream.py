"""Predictions on disk while they are made: appended batch by batch, and never half a batch.

What it does: a stream is a CSV file and, beside it, the number of its bytes that are committed. A
batch is written first and committed after; a process that is killed in between leaves bytes behind
the committed ones, which the next start cuts off. Every image is therefore either whole in the file
or not in it at all.

What it leaves out: reading files that users bring, and Parquet (`vqr1.evaluation.prediction_file`).
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from vqr1.evaluation.predictions import Predictions

COLUMNS = (
    "dataset",
    "image",
    "index",
    "sample",
    "score",
    "valid",
    "well_formed",
    "mos",
    "reference",
    "distortion",
    "lost",
    "text",
)
"""One row an answer: sample counts an image's answers from 0; score is empty where not valid; mos
is turned so that higher is better; lost is empty where the mode has none."""


def rows_of(predictions: Predictions) -> Iterator[tuple[object, ...]]:
    """One tuple of `COLUMNS` an answer, images in order."""
    for i, image in enumerate(predictions.images):
        for k, text in enumerate(predictions.texts[i]):
            score = float(predictions.scores[i, k])
            yield (
                predictions.datasets[i],
                image,
                int(predictions.index[i]),
                k,
                "" if math.isnan(score) else repr(score),
                int(predictions.valid[i, k]),
                int(predictions.well_formed[i, k]),
                repr(float(predictions.mos[i])),
                predictions.references[i] or "",
                predictions.distortions[i] or "",
                "" if math.isnan(predictions.lost[i]) else repr(float(predictions.lost[i])),
                # Readers of CSV take a NUL byte for the end of the file.
                text.replace("\0", "\N{REPLACEMENT CHARACTER}"),
            )


def csv_writer(file: TextIO) -> Any:
    """A writer that quotes everything: it would leave a carriage return in a text unquoted."""
    return csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)


class PredictionStream:
    """A growing file of predictions that a killed process can continue.

    Args:
        path: the CSV file; continued where it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark = committed_mark(path)
        committed = _committed(path)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(committed)
        self._file.seek(committed)
        self._columns = _header(path) if committed else COLUMNS
        if not committed:
            self._write([COLUMNS])

    def append(self, predictions: Predictions) -> None:
        """Write and commit a batch."""
        # A file of an earlier version goes on with the columns that it has.
        kept = [COLUMNS.index(name) for name in self._columns if name in COLUMNS]
        self._write(tuple(row[column] for column in kept) for row in rows_of(predictions))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, rows: Iterable[tuple[object, ...]]) -> None:
        text = io.StringIO()
        csv_writer(text).writerows(rows)
        self._file.write(text.getvalue().encode("utf-8", errors="replace"))
        self._file.flush()
        os.fsync(self._file.fileno())
        replace_file(self._mark, str(self._file.tell()))


def committed_mark(path: Path) -> Path:
    """The file that holds a stream's committed size."""
    return path.with_name(f"{path.name}.committed")


def cut_to_committed(path: Path) -> None:
    """Cut a stream that nobody writes any more to what was committed."""
    with path.open("r+b") as file:
        file.truncate(_committed(path))


def replace_file(path: Path, content: str) -> None:
    """Write a small file so that a reader sees either the old or the new content."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(content, encoding="utf-8")
    aside.replace(path)


def _header(path: Path) -> tuple[str, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(next(csv.reader(file)))


def _committed(path: Path) -> int:
    mark = committed_mark(path)
    return int(mark.read_text()) if path.exists() and mark.exists() else 0
