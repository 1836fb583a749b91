"""Anyone's own set as a CSV file with a header line; `dataset.columns` names the columns."""

from __future__ import annotations

import math

from vqr1.config import CsvColumns
from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, split_word
from vqr1.data.labels._reading import csv_rows, number, standard_deviation


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of the configured CSV file."""
    columns = source.columns or CsvColumns()
    names = (columns.image, columns.mos, columns.std, columns.reference, columns.split)
    rows = []
    for where, row in csv_rows(source.main_file(), [name for name in names if name]):
        rows.append(
            LabelRow(
                image=row[columns.image],
                mos=number(row[columns.mos], where, columns.mos),
                where=where,
                std=standard_deviation(row[columns.std], where, columns.std)
                if columns.std
                else math.nan,
                reference=(row[columns.reference] or None) if columns.reference else None,
                split=split_word(row[columns.split], where) if columns.split else None,
            )
        )
    return rows


FORMAT = LabelFormat(
    name="csv",
    title="csv",
    published_direction="higher",
    published_range=None,
    image_folders=("images", "."),
    parse=parse,
)
