"""GFIQA-20k (faces): `mos_rating.csv` or `mos_val_rating.csv`, `img_name,mos`; MOS of 0 to 1."""

from __future__ import annotations

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, MetaForm
from vqr1.data.labels._reading import csv_rows, number


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of GFIQA-20k."""
    path = source.main_file("mos_rating.csv", "mos_val_rating.csv")
    return [
        LabelRow(row["img_name"], number(row["mos"], where, "mos"), where)
        for where, row in csv_rows(path, ("img_name", "mos"))
    ]


FORMAT = LabelFormat(
    name="gfiqa",
    title="GFIQA-20k",
    published_direction="higher",
    published_range=(0.0, 1.0),
    image_folders=("image", "images", "."),
    parse=parse,
    images=19998,
    meta=MetaForm("meta_info_GFIQADataset.csv", "img_name", "mos"),
)
