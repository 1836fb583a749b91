"""Anyone's table as it is: text with any of three separators, or a spreadsheet.

What the file leaves no doubt about is recognised: the separator where the first line holds only one
of `,`, `;` and tab outside quotes; decimal commas where no number has a point and some number
cannot be one with thousands separators (`4,57`, `0,125`). Everything else is asked for by key.

Not here: what the columns mean (`csv.py`).
"""

from __future__ import annotations

import fnmatch
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vqr1.config import CsvColumns
from vqr1.data.labels._reading import open_book, sheet_cells
from vqr1.data.tables import (
    check_unique,
    number,
    parse_csv,
    parse_number,
    read_text,
    separator_hint,
)
from vqr1.errors import ConfigError, DataError

_MARKS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_QUOTED = re.compile(r'"[^"]*"')
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+")
_MAY_BE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_BLANK = re.compile(r"\{(?::0?(\d{1,2})d?)?\}")

Column = int | str


@dataclass(frozen=True)
class OwnTable:
    """A table without a meaning yet.

    Attributes:
        path: the file.
        names: name of each column; its number as text where there is no header.
        rows: texts by row and column, or a spreadsheet's values.
        lines: line or row of the file that each row is, or what else names the row.
        key: dotted configuration key of `columns`, for error messages.
        form: what was recognised, in words.
        decimal_comma: numbers in texts have a decimal comma.
    """

    path: Path
    names: tuple[str, ...]
    rows: list[list[Any]]
    lines: Sequence[int | str]
    key: str
    form: str
    decimal_comma: bool = False

    def where(self, row: int) -> str:
        """`file:line` of a row."""
        return f"{self.path}:{self.lines[row]}"

    def place(self, column: Column, field: str) -> int:
        """Number of a column.

        Args:
            column: its name or number.
            field: the configuration's word for it.

        Raises:
            ConfigError: there is no such column.
        """
        if isinstance(column, str) and column in self.names:
            return self.names.index(column)
        if isinstance(column, int) and column < len(self.names):
            return column
        known = ", ".join(name for name in self.names if name)
        raise ConfigError(
            [
                f"{self.key}.{field}={column!r}: no such column; {self.path} has {known}"
                + (separator_hint(self.names) or self._number_hint(column))
            ]
        )

    def _number_hint(self, column: Column) -> str:
        """What to add where the first line seems to hold a row: a number names no column."""
        numbers = [name for name in self.names if parse_number(name) is not None]
        if isinstance(column, int) or not numbers:
            return ""
        return "; where no line names the columns, give them by number, from 0"

    def places(self, columns: Column | Sequence[Column], field: str) -> list[int]:
        """Numbers of one or several columns, names with `*` being all that fit.

        Raises:
            ConfigError: there is no such column.
        """
        if isinstance(columns, int | str):
            columns = [columns]
        found: list[int] = []
        for column in columns:
            fits: list[int] = []
            if isinstance(column, str) and column not in self.names:
                fits = [i for i, n in enumerate(self.names) if fnmatch.fnmatchcase(n, column)]
            found += fits or [self.place(column, field)]
        return found

    def number(self, row: int, place: int) -> float:
        """A finite number.

        Raises:
            DataError: not one.
        """
        found = self._parsed(row, place)
        if found is not None:
            return found
        try:
            return number(self._pointed(row, place), self.where(row), self.names[place])
        except DataError as error:
            if row == 0 and self.names[place].isdecimal():
                raise DataError(
                    f"{error}; if this line names the columns, set {self.key}.header=true"
                ) from error
            raise

    def value(self, row: int, place: int) -> float | str:
        """A cell as a finite number where it is one, else as text."""
        found = self._parsed(row, place)
        return self.text(row, place) if found is None else found

    def _parsed(self, row: int, place: int) -> float | None:
        """A cell as a finite number; None of anything else."""
        found = parse_number(self._pointed(row, place))
        return None if found is None or not math.isfinite(found) else found

    def _pointed(self, row: int, place: int) -> Any:
        """A cell, with a point where it is a number with a decimal comma."""
        value = self.rows[row][place]
        if self.decimal_comma and isinstance(value, str) and _COMMA_NUMBER.fullmatch(value.strip()):
            return value.replace(",", ".")
        return value

    def text(self, row: int, place: int) -> str:
        """A cell as text; a spreadsheet's 12.0 is 12."""
        value = self.rows[row][place]
        if isinstance(value, str):
            return value.strip()
        if value is None:
            return ""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value).strip()


def read_own_table(path: Path, columns: CsvColumns, key: str) -> OwnTable:
    """A text table or spreadsheet.

    Args:
        path: the file.
        columns: its columns and form as configured.
        key: dotted configuration key of `columns`.

    Raises:
        ConfigError: a key does not fit, or the file leaves open what only a key can state.
        DataError: the file is not as stated.
    """
    named = [c for c in _wanted(columns) if isinstance(c, str)]
    has_header = bool(named) if columns.header is None else columns.header
    if named and not has_header:
        raise ConfigError(
            [f"{key}.header=False: {named[0]!r} is a name; give the columns by number, from 0"]
        )
    if path.suffix.lower() in (".xlsx", ".xlsm"):
        return _read_sheet(path, columns, key, has_header)
    if columns.sheet is not None:
        raise ConfigError([f"{key}.sheet={columns.sheet!r}: {path.name} is no .xlsx file"])
    text = read_text(path)
    separator = _separator(text, path, columns, key)
    table = parse_csv(text, path, separator, has_header)
    form = f"columns separated by {_MARKS[separator]}"
    return OwnTable(path, table.columns, table.rows, table.lines, key, form)


def with_decimal_mark(table: OwnTable, places: Iterable[int], columns: CsvColumns) -> OwnTable:
    """The table, its numbers read with the decimal mark that is configured or recognised.

    Raises:
        ConfigError: numbers that may have decimal commas or thousands separators.
    """
    if columns.decimal is not None:
        return replace(table, decimal_comma=columns.decimal == "comma")
    comma = None
    certain = False
    for place in places:
        for row, cells in enumerate(table.rows):
            cell = cells[place]
            text = cell.strip() if isinstance(cell, str) else ""
            if "." in text:
                return table
            if _COMMA_NUMBER.fullmatch(text):
                comma = comma or (table.where(row), text)
                certain = certain or not _MAY_BE_THOUSANDS.fullmatch(text)
    if comma is None:
        return table
    if not certain:
        raise ConfigError(
            [
                f"{table.key}.decimal=None: {comma[0]}: {comma[1]!r} may have a decimal comma or "
                "a thousands separator; set it to comma, or write the numbers without separators"
            ]
        )
    return replace(table, decimal_comma=True, form=f"{table.form}, decimal commas")


def name_maker(pattern: str | None, key: str) -> Callable[[str, str], str]:
    """What makes a file name of a cell, given the cell and `file:line`.

    Raises:
        ConfigError: the pattern has not one blank.
    """
    if pattern is None:
        return lambda cell, where: cell
    blanks = list(_BLANK.finditer(pattern))
    rest = _BLANK.sub("", pattern)
    if len(blanks) != 1 or "{" in rest or "}" in rest:
        raise ConfigError(
            [f"{key}.name_pattern={pattern!r}: it must hold one {{}} or {{:04}} for the cell"]
        )
    before, after = pattern[: blanks[0].start()], pattern[blanks[0].end() :]
    width = int(blanks[0][1] or 0)

    def name(cell: str, where: str) -> str:
        if width and not cell.isdecimal():
            raise DataError(f"{where}: {cell!r} is no number, as {key}.name_pattern needs")
        return f"{before}{cell.zfill(width)}{after}" if cell else ""

    return name


def _wanted(columns: CsvColumns) -> list[Column]:
    mos = [columns.mos] if isinstance(columns.mos, int | str) else list(columns.mos)
    images = [columns.image] if isinstance(columns.image, int | str) else list(columns.image)
    others = (columns.std, columns.reference, columns.split, columns.distortion)
    return [*images, *mos, *columns.further, *(column for column in others if column is not None)]


def _separator(text: str, path: Path, columns: CsvColumns, key: str) -> str:
    if columns.separator is not None:
        return "\t" if columns.separator == "tab" else columns.separator
    lines = io.StringIO(text, newline=None)
    first = next(line for line in lines if line.strip()).rstrip("\n")
    bare = _QUOTED.sub("", first)
    present = [mark for mark in _MARKS if mark in bare]
    if len(present) > 1:
        words = " and ".join(_MARKS[mark] for mark in present)
        raise ConfigError(
            [
                f"{key}.separator=None: the first line of {path} holds {words}: {first[:80]!r}; "
                'set it to "," or ";" or tab'
            ]
        )
    return present[0] if present else ","


def _read_sheet(path: Path, columns: CsvColumns, key: str, has_header: bool) -> OwnTable:
    with open_book(path) as book:
        sheet = _sheet_name(path, book, columns, key)
        cells = list(sheet_cells(book, sheet))
    width = max((len(row) for _, row in cells), default=0)
    rows = [(line, [*row, *[None] * (width - len(row))]) for line, row in cells]
    rows = [(line, row) for line, row in rows if any(value is not None for value in row)]
    names = tuple(map(str, range(width)))
    if has_header:
        wanted = {c for c in _wanted(columns) if isinstance(c, str) and "*" not in c}
        start = next((i for i, (_, row) in enumerate(rows) if wanted <= set(_heads(row))), None)
        if start is None:
            raise DataError(f"{path}: no header row with {', '.join(sorted(wanted))}")
        names = tuple(_heads(rows[start][1]))
        check_unique(names, f"{path}:{rows[start][0]}")
        rows = rows[start + 1 :]
    form = f"spreadsheet, sheet {sheet!r}"
    return OwnTable(path, names, [row for _, row in rows], [line for line, _ in rows], key, form)


def _heads(row: Sequence[Any]) -> list[str]:
    return ["" if value is None else str(value).strip() for value in row]


def _sheet_name(path: Path, book: Any, columns: CsvColumns, key: str) -> str:
    names: list[str] = book.sheetnames
    if columns.sheet is not None:
        if columns.sheet not in names:
            raise ConfigError([f"{key}.sheet={columns.sheet!r}: {path} has {', '.join(names)}"])
        return columns.sheet
    filled = [
        name
        for name in names
        if any(v is not None for _, row in sheet_cells(book, name) for v in row)
    ]
    if len(filled) != 1:
        shown = ", ".join(filled) or "no sheet with a value"
        raise ConfigError([f"{key}.sheet=None: {path} has {shown}; name the sheet with the scores"])
    return filled[0]
