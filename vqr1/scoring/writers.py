"""Results to CSV, JSON lines or a table, one row at a time, flushed as they come.

The table is for reading: four decimals, answers of descriptions on one line. CSV and JSON lines
hold every field of `Result` as it is, empty or null where there is none.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields
from typing import Literal, TextIO

from vqr1.scoring.result import Result

Format = Literal["table", "csv", "jsonl"]

FIELDS = tuple(field.name for field in fields(Result))


class ResultWriter:
    """Writes results in one format.

    Args:
        stream: where to; stays open.
        form: the format.
        descriptions: the results are texts without scores (decides the table's columns).
    """

    def __init__(self, stream: TextIO, form: Format, *, descriptions: bool = False) -> None:
        self._stream = stream
        self._form = form
        self._descriptions = descriptions
        self._csv = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        if form == "csv":
            self._csv.writeheader()
        elif form == "table" and not descriptions:
            stream.write(f"{'score':>8}  {'std':>8}  image\n")
        stream.flush()

    def write(self, result: Result) -> None:
        """Add one row."""
        if self._form == "jsonl":
            self._stream.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
        elif self._form == "csv":
            self._csv.writerow({**asdict(result), "valid": str(result.valid).lower()})
        else:
            self._stream.write(self._row(result) + "\n")
        self._stream.flush()

    def _row(self, result: Result) -> str:
        if self._descriptions:
            return f"{result.path}: {_note(result) or ' '.join((result.text or '').split())}"
        numbers = "  ".join(
            f"{'-' if number is None else format(number, '.4f'):>8}"
            for number in (result.score, result.std)
        )
        note = _note(result)
        return f"{numbers}  {result.path}{f'  ({note})' if note else ''}"


def _note(result: Result) -> str:
    if result.error is not None:
        return "unreadable"
    return "" if result.valid else "invalid answer"
