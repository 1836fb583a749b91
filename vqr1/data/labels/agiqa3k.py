"""AGIQA-3K: `data.csv`; the QUALITY scores of its two kinds, not the alignment scores.

The first field of a file name is the generator (`AttnGAN_normal_000.jpg`); it takes the place of
the distortion.
"""

from __future__ import annotations

from dataclasses import replace

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, SetList
from vqr1.data.labels._meta import base_name
from vqr1.data.labels._reading import csv_rows, number, standard_deviation


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of AGIQA-3K."""
    path = source.main_file("data.csv")
    return [
        LabelRow(
            image=row["name"],
            mos=number(row["mos_quality"], where, "mos_quality"),
            where=where,
            std=standard_deviation(row["std_quality"], where, "std_quality"),
            distortion=_generator(row["name"]),
        )
        for where, row in csv_rows(path, ("name", "mos_quality", "std_quality"))
    ]


def _generator(image: str) -> str:
    return image.split("_")[0]


def _as_official(row: LabelRow) -> LabelRow:
    named = base_name(row)
    return replace(named, distortion=_generator(named.image))


FORMAT = LabelFormat(
    name="agiqa3k",
    title="AGIQA-3K",
    published_direction="higher",
    published_range=(0.0, 4.489),
    image_folders=("images", "AGIQA-3K", "."),
    parse=parse,
    images=2982,
    lists=(SetList("DeQA-Score", "AGIQA3K", complete=_as_official),),
)
