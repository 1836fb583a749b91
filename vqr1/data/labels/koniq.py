"""KonIQ-10k with the official split: `koniq10k_distributions_sets.csv`.

Traps: `MOS` is on a scale of 0 to 100, `SD` on the raters' scale of 1 to 5; `std` here is SD as
published. The set's other label file is the format `koniq_scores`.
"""

from __future__ import annotations

from vqr1.data.labels._format import (
    LabelFormat,
    LabelRow,
    LabelSource,
    MetaForm,
    split_word,
)
from vqr1.data.labels._meta import base_name
from vqr1.data.labels._reading import csv_rows, number, standard_deviation

IMAGE_FOLDERS = ("1024x768", "512x384", "koniq10k_1024x768", "koniq10k_512x384", "images")
"""Folders that the set's two archives, and common re-packings, unpack to."""


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of KonIQ-10k with training, validation and test marks."""
    path = source.main_file("koniq10k_distributions_sets.csv")
    return [
        LabelRow(
            image=row["image_name"],
            mos=number(row["MOS"], where, "MOS"),
            where=where,
            std=standard_deviation(row["SD"], where, "SD"),
            split=split_word(row["set"], where),
        )
        for where, row in csv_rows(path, ("image_name", "MOS", "SD", "set"))
    ]


FORMAT = LabelFormat(
    name="koniq",
    title="KONIQ-10K",
    published_direction="higher",
    published_range=(3.91, 88.39),
    image_folders=IMAGE_FOLDERS,
    parse=parse,
    images=10073,
    # Slope of MOS on the mean of the file's own counts of ratings.
    std_unit=27.8,
    meta=MetaForm("meta_info_KonIQ10kDataset.csv", "img_name", "mos", complete=base_name),
)
