"""UHD-IQA: `uhd-iqa-metadata.csv` with `image_name,quality_mos,set,...`; MOS of 0 to 1.

The photographs, 3,840 pixels wide, lie in folders named after the set's split (`training/`,
`validation/`, `test/`), which the names in the file do not hold.
"""

from __future__ import annotations

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, split_word
from vqr1.data.labels._reading import csv_rows, number


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of UHD-IQA with the set's own split."""
    path = source.main_file("uhd-iqa-metadata.csv")
    return [
        LabelRow(
            image=row["image_name"],
            mos=number(row["quality_mos"], where, "quality_mos"),
            where=where,
            split=split_word(row["set"], where),
        )
        for where, row in csv_rows(path, ("image_name", "quality_mos", "set"))
    ]


FORMAT = LabelFormat(
    name="uhdiqa",
    title="UHD-IQA",
    published_direction="higher",
    published_range=(0.0, 1.0),
    image_folders=(".",),
    parse=parse,
    images=6073,
)
