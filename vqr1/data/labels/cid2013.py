"""CID2013: `CID2013 data - version 12112014.xlsx`, sheet `CID2013 MOS`.

Traps: the sheet has two scores. `Realigned MOS` puts the six image sets on one scale and is read;
the other compares within an image set only. `Source_ID` (`IS_I_C01_D01`: image set, scene, device)
is the image's name without its ending; the photographs of a scene have it as their reference, over
all image sets, since the sheet does not state whether the sets photographed it anew. The images may
lie in the archive's folders.
"""

from __future__ import annotations

import re

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource
from vqr1.data.labels._reading import number, sheet_rows
from vqr1.errors import DataError

_SHEET, _NAME, _SCORE = "CID2013 MOS", "Source_ID", "Realigned MOS"
_SOURCE_ID = re.compile(r"IS_?[IVX\d]+_(C\d+)_D\d+", re.IGNORECASE)


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of CID2013.

    Raises:
        DataError: an image is not named as in the set.
    """
    path = source.main_file("CID2013 data - version 12112014.xlsx")
    rows = []
    for where, row in sheet_rows(path, (_NAME, _SCORE), _SHEET):
        name = str(row[_NAME]).strip()
        match = _SOURCE_ID.fullmatch(name)
        if match is None:
            raise DataError(f"{where}: {_NAME}={name!r} is not named as in CID2013 (IS_I_C01_D01)")
        score = number(row[_SCORE], where, _SCORE)
        rows.append(LabelRow(f"{name}.jpg", score, where, reference=match[1].upper()))
    return rows


FORMAT = LabelFormat(
    name="cid2013",
    title="CID2013",
    published_direction="higher",
    published_range=(0.0, 100.0),
    image_folders=(".",),
    parse=parse,
    images=474,
)
