"""pyiqa's label files (`meta_info_...csv`), beside a set's official file or in place of it.

Such a file has the official scores in the official direction under other column names, and split
columns with the words train, val and test: `official_split` or `split`, and one for each random
split of its benchmark (`ratio802_seed123_split_01`). What is known of the columns is from pyiqa's
documentation and the scripts that write the files.

`read_labels_of` decides which form a folder has. Two forms must agree: then the official one is
used, with the other's split columns.

Not here: the older split files, which are pickles (`_format.refuse_pickle`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vqr1.data.labels._format import (
    LabelFormat,
    LabelRow,
    LabelSource,
    MetaForm,
    MissingLabelsError,
    Split,
    split_word,
)
from vqr1.data.labels._reading import csv_rows, number, standard_deviation
from vqr1.data.tables import read_csv
from vqr1.errors import DataError

OFFICIAL = "official"
"""Name of the form that a set's authors publish."""

_SPLIT_COLUMN = re.compile(r"official_split|split|ratio\d+_seed\d+_split_\d+")

_TOLERANCE = 1e-3
"""Largest difference of equal scores, as a share of the published range: rounding."""


def read_labels_of(declared: LabelFormat, source: LabelSource) -> tuple[list[LabelRow], str]:
    """A set's rows from whichever form its folder has, and the form in words.

    Raises:
        ConfigError: as the format's parser.
        DataError: as the parsers; two forms that contradict each other.
    """
    meta = declared.meta
    if meta is None:
        rows = declared.parse(source)
        return rows, "; ".join(source.notes) or OFFICIAL
    path = _meta_file(meta, source)
    if path is None:
        try:
            return declared.parse(source), OFFICIAL
        except MissingLabelsError as error:
            raise MissingLabelsError(f"{error} (pyiqa's {meta.file} would do too)") from error
    rows = parse_meta(path, meta)
    if source.label_file is not None:
        return rows, f"pyiqa ({path.name})"
    try:
        official = declared.parse(source)
    except MissingLabelsError:
        return rows, f"pyiqa ({path.name})"
    note = _check_agreement(rows, _rows_to_compare(declared, source, official), declared, path)
    return _with_splits(official, rows), f"{OFFICIAL}, with {path.name} beside it ({note})"


def parse_meta(path: Path, meta: MetaForm) -> list[LabelRow]:
    """Rows of a `meta_info_...csv`, completed as the official file's.

    Raises:
        DataError: a column is missing or a row is not as the header states.
    """
    required = [name for name in (meta.image, meta.score, meta.reference) if name]
    return [
        row
        for where, fields in csv_rows(path, required, meta.repeated)
        if (row := meta.complete(_row(fields, where, meta))) is not None
    ]


def base_name(row: LabelRow) -> LabelRow:
    """The row with the bare name of its image: official files name no folder."""
    return replace(row, image=PurePosixPath(row.image.replace("\\", "/")).name)


def _row(fields: Mapping[str, str], where: str, meta: MetaForm) -> LabelRow:
    std = fields.get(meta.std or "", "")
    splits = dict(_splits(fields, where, meta))
    return LabelRow(
        image=fields[meta.image],
        mos=number(fields[meta.score], where, meta.score),
        where=where,
        std=standard_deviation(std, where, str(meta.std)) if std else math.nan,
        reference=(fields[meta.reference] or None) if meta.reference else None,
        split=splits.get("official_split", splits.get("split")),
        splits=splits,
    )


def _splits(fields: Mapping[str, str], where: str, meta: MetaForm) -> Iterator[tuple[str, Split]]:
    for name, word in fields.items():
        if _SPLIT_COLUMN.fullmatch(name) or name in meta.split_columns:
            part = meta.split_codes.get(word.lower()) or split_word(word, where)
            if part is not None:
                yield name, part


def _meta_file(meta: MetaForm, source: LabelSource) -> Path | None:
    """The configured file where its header is this form's, else the form's own name."""
    if source.label_file is None:
        return source.optional_file(meta.file, f"meta_info/{meta.file}")
    if Path(source.label_file).suffix.lower() != ".csv":
        return None
    path = source.main_file()
    return path if {meta.image, meta.score} <= set(read_csv(path, meta.repeated).columns) else None


def _rows_to_compare(
    declared: LabelFormat, source: LabelSource, official: list[LabelRow]
) -> list[LabelRow] | None:
    """The official rows with the scores that the other form was made from, if they are there."""
    made_from = declared.meta.made_from if declared.meta else None
    if made_from is None:
        return official
    if source.optional_file(made_from) is None:
        return None
    return declared.parse(replace(source, label_file=made_from))


def _check_agreement(
    rows: Sequence[LabelRow],
    official: Sequence[LabelRow] | None,
    declared: LabelFormat,
    path: Path,
) -> str:
    """What to report of two forms that do not contradict each other."""
    if official is None:
        return "made from another version of the scores, which is not here to compare"
    low, high = declared.published_range or (0.0, 1.0)
    known = {row.image.lower(): row for row in official}
    remedy = "keep one of the two files, or name the one to use with label_file"
    shared = 0
    for row in rows:
        other = known.get(row.image.lower())
        if other is None:
            continue
        shared += 1
        if abs(row.mos - other.mos) > _TOLERANCE * (high - low):
            raise DataError(
                f"{row.where}: {row.image!r} has score {row.mos:g} here and {other.mos:g} at "
                f"{other.where}; {remedy}"
            )
        if row.split is not None and other.split not in (None, row.split):
            raise DataError(
                f"{row.where}: {row.image!r} is in split {row.split} here and in {other.split} at "
                f"{other.where}; {remedy}"
            )
    if not shared:
        raise DataError(f"{path}: names none of the images of the official label file; {remedy}")
    if shared == len(rows) == len(official):
        return "they agree"
    return f"they agree on the {shared} images that both name, of {len(rows)} and {len(official)}"


def _with_splits(official: list[LabelRow], rows: Sequence[LabelRow]) -> list[LabelRow]:
    known = {row.image.lower(): row for row in rows}
    return [
        row
        if (other := known.get(row.image.lower())) is None
        else replace(row, splits=other.splits, split=row.split or other.split)
        for row in official
    ]
