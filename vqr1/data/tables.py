"""The one strict reader of tables and JSON lines: what is not as its header states is refused.

A CSV file is UTF-8 text with or without a byte order mark, with any line end, its columns separated
by commas. Its header names every column once; every row has as many fields as the header; rows of
empty fields only are skipped. A column without a name must be empty (BIQ2021 has two), except the
first, where tables are written with row numbers. Numbers have a decimal point and nothing else that
some readers take: no thousands separators, underscores, or hexadecimal digits.

Not here: spreadsheets and MATLAB files (`vqr1.data.labels._reading`), and what the
columns mean. It imports nothing heavy: commands read lists with it before they load a model.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from vqr1.errors import DataError

_SHOWN = 80
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_BLANKS = re.compile(r"[ \t\r\n]*")
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True)
class CsvTable:
    """A CSV file as text.

    Attributes:
        path: the file.
        columns: column names in order, each once; "" for a column without a name.
        rows: fields by row and column, as they are in the file.
        lines: line on which each row begins.
        header_line: line of the header.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]
    header_line: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that have a name."""
        return tuple(name for name in self.columns if name)

    def where(self, row: int) -> str:
        """`file:line` of a row."""
        return f"{self.path}:{self.lines[row]}"

    def column(self, name: str) -> list[str]:
        """One column's fields.

        Raises:
            ValueError: there is no such column.
        """
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


def read_text(path: Path) -> str:
    """The whole text of a UTF-8 file.

    Raises:
        DataError: not a file, empty, not readable, or not UTF-8 (with the line of the first bad
            byte).
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not data.strip():
        raise DataError(f"{path}: the file is empty")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8 "
            "text"
        ) from error


def read_csv(path: Path, repeated: Sequence[str] = ()) -> CsvTable:
    """A CSV file with a header.

    Args:
        path: the file.
        repeated: names that several columns may have.

    Raises:
        DataError: `read_text`'s; no header, a column named twice, a row with another number of
            fields, a quote that is never closed, or text in a column without a name.
    """
    return parse_csv(read_text(path), path, repeated=repeated)


def parse_csv(
    text: str,
    path: Path,
    separator: str = ",",
    has_header: bool = True,
    repeated: Sequence[str] = (),
) -> CsvTable:
    """The table in a text, as `read_csv`.

    Args:
        text: the whole text, without a byte order mark.
        path: the file that it came from, for error messages.
        separator: the mark between columns.
        has_header: the first line names the columns; else they are named 0, 1, and so on.
        repeated: names that several columns may have.

    Raises:
        DataError: as `read_csv`.
    """
    # `strict` makes an unclosed quote an error; it would take the rest of the file for one field.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    header: tuple[str, ...] | None = None
    header_line = begin = 1
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        with fields_of_any_length():
            for fields in reader:
                line, begin = begin, reader.line_num + 1
                if not "".join(fields).strip():
                    continue
                if header is None:
                    numbers = map(str, range(len(fields)))
                    header = tuple(n.strip() for n in (fields if has_header else numbers))
                    header_line = line
                    once = [name for name in header if name not in repeated]
                    check_unique(once, f"{path}:{line}")
                    if has_header:
                        continue
                if len(fields) != len(header) or "" in header:
                    _check_fields(fields, header, f"{path}:{line}")
                rows.append(fields)
                lines.append(line)
    except csv.Error as error:
        raise DataError(f"{path}:{begin}: not readable as CSV ({error})") from error
    if header is None:
        raise DataError(f"{path}: the file is empty")
    return CsvTable(path, header, rows, lines, header_line)


def csv_rows(
    path: Path, required: Sequence[str], repeated: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV file, as column name to text without blanks around it, with `file:line`.

    Args:
        path: the file.
        required: columns that must be there.
        repeated: names that several columns may have; the last one's text is given.

    Raises:
        DataError: a required column is missing, or as `read_csv`.
    """
    table = read_csv(path, repeated)
    missing = [name for name in required if name not in table.columns]
    if missing:
        raise DataError(
            f"{path}:{table.header_line}: no column {', '.join(map(repr, missing))}; the file has "
            f"{', '.join(table.names)}{separator_hint(table.columns)}"
        )
    for row, fields in enumerate(table.rows):
        yield (
            table.where(row),
            {name: text.strip() for name, text in zip(table.columns, fields, strict=True)},
        )


def separator_hint(header: Sequence[str]) -> str:
    """What to add to a message about columns, where another separator stands in the header."""
    for mark, words in _OTHER_SEPARATORS.items():
        if any(mark in name for name in header):
            return (
                f"; its columns seem to be separated by {words}: save it with commas between the "
                "columns and decimal points in the numbers"
            )
    return ""


def parse_json(text: str, where: str) -> Any:
    """The value of one JSON text.

    Args:
        text: the text.
        where: `file:line`, for error messages.

    Raises:
        DataError: no JSON, NaN or Infinity (which JSON does not have), or an object with a key
            twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        # Ours; an integer of thousands of digits; thousands of brackets.
        raise DataError(f"{where}: JSON that cannot be read ({error})") from error


def parse_json_list(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Items of a JSON text that is one list, each with `file:line` of its beginning.

    Args:
        text: the whole text.
        path: the file that it came from.

    Raises:
        DataError: no list, or as `parse_json`; names the line.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    at = _after_blanks(text, 0)
    if text[at : at + 1] != "[":
        raise DataError(f"{path}:1: expected a JSON list, found {text[at : at + _SHOWN]!r}")
    line, counted, mark = 1, 0, ","
    at = _after_blanks(text, at + 1)
    if text[at : at + 1] == "]":
        mark = "]"
    while mark == ",":
        line, counted = line + text.count("\n", counted, at), at
        try:
            item, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{line}: JSON that cannot be read ({error})") from error
        yield f"{path}:{line}", item
        end = _after_blanks(text, end)
        mark = text[end : end + 1]
        if mark not in (",", "]"):
            line += text.count("\n", counted, end)
            raise DataError(f"{path}:{line}: not JSON (expected ',' or ']', found {mark!r})")
        at = _after_blanks(text, end + 1)
    if text[at:].strip(" \t\r\n]"):
        raise DataError(f"{path}: text follows the end of the list")


def number(value: Any, where: str, column: str) -> float:
    """A finite float from a text or a spreadsheet's cell.

    Raises:
        DataError: not a number, NaN or infinite.
    """
    result = parse_number(value)
    if result is None:
        comma = isinstance(value, str) and "," in value
        hint = "; write decimals with a point, and no thousands separators" if comma else ""
        raise DataError(f"{where}: {column}={value!r} is not a number{hint}")
    if not math.isfinite(result):
        raise DataError(f"{where}: {column}={value!r}; the score must be a finite number")
    return result


def parse_number(value: Any) -> float | None:
    """The float of a text or a number, NaN and infinities included; None for anything else.

    Python's own `float` also takes `1_000`, and digits of every script.
    """
    if isinstance(value, str):
        text = value.strip()
        known = _NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text)
        return float(text) if known else None
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def twice(names: Sequence[str]) -> list[str]:
    """The names that stand more than once, without empty ones."""
    return [name for name, count in Counter(names).items() if count > 1 and name]


def check_unique(names: Sequence[str], where: str) -> None:
    """Check that no column's name stands twice.

    Raises:
        DataError: one does.
    """
    for name in twice(names):
        places = [str(place) for place, other in enumerate(names, start=1) if other == name]
        raise DataError(
            f"{where}: column {name!r} stands {len(places)} times (columns {', '.join(places)}); "
            "keep one, or give each its own name"
        )


def _check_fields(fields: Sequence[str], header: Sequence[str], where: str) -> None:
    if len(fields) != len(header):
        raise DataError(
            f"{where}: {len(fields)} columns, expected {len(header)} as in the header: "
            f"{','.join(fields)[:_SHOWN]!r}"
            + (
                separator_hint(header)
                or "; quote a text that holds a comma, and write decimals with a point"
            )
        )
    for place, (name, field) in enumerate(zip(header, fields, strict=True)):
        if not name and place and field.strip():
            raise DataError(
                f"{where}: {field[:_SHOWN]!r} in column {place + 1}, which has no name in the "
                "header; name it, or empty it"
            )


@contextmanager
def fields_of_any_length() -> Iterator[None]:
    """The limit of the module csv, 131,072 characters, is below some models' answers."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _after_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return at if match is None else match.end()


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = ", ".join(map(repr, twice([key for key, _ in pairs]))) or "''"
        raise ValueError(f"the key {names} stands twice in one object; keep one")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number; numbers must be finite")
