"""AGIQA-3K: `data.csv`; QUALITY scores, and those of the alignment with the prompt (`align`).

The first field of a file name is the generator (`AttnGAN_normal_000.jpg`); it takes the place of
the distortion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, Rating, SetList
from vqr1.data.labels._meta import base_name
from vqr1.data.labels._reading import csv_rows, number, standard_deviation


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of AGIQA-3K."""
    path = source.main_file("data.csv")
    return [
        _row(where, row) for where, row in csv_rows(path, ("name", "mos_quality", "std_quality"))
    ]


def _row(where: str, row: Mapping[str, str]) -> LabelRow:
    scores = {
        name: Rating(
            number(row[f"mos_{name}"], where, f"mos_{name}"),
            standard_deviation(row[f"std_{name}"], where, f"std_{name}"),
        )
        for name in FORMAT.scores
        if f"mos_{name}" in row and f"std_{name}" in row
    }
    mos, std = scores["quality"]
    return LabelRow(row["name"], mos, where, std, distortion=_generator(row["name"]), scores=scores)


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
    scores={"quality": (0.0, 4.489), "align": (0.021, 4.287)},
    lists=(SetList("DeQA-Score", "AGIQA3K", complete=_as_official),),
)
