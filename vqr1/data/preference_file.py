"""A file of preferences between pairs of images: anyone's table, read and put to a set's images.

One statement a row: two images, and which is better as a word, a code, a probability, or numbers of
votes. Rows of one pair, in either direction, are votes that are added up.

Not here: what is counted of pairs and fitted to them (`vqr1.iqa.preferences`), tables of one image
a row (`labels/csv.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vqr1.config import CsvColumns, DatasetConfig, PairsConfig
from vqr1.data.labels._own_table import OwnTable, name_maker, read_own_table, with_decimal_mark
from vqr1.data.labels._reading import text_lines
from vqr1.data.labels._table import relative_image
from vqr1.data.name_index import NameIndex
from vqr1.data.tables import parse_json, parse_number
from vqr1.errors import ConfigError, DataError
from vqr1.iqa.correlation import FloatArray
from vqr1.iqa.preferences import IntArray, StatedPairs, TieRule

_SHOWN = 5
_WORDS: Mapping[str, tuple[str, ...]] = {
    "first": ("left", "a", "first"),
    "second": ("right", "b", "second"),
    "equal": ("equal", "same", "tie", "tied", "draw", "both", "neither"),
}
_CODES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "words": _WORDS,
    "zero_one": {"first": ("0",), "second": ("1",)},
    "one_two": {"first": ("1",), "second": ("2",), "equal": ("0",)},
    "sign": {"first": ("1",), "second": ("-1",), "equal": ("0",)},
}
_VOTES = {"first": (1.0, 0.0, 0.0), "second": (0.0, 1.0, 0.0), "equal": (0.0, 0.0, 1.0)}


@dataclass(frozen=True)
class PreferenceRows:
    """The rows of a file.

    Attributes:
        path: the file.
        lines: line or row of the file that each row is.
        first: name of one image of each row.
        second: name of the other.
        votes: [rows, 3] float64 votes for the first, for the second, for neither.
        form: what was recognised of the file, in words.
    """

    path: Path
    lines: tuple[int, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    votes: FloatArray
    form: str

    def where(self, row: int) -> str:
        """`file:line` of a row."""
        return f"{self.path}:{self.lines[row]}"

    def names(self) -> dict[str, str]:
        """Each image's name once, in the order of the file, with `file:line`."""
        found: dict[str, str] = {}
        for row, names in enumerate(zip(self.first, self.second, strict=True)):
            for name in names:
                found.setdefault(name, self.where(row))
        return found


@dataclass(frozen=True)
class SetPairs:
    """The pairs of a set.

    Attributes:
        stated: the pairs, by row of the set's table.
        rows: statements in the file.
        contradicted: pairs of which several statements prefer different images.
        excluded: pairs with an image that cannot be used (missing, empty).
        form: form of the file, in words.
    """

    stated: StatedPairs
    rows: int
    contradicted: int
    excluded: int
    form: str

    def __str__(self) -> str:
        found = f"{len(self.stated)} pairs of {self.rows} statements ({self.form})"
        if self.contradicted:
            found += f", {self.contradicted} stated both ways"
        if self.excluded:
            found += f", {self.excluded} pairs excluded with their images"
        return found


_kept: dict[tuple[object, ...], PreferenceRows] = {}
"""The file that was read last."""


def read_preference_rows(config: DatasetConfig, root: Path, key: str) -> PreferenceRows:
    """The rows of a set's file.

    Args:
        config: the set.
        root: its folder.
        key: its dotted configuration key.

    Raises:
        ConfigError: no file, a column that it has not, or codes that only a key can state.
        DataError: the file is not as stated; names file and line.
    """
    path, pattern = _path(config, root, key), config.pairs.name_pattern
    if pattern is None and config.columns is not None:
        pattern = config.columns.name_pattern
    stamp = path.stat()
    # Opening a set asks for them several times, and a spreadsheet takes a second to read.
    kept = (str(path), stamp.st_mtime_ns, stamp.st_size, repr(config.pairs), pattern, key)
    if kept not in _kept:
        rows = _read(path, config.pairs, pattern, f"{key}.pairs")
        _kept.clear()
        _kept[kept] = rows
    return _kept[kept]


def _read(path: Path, pairs: PairsConfig, pattern: str | None, key: str) -> PreferenceRows:
    _check_keys(pairs, key)
    columns = _columns(pairs)
    table = _read_json(path, key) if path.suffix == ".jsonl" else read_own_table(path, columns, key)
    values = list(pairs.votes or (pairs.preference,))
    if pairs.equal_votes is not None:
        values.append(pairs.equal_votes)
    places = [table.place(column, "votes" if pairs.votes else "preference") for column in values]
    table = with_decimal_mark(table, places, columns)
    first, second = table.place(pairs.first, "first"), table.place(pairs.second, "second")
    make = name_maker(pattern, key)

    def name(row: int, place: int) -> str:
        where = table.where(row)
        return relative_image(make(table.text(row, place), where), where)

    names = [(name(row, first), name(row, second)) for row in range(len(table.rows))]
    for row, (one, other) in enumerate(names):
        if one == other:
            raise DataError(f"{table.where(row)}: image {one!r} against itself; remove the row")
    if not names:
        raise DataError(f"{path}: no pairs")
    votes = _votes(table, places, key) if pairs.votes else _preferences(table, places[0], pairs)
    firsts, seconds = zip(*names, strict=True)
    return PreferenceRows(path, tuple(table.lines), firsts, seconds, votes, table.form)


def read_pairs(
    config: DatasetConfig,
    root: Path,
    key: str,
    names: Sequence[str],
    found: Sequence[str | None] | None = None,
) -> SetPairs | None:
    """The pairs of a set by row of its labels; None where it has no file of pairs.

    Args:
        config: the set.
        root: its folder.
        key: its dotted configuration key.
        names: of the images as its label file writes them.
        found: of each of them, its path on this disk, None where it cannot be used: the pairs are
            then numbered by those that can, and the others are counted.

    Raises:
        ConfigError, DataError: as `read_preference_rows`; an image that the labels have not, or a
            name that fits several of them.
    """
    if config.pairs.file is None:
        return None
    rows = read_preference_rows(config, root, key)
    usable = list(names) if found is None else found
    index = NameIndex(zip(names, (path or "" for path in usable), strict=True))
    row_of = _rows_of(rows, index)
    first = np.array([row_of[name] for name in rows.first], dtype=np.int64)
    second = np.array([row_of[name] for name in rows.second], dtype=np.int64)
    same = np.flatnonzero(first == second)
    if len(same):
        row = int(same[0])
        raise DataError(
            f"{rows.where(row)}: {rows.first[row]!r} and {rows.second[row]!r} are one image; "
            "remove the row"
        )
    rule = TieRule(config.pairs.tie_threshold, config.pairs.human_ties)
    stated = StatedPairs.gather(first, second, *rows.votes.T, rule=rule)
    places = np.cumsum([path is not None for path in usable]) - 1
    places[[path is None for path in usable]] = -1
    kept = stated.renumbered(places)
    return SetPairs(
        kept, len(first), _contradicted(first, second, rows.votes), len(stated) - len(kept),
        rows.form,
    )  # fmt: skip


def _path(config: DatasetConfig, root: Path, key: str) -> Path:
    file, name = config.pairs.file, f"{key}.pairs.file"
    if file is None:
        raise ConfigError([f"{name}=None: name the file of pairs, relative to {key}.root"])
    path = root / file
    if not path.resolve().is_relative_to(root.resolve()):
        raise ConfigError([f"{name}={file!r}: leaves {key}.root"])
    if not path.is_file():
        raise ConfigError([f"{name}={file!r}: no such file in {root}"])
    return path


def _check_keys(pairs: PairsConfig, key: str) -> None:
    """Raise one ConfigError with every key that would be passed over."""
    problems = []
    if pairs.equal_votes is not None and pairs.votes is None:
        problems.append(f"{key}.equal_votes={pairs.equal_votes!r}: name {key}.votes too")
    if pairs.words is not None and pairs.codes is not None:
        problems.append(f"{key}.codes={pairs.codes}, {key}.words: only one of them may be given")
    if pairs.votes is not None and (pairs.words is not None or pairs.codes is not None):
        problems.append(f"{key}.votes: numbers of votes have no codes or words; remove these")
    if problems:
        raise ConfigError(problems)


def _columns(pairs: PairsConfig) -> CsvColumns:
    """The columns as the reader of own tables takes them; which is which does not matter there."""
    others = [pairs.second, *(pairs.votes or (pairs.preference,))]
    if pairs.equal_votes is not None:
        others.append(pairs.equal_votes)
    return CsvColumns(
        image=pairs.first, mos=tuple(others), header=pairs.header, separator=pairs.separator,
        decimal=pairs.decimal, sheet=pairs.sheet,
    )  # fmt: skip


def _read_json(path: Path, key: str) -> OwnTable:
    """Objects of one level, a line each."""
    found: list[tuple[int, dict[str, Any]]] = []
    for where, text in text_lines(path):
        value = parse_json(text, where)
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected an object, found {type(value).__name__}")
        found.append((int(where.rpartition(":")[2]), value))
    names = tuple(dict.fromkeys(name for _, record in found for name in record))
    rows = [[record.get(name) for name in names] for _, record in found]
    return OwnTable(path, names, rows, [line for line, _ in found], key, "JSON lines")


def _votes(table: OwnTable, places: Sequence[int], key: str) -> FloatArray:
    """[rows, 3] of columns of numbers."""
    found = np.zeros((len(table.rows), 3))
    for row in range(len(table.rows)):
        counts = [table.number(row, place) for place in places]
        for place, count in zip(places, counts, strict=True):
            if count < 0:
                raise DataError(
                    f"{table.where(row)}: {table.names[place]}={count:g} votes: must be 0 or more"
                )
        if not sum(counts):
            raise DataError(f"{table.where(row)}: no vote in this row; remove it")
        found[row, : len(counts)] = counts
    return found


def _preferences(table: OwnTable, place: int, pairs: PairsConfig) -> FloatArray:
    """[rows, 3] of a column of words, codes or probabilities."""
    texts = [_code(table.text(row, place)) for row in range(len(table.rows))]
    kind = "words" if pairs.words is not None else pairs.codes or _recognised(table, place, texts)
    if kind == "probability":
        return np.array([_probability(table, row, place) for row in range(len(texts))])
    known = pairs.words if pairs.words is not None else _CODES[kind]
    meaning = {_code(word): choice for choice, words in known.items() for word in words}
    found = []
    for row, text in enumerate(texts):
        if text not in meaning:
            raise DataError(
                f"{table.where(row)}: {table.names[place]}={table.text(row, place)!r} is none of "
                f"{', '.join(meaning)} ({table.key}.codes={kind}); state others with "
                f"{table.key}.codes or {table.key}.words"
            )
        found.append(_VOTES[meaning[text]])
    return np.array(found)


def _probability(table: OwnTable, row: int, place: int) -> tuple[float, float, float]:
    p = table.number(row, place)
    if not 0 <= p <= 1:
        raise DataError(
            f"{table.where(row)}: {table.names[place]}={p:g} must be in [0, 1], the probability "
            "that the first image is better"
        )
    return p, 1.0 - p, 0.0


def _code(text: str) -> str:
    """A word without letter case, a whole number without its decimals (1.0)."""
    value = parse_number(text)
    return str(int(value)) if value is not None and value.is_integer() else text.casefold()


def _recognised(table: OwnTable, place: int, texts: Sequence[str]) -> str:
    """The codes that a column can only hold.

    Raises:
        ConfigError: several could be meant: 0 and 1, or -1 and 1.
    """
    present = set(texts)
    if present <= {word for words in _WORDS.values() for word in words}:
        return "words"
    numbers = [parse_number(text.replace(",", ".")) for text in present]
    if any(value is not None and 0 < value < 1 for value in numbers):
        return "probability"
    if present == {"1", "2"}:
        return "one_two"
    shown = ", ".join(repr(text) for text in sorted(present)[:_SHOWN])
    raise ConfigError(
        [
            f"{table.key}.codes=None: column {table.names[place]} of {table.path} holds {shown}"
            f"{', ...' if len(present) > _SHOWN else ''}, which may mean several things; set it to "
            f"zero_one (1: the second is better), one_two, sign or probability (1: the first is "
            f"better), or state them with {table.key}.words"
        ]
    )


def _contradicted(first: IntArray, second: IntArray, votes: FloatArray) -> int:
    """Pairs of which some rows prefer one image, and others the other."""
    sign = np.sign(votes[:, 0] - votes[:, 1]) * np.where(first < second, 1, -1)
    keys = np.minimum(first, second) << 32 | np.maximum(first, second)
    _, place = np.unique(keys, return_inverse=True)
    both = [np.bincount(place, sign == wanted) > 0 for wanted in (1, -1)]
    return int((both[0] & both[1]).sum())


def _rows_of(rows: PreferenceRows, index: NameIndex) -> dict[str, int]:
    """Row of the labels of each name in a file.

    Raises:
        DataError: names that are not there (five are shown), or one that fits several images.
    """
    found: dict[str, int] = {}
    unknown = []
    for name, where in rows.names().items():
        fits = index.find(name)
        if len(fits) > 1:
            raise DataError(
                f"{where}: image {name!r} fits {len(fits)} images of the labels; write the name as "
                "it stands there"
            )
        if fits:
            found[name] = fits[0]
        else:
            unknown.append(f"{name!r} ({where})")
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if unknown[_SHOWN:] else ""
        raise DataError(
            f"{rows.path}: {len(unknown)} images in pairs are not in the labels: "
            f"{', '.join(unknown[:_SHOWN])}{more}; correct the names, or make names of them with "
            "pairs.name_pattern"
        )
    return found
