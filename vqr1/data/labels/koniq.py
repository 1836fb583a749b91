"""KonIQ-10k with the official split: `koniq10k_distributions_sets.csv`.

Traps: `MOS` is on a scale of 0 to 100, `SD` on the raters' scale of 1 to 5; `std` here is SD as
published. The set's other label file is the format `koniq_scores`, whose scores the lists of other
collections hold.
"""

from __future__ import annotations

from dataclasses import replace

from vqr1.data.labels._format import (
    LabelFormat,
    LabelRow,
    LabelSource,
    MetaForm,
    split_word,
)
from vqr1.data.labels._meta import base_name
from vqr1.data.labels._reading import csv_rows, number, standard_deviation
from vqr1.data.labels.koniq_scores import IMAGE_FOLDERS, RATING_LISTS
from vqr1.errors import DataError

_FILE = "koniq10k_distributions_sets.csv"
_RATINGS = ("c1", "c2", "c3", "c4", "c5")


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of KonIQ-10k with training, validation and test marks."""
    path = source.main_file(_FILE)
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


def mean_ratings(source: LabelSource) -> list[LabelRow]:
    """Rows with the mean of the file's own ratings of 1 to 5, the score of other lists.

    Raises:
        DataError: a row without ratings.
    """
    rows = []
    for where, row in csv_rows(source.main_file(_FILE), ("image_name", *_RATINGS)):
        counts = [number(row[name], where, name) for name in _RATINGS]
        if sum(counts) <= 0:
            raise DataError(f"{where}: no ratings in {', '.join(_RATINGS)}")
        mean = sum(n * count for n, count in enumerate(counts, start=1)) / sum(counts)
        rows.append(LabelRow(row["image_name"], mean, where))
    return rows


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
    lists=tuple(
        replace(form, compared=mean_ratings, scores_of="koniq_scores") for form in RATING_LISTS
    ),
)
