"""Anyone's own set as a CSV file with a header line; `dataset.columns` names the columns."""

from __future__ import annotations

import math

from vqr1.config import CsvColumns
from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, split_word
from vqr1.data.labels._reading import csv_rows, number, standard_deviation


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of the configured CSV file."""
    columns = source.columns or CsvColumns()
    names = (
        columns.image, columns.mos, columns.std, columns.reference, columns.split,
        columns.distortion, *columns.further,
    )  # fmt: skip
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
                distortion=(row[columns.distortion] or None) if columns.distortion else None,
                further={name: _value(row[name]) for name in columns.further if row[name]},
            )
        )
    return rows


def _value(text: str) -> float | str:
    """A number where the text is one, else the text."""
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text


FORMAT = LabelFormat(
    name="csv",
    title="csv",
    published_direction="higher",
    published_range=None,
    image_folders=("images", "."),
    parse=parse,
)
