"""The embedded demo set, in KADID-10k's own file form (`dmos.csv`, `var` a standard deviation).

The last two numbers of a file name are the distortion's number, from 1, and its level.
"""

from __future__ import annotations

import re
from dataclasses import replace

from vqr1.data.distortions import DISTORTIONS
from vqr1.data.labels._format import LEVEL, LabelFormat, LabelRow, LabelSource
from vqr1.data.labels.kadid import parse_dmos_csv

_NAME = re.compile(r".*_(\d\d)_(\d\d)\.png$")


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of the demo set with the names and levels of its distortions."""
    return [_with_distortion(row) for row in parse_dmos_csv(source)]


def _with_distortion(row: LabelRow) -> LabelRow:
    match = _NAME.match(row.image)
    if match is None or not 1 <= int(match[1]) <= len(DISTORTIONS):
        return row
    kind = DISTORTIONS[int(match[1]) - 1].name
    return replace(row, distortion=kind, further={**row.further, LEVEL: int(match[2])})


FORMAT = LabelFormat(
    name="demo",
    title="demo",
    published_direction="higher",
    published_range=(1.0, 5.0),
    image_folders=("images",),
    reference_folders=("images",),
    parse=parse,
)
