"""Readers of label files that report file and line: text, spreadsheets and MATLAB files.

CSV files and numbers are read by `vqr1.data.tables`, whose names the formats take from here.
Nothing is unpickled.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError  # nosec B405: the error's name; openpyxl parses

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from vqr1.data.tables import check_unique, csv_rows, number, read_text
from vqr1.errors import DataError

__all__ = [
    "csv_rows",
    "mat_arrays",
    "number",
    "open_book",
    "sheet_cells",
    "sheet_rows",
    "standard_deviation",
    "text_lines",
    "text_rows",
]

_BAD_SHEET = (
    zipfile.BadZipFile, InvalidFileException, KeyError, OSError, ParseError, ValueError, TypeError,
    IndexError, AttributeError, EOFError, zlib.error, struct.error, NotImplementedError,
)  # fmt: skip
"""What openpyxl and the archive below it raise on damaged spreadsheets."""

MAT_SECONDS = 120
"""Longest time for one MATLAB file; the largest official one takes a second."""


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, without their ends, with `file:line`; `read_text`'s errors."""
    for line_number, line in enumerate(io.StringIO(read_text(path), newline=None), start=1):
        if line.strip():
            yield f"{path}:{line_number}", line.rstrip("\n")


def text_rows(path: Path, columns: int | tuple[int, ...]) -> Iterator[tuple[str, list[str]]]:
    """Blank-separated fields of each line that is not empty, with `file:line`.

    Args:
        path: the text file.
        columns: the number of fields, or the numbers allowed.

    Raises:
        DataError: a line with another number of fields.
    """
    allowed = (columns,) if isinstance(columns, int) else columns
    for where, line in text_lines(path):
        fields = line.split()
        if len(fields) not in allowed:
            expected = " or ".join(str(n) for n in allowed)
            raise DataError(f"{where}: {len(fields)} columns, expected {expected}: {line[:80]!r}")
        yield where, fields


def sheet_rows(
    path: Path, required: Sequence[str], sheet: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a spreadsheet below its header row, as column name to cell value, with `file:row`.

    The header is the first row that holds every required column name; rows above it and columns
    without a name are ignored, and so are rows whose cells are all empty.

    Raises:
        DataError: not a spreadsheet, no such sheet, no header row, a column named twice, or a row
            without a required value.
    """
    with open_book(path) as book:
        yield from _sheet_rows(book, path, required, sheet)


def _sheet_rows(
    book: Any, path: Path, required: Sequence[str], sheet: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    if sheet is not None and sheet not in book.sheetnames:
        raise DataError(f"{path}: no sheet {sheet!r}; it has {', '.join(book.sheetnames)}")
    header: dict[int, str] = {}
    for row_number, cells in sheet_cells(book, sheet or book.worksheets[0].title):
        if header:
            # Cells after the last one that is filled are not in the row.
            row = {name: cells[i] if i < len(cells) else None for i, name in header.items()}
            if any(value is not None for value in row.values()):
                _check_filled(row, required, f"{path}:{row_number}")
                yield f"{path}:{row_number}", row
            continue
        names = {i: cell.strip() for i, cell in enumerate(cells) if isinstance(cell, str)}
        if set(required) <= set(names.values()):
            check_unique([names.get(i, "") for i in range(len(cells))], f"{path}:{row_number}")
            header = names
    if not header:
        raise DataError(f"{path}: no header row with {', '.join(required)}")


@contextmanager
def open_book(path: Path) -> Iterator[Any]:
    """A spreadsheet, closed after use.

    Raises:
        DataError: no such file, or no spreadsheet that can be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            yield book
        finally:
            book.close()
    except _BAD_SHEET as error:
        raise DataError(f"{path}: not readable as an .xlsx spreadsheet ({error})") from error


def sheet_cells(book: Any, sheet: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Every row of a sheet with its number, from 1."""
    yield from enumerate(book[sheet].iter_rows(values_only=True), start=1)


def _check_filled(row: Mapping[str, Any], required: Sequence[str], where: str) -> None:
    for name in required:
        if row[name] is None:
            raise DataError(f"{where}: no {name} in this row; fill the cell, or empty the row")


def mat_arrays(path: Path, *names: str) -> list[list[Any]]:
    """Variables of a MATLAB file: lists of numbers, or of texts for a cell array.

    Read in a process of its own (`vqr1.data.labels._matlab` states why).

    Raises:
        DataError: not a MATLAB file of version 5 to 7, or a variable is missing.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    reader = Path(__file__).with_name("_matlab.py")
    # -P: modules beside the reader are not those of the same name that it imports.
    command = [sys.executable, "-P", str(reader), str(path), *names]
    try:
        done = subprocess.run(command, capture_output=True, timeout=MAT_SECONDS, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        raise DataError(
            f"{path}: not readable as a MATLAB file (its reader ended with code {error.returncode})"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{path}: not readable as a MATLAB file within {MAT_SECONDS} seconds"
        ) from error
    if "problem" in found:
        raise DataError(f"{path}: {found['problem']}")
    arrays: list[list[Any]] = found["arrays"]
    return arrays


def standard_deviation(value: Any, where: str, column: str) -> float:
    """A standard deviation: finite and not negative.

    Raises:
        DataError: not such a number.
    """
    result = number(value, where, column)
    if result < 0:
        raise DataError(f"{where}: {column}={value!r} must not be negative")
    return result
