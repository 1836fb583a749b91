"""KonIQ++: `koniq++database.csv`, or pyiqa's copy of it; a second study of KonIQ-10k's images.

`qmos` and its `sd` are on the raters' scale of 1 to 5; the shares of raters who saw artifacts,
blur, contrast, colors or other defects are further columns. The file has no split: KonIQ-10k's is
taken where that set's label file (its authors' or pyiqa's) lies beside it, since the images are the
same ones.
"""

from __future__ import annotations

from vqr1.data.labels._format import (
    LabelFormat,
    LabelRow,
    LabelSource,
    MissingLabelsError,
    Split,
    split_word,
)
from vqr1.data.labels._forms import read_labels_of
from vqr1.data.labels._reading import csv_rows, number, standard_deviation
from vqr1.data.labels.koniq import FORMAT as KONIQ

DEFECTS = ("artifacts", "blur", "contrast", "colors", "other", "degraded.amount")
"""Columns with the shares of raters who saw a defect, and the share of all defects."""


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of KonIQ++."""
    path = source.main_file("koniq++database.csv", "meta_info_KonIQ10k++Dataset.csv")
    of_koniq = _koniq_splits(source)
    return [
        LabelRow(
            image=row["filename"],
            mos=number(row["qmos"], where, "qmos"),
            where=where,
            std=standard_deviation(row["sd"], where, "sd"),
            split=split_word(row.get("official_split", ""), where)
            or of_koniq.get(row["filename"].lower()),
            further={name: number(row[name], where, name) for name in DEFECTS},
        )
        for where, row in csv_rows(path, ("filename", "qmos", "sd", *DEFECTS))
    ]


def _koniq_splits(source: LabelSource) -> dict[str, Split | None]:
    try:
        rows = read_labels_of(KONIQ, LabelSource(source.root, source.key)).rows
    except MissingLabelsError:
        return {}
    return {row.image.lower(): row.split for row in rows}


FORMAT = LabelFormat(
    name="koniqpp",
    title="KonIQ++",
    published_direction="higher",
    published_range=(1.0, 5.0),
    image_folders=KONIQ.image_folders,
    parse=parse,
    images=10073,
)
