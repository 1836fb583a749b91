"""pyiqa's label files (`meta_info_...csv`), beside a set's official file or in place of it.

Such a file has the official scores in the official direction under other column names, and split
columns with the words train, val and test: `official_split` or `split`, and one for each random
split of its benchmark (`ratio802_seed123_split_01`). What is known of the columns is from pyiqa's
documentation and the scripts that write the files.

Not here: which form a folder has (`_forms.py`); the older split files, which are pickles
(`_format.refuse_pickle`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vqr1.data.labels._format import (
    LabelRow,
    LabelSource,
    MetaForm,
    Split,
    split_word,
)
from vqr1.data.labels._reading import csv_rows, number, standard_deviation
from vqr1.data.tables import read_csv

_SPLIT_COLUMN = re.compile(r"official_split|split|ratio\d+_seed\d+_split_\d+")


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


def meta_file(meta: MetaForm, source: LabelSource) -> Path | None:
    """The configured label file where its header is this form's, else the form's own name.

    Raises:
        ConfigError: the configured file is not there.
    """
    if source.label_file is None:
        return source.optional_file(meta.file, f"meta_info/{meta.file}")
    if Path(source.label_file).suffix.lower() != ".csv":
        return None
    path = source.main_file()
    return path if {meta.image, meta.score} <= set(read_csv(path, meta.repeated).columns) else None


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
