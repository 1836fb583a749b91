"""Results and rankings to CSV, JSON lines or a table, one row at a time, flushed as they come.

The table is for reading: four decimals, answers of descriptions on one line. CSV and JSON lines
hold every field of the record as it is, empty or null where there is none.

Not here: continuing a file that is there already (`result_file.py`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Literal, TextIO

from vqr1.inference.result import Result

if TYPE_CHECKING:
    from vqr1.inference.compare import Comparison, Ranked

Format = Literal["table", "csv", "jsonl"]

FIELDS = tuple(field.name for field in fields(Result))

EARLIER_FIELDS = (
    ("path", "score", "std", "valid", "text", "error"),
    ("path", "score", "std", "lost", "valid", "text", "error", "answers", "valid_answers"),
)
"""Columns of files from before answers were counted, and from before it was stated what an image
was decoded at; they are read, known as ours, and continued with all columns."""

EARLIER_RANKING_FIELDS = (
    "rank", "path", "score", "std", "win_rate", "rank_low", "rank_high",
)  # fmt: skip
"""Columns of rankings from before it was stated what an image was decoded at."""

PAIR_FIELDS = ("first", "second", "first_better")

SCORES_HEAD = f"{'score':>8}  {'std':>8}  image\n"
RANKING_HEAD = f"{'rank':>5}  {'ranks':>11}  {'wins':>6}  {'score':>8}  {'std':>8}  image\n"
"""First lines of tables; what is known by them may be replaced (`own_files.py`)."""

MATRIX_MOST = 12
"""Images up to which a table shows the probability of every pair."""


class ResultWriter:
    """Writes results in one format.

    Args:
        stream: where to; stays open.
        form: the format.
        descriptions: the results are texts without scores (decides the table's columns).
        header: write the line above the rows.
    """

    def __init__(
        self, stream: TextIO, form: Format, *, descriptions: bool = False, header: bool = True
    ) -> None:
        self._stream = stream
        self._form = form
        self._descriptions = descriptions
        self._header = header

    def write(self, result: Result) -> None:
        """Add one row, in one piece, the first one below the header."""
        if self._form == "jsonl":
            row = json_row(asdict(result))
        elif self._form == "csv":
            row = csv_row(list({**asdict(result), "valid": str(result.valid).lower()}.values()))
        else:
            row = self._row(result) + "\n"
        if self._header:
            row = self._head() + row
            self._header = False
        self._stream.write(row)
        self._stream.flush()

    def _head(self) -> str:
        if self._form == "csv":
            return csv_row(FIELDS)
        return SCORES_HEAD if self._shows_scores() else ""

    def _shows_scores(self) -> bool:
        return self._form == "table" and not self._descriptions

    def _row(self, result: Result) -> str:
        if self._descriptions:
            return f"{result.path}: {_note(result) or ' '.join((result.text or '').split())}"
        return f"{_numbers(result)}  {result.path}{_in_brackets(_note(result), _size(result))}"


def write_ranking(stream: TextIO, form: Format, comparison: Comparison) -> None:
    """Write a ranking, best first; a table of few images ends with the probability of each pair."""
    ranking = comparison.ranking
    if form == "jsonl":
        stream.writelines(json_row(_ranked(entry)) for entry in ranking)
    elif form == "csv":
        stream.write(csv_row(ranking_fields()))
        stream.writelines(csv_row(list(_ranked(entry).values())) for entry in ranking)
    else:
        stream.write(RANKING_HEAD)
        for entry in ranking:
            between = f"{entry.rank_low}-{entry.rank_high}"
            stream.write(
                f"{entry.rank:>5}  {between:>11}  {entry.win_rate:>6.1%}  {_numbers(entry)}  "
                f"{entry.path}{_in_brackets(_size(entry))}\n"
            )
        if len(ranking) <= MATRIX_MOST:
            stream.write(_matrix(comparison))
    stream.flush()


def write_pairs(stream: TextIO, comparison: Comparison) -> None:
    """Write the probability of every pair as CSV: first, second, P(first better)."""
    stream.write(csv_row(PAIR_FIELDS))
    paths = [result.path for result in comparison.results]
    for i, row in enumerate(comparison.probability_rows()):
        others = zip(paths[i + 1 :], row[i + 1 :].tolist(), strict=True)
        stream.writelines(csv_row((paths[i], other, repr(better))) for other, better in others)


def ranking_fields() -> tuple[str, ...]:
    """Columns of a ranking."""
    from vqr1.inference.compare import Ranked

    return tuple(field.name for field in fields(Ranked) if field.name != "position")


def json_row(values: dict[str, Any]) -> str:
    """One JSON line."""
    return json.dumps(values, ensure_ascii=False) + "\n"


def csv_row(values: Sequence[object]) -> str:
    """One CSV line; a carriage return in a text is quoted, a NUL, which no reader takes, marked."""
    file = io.StringIO()
    # The writer quotes what its own line end holds, so that must be both characters.
    csv.writer(file, lineterminator="\r\n").writerow(values)
    return file.getvalue()[:-2].replace("\0", "\N{REPLACEMENT CHARACTER}") + "\n"


def _ranked(entry: Ranked) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in ranking_fields()}


def _matrix(comparison: Comparison) -> str:
    """P(row better than column), rows and columns in the order of the ranking."""
    order = [entry.position for entry in comparison.ranking]
    lines = ["", "probability that the image of the row is better than that of the column"]
    lines.append(" " * 4 + "".join(f"{column + 1:>7}" for column in range(len(order))))
    for row, i in enumerate(order):
        numbers = "".join(f"{comparison.probabilities[i, j]:>7.3f}" for j in order)
        lines.append(f"{row + 1:>4}{numbers}  {comparison.results[i].path}")
    return "\n".join(lines) + "\n"


def _numbers(entry: Result | Ranked) -> str:
    return "  ".join(
        f"{'-' if number is None else format(number, '.4f'):>8}"
        for number in (entry.score, entry.std)
    )


def _size(entry: Result | Ranked) -> str:
    return "" if entry.decoded_at is None else f"decoded at {entry.decoded_at}"


def _in_brackets(*notes: str) -> str:
    found = "; ".join(note for note in notes if note)
    return f"  ({found})" if found else ""


def _note(result: Result) -> str:
    if result.error is not None:
        return "unreadable"
    if not result.valid:
        lost = "" if result.lost is None else f", {result.lost:.0%} of the probability is no number"
        return f"invalid answer{lost}"
    answers, valid = result.answers, result.valid_answers
    if answers is None or valid is None or valid == answers:
        return ""
    return f"mean of {valid} of {answers} answers; the others are invalid"
