"""Anyone's own set: a table of text or a spreadsheet; `dataset.columns` states its columns.

One row an image, or the images that are shown together: its MOS, or the ratings of several
observers, which are averaged.
"""

from __future__ import annotations

import math
import statistics

from vqr1.config import CsvColumns
from vqr1.data.labels._format import NOTHING, LabelFormat, LabelRow, LabelSource, split_word
from vqr1.data.labels._own_table import (
    Column,
    OwnTable,
    name_maker,
    read_own_table,
    with_decimal_mark,
)
from vqr1.errors import ConfigError, DataError


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of the configured table."""
    columns = source.columns or CsvColumns()
    key = f"{source.key}.columns"
    return table_rows(read_own_table(source.main_file(), columns, key), columns, key, source.notes)


def table_rows(table: OwnTable, columns: CsvColumns, key: str, notes: list[str]) -> list[LabelRow]:
    """Rows of a table whose columns are stated.

    Args:
        table: the table.
        columns: which of its columns mean what.
        key: dotted configuration key of `columns`.
        notes: what was recognised of the table is added.

    Raises:
        ConfigError: there is no such column.
        DataError: a cell is not what its column means.
    """
    scores = table.places(columns.mos, "mos")
    std = None if columns.std is None else table.place(columns.std, "std")
    if len(scores) > 1 and std is not None:
        raise ConfigError(
            [f"{key}.std={columns.std!r}: several columns of ratings have a deviation of their own"]
        )
    table = with_decimal_mark(table, scores if std is None else [*scores, std], columns)
    notes.append(table.form)
    name_of = name_maker(columns.name_pattern, key)
    images = table.places(columns.image, "image")
    texts = {
        field: table.place(column, field)
        for field, column in _text_columns(columns).items()
        if column is not None
    }
    further = {name: table.place(name, "further") for name in columns.further}
    rows = []
    for row in range(len(table.rows)):
        where = table.where(row)
        mos, deviation = _score(table, row, scores, std)
        words = {field: table.text(row, place) for field, place in texts.items()}
        values = {name: table.value(row, place) for name, place in further.items()}
        names = tuple(name_of(table.text(row, place), where) for place in images)
        if texts.get("reference") in images:
            words["reference"] = names[images.index(texts["reference"])]
        rows.append(
            LabelRow(
                image=names[-1],
                images=names if len(names) > 1 else (),
                mos=mos,
                where=where,
                std=deviation,
                reference=words.get("reference") or None,
                split=split_word(words["split"], where) if "split" in words else None,
                distortion=words.get("distortion") or None,
                further={n: value for n, value in values.items() if value != ""} or NOTHING,
            )
        )
    return rows


def _text_columns(columns: CsvColumns) -> dict[str, Column | None]:
    return {
        "reference": columns.reference,
        "split": columns.split,
        "distortion": columns.distortion,
    }


def _score(table: OwnTable, row: int, scores: list[int], std: int | None) -> tuple[float, float]:
    """MOS and standard deviation of one image."""
    if len(scores) > 1:
        ratings = [table.number(row, place) for place in scores if table.text(row, place)]
        if not ratings:
            raise DataError(f"{table.where(row)}: none of the {len(scores)} observers rated it")
        deviation = statistics.stdev(ratings) if len(ratings) > 1 else math.nan
        return statistics.fmean(ratings), deviation
    deviation = math.nan if std is None else table.number(row, std)
    if deviation < 0 and std is not None:
        raise DataError(
            f"{table.where(row)}: {table.names[std]}={deviation:g} must not be negative"
        )
    return table.number(row, scores[0]), deviation


FORMAT = LabelFormat(
    name="csv",
    title="csv",
    published_direction="higher",
    published_range=None,
    image_folders=("images", "."),
    parse=parse,
    reference_folders=("images", "."),
)
