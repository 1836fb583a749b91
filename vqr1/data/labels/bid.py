"""BID (blurred image database): `DatabaseGrades.xlsx`, or a text copy of name, MOS, std.

The spreadsheet numbers the images; image 3 is `DatabaseImage0003.JPG`.
"""

from __future__ import annotations

from pathlib import Path

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource
from vqr1.data.labels._reading import number, sheet_rows, standard_deviation, text_rows

_NUMBER, _GRADE = "Image Number", "Average Subjective Grade"


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of BID, from whichever of its two forms is there."""
    path = source.main_file("DatabaseGrades.xlsx", "bid_all.txt")
    return _parse_sheet(path) if path.suffix.lower() == ".xlsx" else _parse_text(path)


def _parse_sheet(path: Path) -> list[LabelRow]:
    rows = []
    for where, row in sheet_rows(path, (_NUMBER, _GRADE)):
        others = [value for name, value in row.items() if name not in (_NUMBER, _GRADE)]
        rows.append(
            LabelRow(
                image=f"DatabaseImage{int(number(row[_NUMBER], where, _NUMBER)):04d}.JPG",
                mos=number(row[_GRADE], where, _GRADE),
                where=where,
                # The third column's heading differs between copies of the file.
                std=standard_deviation(others[0], where, "std") if others else float("nan"),
            )
        )
    return rows


def _parse_text(path: Path) -> list[LabelRow]:
    return [
        LabelRow(
            image=Path(image).name,
            mos=number(score, where, "MOS"),
            where=where,
            std=standard_deviation(std, where, "std"),
        )
        for where, (image, score, std) in text_rows(path, 3)
    ]


FORMAT = LabelFormat(
    name="bid",
    title="BID",
    published_direction="higher",
    published_range=(0.164, 4.920),
    image_folders=("ImageDatabase", "."),
    parse=parse,
    images=586,
)
