"""A set in Parquet with embedded images, as `vqr1.data.hub` lays it down in the cache folder.

`dataset.columns` states the columns, as of a table of anyone's own; the image is named by the path
that its row states, else by split and row. The set's own splits are the official ones.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from vqr1.config import CsvColumns
from vqr1.data.hub import IMAGES, ROWS, SOURCE
from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, Split, split_word
from vqr1.data.labels._own_table import OwnTable
from vqr1.data.labels.csv import table_rows
from vqr1.data.tables import read_text
from vqr1.errors import ConfigError, DataError

_FORM_KEYS = ("header", "separator", "decimal", "sheet", "name_pattern")
"""Keys of text tables and spreadsheets, which mean nothing here."""


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of all splits, in the set's order.

    Raises:
        ConfigError: a key that a set in Parquet does not take.
        DataError: the set has no rows.
    """
    columns = source.columns or CsvColumns()
    key = f"{source.key}.columns"
    unfit = [name for name in _FORM_KEYS if getattr(columns, name) is not None]
    if unfit:
        raise ConfigError([f"{key}.{name}: not of a set in Parquet; remove it" for name in unfit])
    path = str(json.loads(read_text(source.root / SOURCE))["path"])
    # Not `splitlines`: a text of a row may hold further characters that it takes for line ends.
    lines = read_text(source.root / ROWS).split("\n") if _has_rows(source.root) else []
    records: list[dict[str, Any]] = [json.loads(line) for line in lines if line]
    if not records:
        raise DataError(f"{source.key}.path={path!r}: no rows")
    image = str(columns.image)
    others = tuple(dict.fromkeys(name for record in records for name in record["values"]))
    names = (image, *(name for name in others if name != image))
    counts = Counter(record["split"] for record in records)
    shown = ", ".join(f"{split} {count}" for split, count in counts.items())
    table = OwnTable(
        Path(path),
        names,
        [[r["image"], *(r["values"].get(name) for name in names[1:])] for r in records],
        [f"{r['split']}[{r['row']}]" for r in records],
        key,
        f"Parquet, {path} ({shown})",
    )
    rows = table_rows(table, columns, key, source.notes)
    if columns.split is not None:
        return rows
    splits = {name: _split(name) for name in counts}
    return [
        replace(row, split=splits[record["split"]])
        for row, record in zip(rows, records, strict=True)
    ]


def _has_rows(folder: Path) -> bool:
    return (folder / ROWS).stat().st_size > 0


def _split(name: str) -> Split | None:
    """The split that one of the set's own is; one with another name is in none."""
    try:
        return split_word("val" if name == "dev" else name, name)
    except DataError:
        return None


FORMAT = LabelFormat(
    name="hub",
    title="hub",
    published_direction="higher",
    published_range=None,
    image_folders=(IMAGES,),
    parse=parse,
)
