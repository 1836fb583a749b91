"""A growing file of results that a killed command continues, and reading such a file.

What it does: rows are appended in one piece (`vqr1.inference.resume`), so a process that is killed
leaves whole rows and at most one torn one at the end. The next start keeps the whole rows, without
those of unreadable images (they are tried again), and cuts off the torn one. Beside the file lie
the settings that decide its scores: a file is never continued with others. Of several ranks each
appends to a partial file beside it; what these hold after a kill counts as well.

Rows are on the disk some seconds after they were written, and when the command has ended. A power
loss may leave zeros in the place of later ones: the file ends where they begin.

A second command that is given a file which another one is writing is refused.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from vqr1.data.tables import fields_of_any_length, parse_json, parse_number
from vqr1.durable import remove_asides, remove_file, write_file
from vqr1.errors import ConfigError, DataError
from vqr1.inference.image_lists import Shown, images_of
from vqr1.inference.own_files import written_kind
from vqr1.inference.result import Result
from vqr1.inference.resume import (
    GrowingFile,
    Partials,
    check_settings,
    cut_to_committed,
    settings_text,
)
from vqr1.inference.writers import EARLIER_FIELDS, FIELDS, ResultWriter
from vqr1.locks import FileLock
from vqr1.program import name_of
from vqr1.row_names import SEPARATOR, row_name

Lines = Literal["csv", "jsonl"]

_ERRORS = "backslashreplace"
"""A file name may hold bytes that are no text; written like this, the file stays readable."""


@contextmanager
def held(path: Path, key: str = "output") -> Iterator[None]:
    """Hold a file against other processes while it is read, continued and written.

    Args:
        path: the file; need not exist. A pipe or a terminal is not held.
        key: configuration key that names it.

    Raises:
        ConfigError: another process holds it.
        DataError: nothing can be written beside it.
    """
    place = path.resolve()
    if place.exists() and not place.is_file():
        yield
        return
    lock = FileLock(place.with_name(f".{place.name}.lock"), remove=True)
    try:
        free = lock.acquire()
    except OSError as error:
        raise DataError(not_written(path, error, key)) from error
    if not free:
        raise ConfigError(
            [
                f"{key}={path}: another process is writing this file; wait until it has ended, or "
                "choose another file"
            ]
        )
    try:
        yield
    finally:
        lock.release()


def not_written(path: str | Path, error: OSError, key: str = "output") -> str:
    """The message about a file that cannot be written."""
    return f"{key}={path}: the file cannot be written ({error.strerror}); choose another place"


class ResultFile:
    """Appends results to a file, continuing what is there; nothing is written before `with`.

    Partial files of ranks that lie beside it are removed where `with` ends without an error: the
    file holds their rows then. Whoever makes one `held` the file before.

    Args:
        path: the file.
        form: its format.
        settings: plain values by dotted key; everything that decides a score.
        resume: continue the file where it exists; otherwise it is replaced.

    Attributes:
        kept: results that the file, or a partial file beside it, held already.

    Raises:
        ConfigError: the file was written with other settings.
        DataError: it cannot be written, is damaged before its end, or is none of ours.
    """

    def __init__(
        self, path: Path, form: Lines, settings: Mapping[str, Any], *, resume: bool
    ) -> None:
        self.kept: list[Result] = []
        self._path = path
        self._form = form
        self._settings = settings
        self._continues = resume and path.exists()
        if self._continues:
            check_continuable(path, settings)
            found = read_results(path, form)
            for part in partials(path).all():
                cut_to_committed(part)
                found += read_results(part, form)
            known: dict[str, Result] = {}
            for result in found:
                if result.error is None:
                    known.setdefault(_key(result.path or ""), result)
            self.kept = list(known.values())
        self._done = frozenset(_key(result.path or "") for result in self.kept)

    def __enter__(self) -> ResultFile:
        try:
            for file in (self._path, settings_file(self._path)):
                remove_asides(file.parent, file.name)
            if not self._continues:
                # The old rows go first, those of ranks before all: neither must ever stand beside
                # settings that are not theirs.
                partials(self._path).remove()
                remove_file(self._path)
                write_file(settings_file(self._path), settings_text(self._settings))
            text = io.StringIO()
            writer = ResultWriter(text, self._form)
            for result in self.kept:
                writer.write(result)
            write_file(self._path, text.getvalue().encode("utf-8", errors=_ERRORS))
            partials(self._path).remove()
            self._rows = RowAppender(self._path, self._form, marked=False)
        except OSError as error:
            raise DataError(not_written(self._path, error)) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._rows.close()
        if kind is None:
            # Only now are their rows in this file for good.
            partials(self._path).remove()

    def holds(self, shown: Shown) -> bool:
        """Whether the file held a result of this image, or of these together, already."""
        return _key(row_name([str(path) for path in images_of(shown)])) in self._done

    def write(self, result: Result) -> None:
        """Append one row."""
        self._rows.write(result)


class RowAppender:
    """Appends results to a growing file, below a header where the format has one.

    Args:
        path: the file.
        form: its format.
        marked: as `GrowingFile` has it; True for the partial file of a rank.
    """

    def __init__(self, path: Path, form: Lines, *, marked: bool = True) -> None:
        self._file = GrowingFile(path, marked=marked, errors=_ERRORS)
        self._text = io.StringIO(newline="")
        self._writer = ResultWriter(self._text, form, header=self._file.empty)

    def __enter__(self) -> RowAppender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, *results: Result) -> None:
        """Append and commit the rows of some results, in one piece."""
        for result in results:
            self._writer.write(result)
        self._file.append(self._text.getvalue())
        self._text.seek(0)
        self._text.truncate()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def partials(path: Path) -> Partials:
    """The files of the ranks that write a file of results together."""
    return Partials(path.parent, f".{path.name}.partial-")


def settings_file(path: Path) -> Path:
    """The file beside a file of results that states how they were made."""
    return path.with_name(f"{path.name}.settings.json")


def check_continuable(path: Path, settings: Mapping[str, Any]) -> None:
    """Whether a file of results may be continued with these settings.

    Raises:
        ConfigError: each setting that differs from those that the file was begun with.
        DataError: there is nothing beside it that records how it was made.
    """
    beside = settings_file(path)
    try:
        begun = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "replace it with resume=false" if written_kind(path) else "remove it first"
        raise DataError(
            f"output={path}: the file exists, and no {beside.name} beside it states how it was "
            f"made; choose another place, or {fix}"
        ) from error
    otherwise = ", choose another output, or replace the file with resume=false"
    check_settings(begun, settings, f"output={path} was begun", otherwise)


def read_results(path: Path, form: Lines) -> list[Result]:
    """All whole rows of a file of results; a torn or lost one, and what follows, is excluded.

    Raises:
        DataError: the file cannot be read, a row is none of ours, or an image has two, with its
            line.
    """
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            text = file.read().partition("\0")[0]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    results: list[Result] = []
    first: dict[str, int] = {}
    for line, row in _csv_rows(path, text) if form == "csv" else _json_rows(text):
        try:
            result = _result(parse_json(row, f"{path}:{line}") if isinstance(row, str) else row)
        except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise _no_row(path, line) from error
        before = first.setdefault(_key(result.path or ""), line)
        if before != line:
            raise DataError(
                f"{path}:{line}: image {result.path!r} was already listed at line {before}; keep "
                "one of the rows"
            )
        results.append(result)
    return results


def _csv_rows(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    """Whole rows with the line that they end on."""
    # `strict` makes a quote that never closes an error: a row torn within a quoted text.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    torn = not text.endswith("\n")
    try:
        with fields_of_any_length():
            rows.extend((reader.line_num, row) for row in reader)
    except csv.Error as error:
        if "unexpected end" not in str(error):
            raise _no_row(path, reader.line_num) from error
        torn = False
    if torn and rows:
        rows.pop()
    names = tuple(rows[0][1]) if rows else FIELDS
    if names not in (FIELDS, *EARLIER_FIELDS):
        raise _no_row(path, 1)
    try:
        return [(line, dict(zip(names, row, strict=True))) for line, row in rows[1:]]
    except ValueError as error:
        short = next(line for line, row in rows[1:] if len(row) != len(names))
        raise _no_row(path, short) from error


def _json_rows(text: str) -> list[tuple[int, str]]:
    # What follows the last line end is nothing, or torn.
    return list(enumerate(text.split("\n")[:-1], start=1))


def _result(row: Mapping[str, Any]) -> Result:
    """A row of either format as a result: CSV knows only text, and no difference of "" and None."""
    score, std, lost = _number(row["score"]), _number(row["std"]), _number(row.get("lost"))
    answers, valid_answers = (row.get(name) for name in ("answers", "valid_answers"))
    return Result(
        str(row["path"]),
        score,
        std,
        lost,
        valid={"true": True, "false": False}[str(row["valid"]).lower()],
        text=row["text"] or None,
        error=row["error"] or None,
        answers=None if answers in ("", None) else int(answers),
        valid_answers=None if valid_answers in ("", None) else int(valid_answers),
        decoded_at=row.get("decoded_at") or None,
    )


def _number(value: Any) -> float | None:
    if value in ("", None):
        return None
    number = parse_number(value)
    if number is None or not math.isfinite(number):
        raise ValueError(f"{value} is no finite number")
    return number


def _no_row(path: Path, line: int) -> DataError:
    return DataError(
        f"{path}:{line}: not a row that {name_of('score')} writes; choose another file, or "
        "replace it with resume=false"
    )


def _key(path: str) -> str:
    """What is the same for the same image, or images of a row, read from the file or not."""
    # Each by itself: `..` in the second one's path would take the first one away.
    whole = row_name([os.path.abspath(one) for one in path.split(SEPARATOR)])
    return whole.encode("utf-8", errors=_ERRORS).decode("utf-8")
