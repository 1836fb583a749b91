"""FLIVE (PaQ-2-PiQ): `database/labels_image.csv` with `name,mos`; MOS of 0 to 100.

The set's split is in two further files of its authors: `labels640.csv` names the test images (those
with a side above 640 pixels), `labels<=640_padded.csv` marks validation images by `is_valid`. The
set has 119,430 patches of these images too: `label_file=database/labels_patch.csv` reads them, each
with its image as reference and in its image's split. pyiqa's file lists images and patches; the
images are taken.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from vqr1.data.labels._format import (
    LabelFormat,
    LabelRow,
    LabelSource,
    MetaForm,
    Split,
)
from vqr1.data.labels._reading import csv_rows, number
from vqr1.errors import DataError

_PATCH = "_patch_"


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of the images, or of the patches where their label file is named."""
    path = source.main_file("database/labels_image.csv", "labels_image.csv")
    splits = _splits(source)
    rest: Split | None = "train" if splits else None
    rows = []
    for where, fields in csv_rows(path, ("name", "mos")):
        row = LabelRow(fields["name"], number(fields["mos"], where, "mos"), where)
        image = _image_of(row.image)
        rows.append(replace(_with_reference(row), split=splits.get(image, rest)))
    return rows


def _splits(source: LabelSource) -> dict[str, Split]:
    """Test and validation images by their bare names; empty where the files are not there."""
    splits: dict[str, Split] = {}
    marked = [
        f"{folder}{name}"
        for folder in ("database/", "")
        for name in ("labels<=640_padded.csv", "labels=640_padded.csv")
    ]
    test = source.optional_file("database/labels640.csv", "labels640.csv")
    if test is None:
        return splits
    if (padded := source.optional_file(*marked)) is not None:
        for where, row in csv_rows(padded, ("name_image", "is_valid")):
            if _truth(row["is_valid"], where):
                splits[_image_of(row["name_image"])] = "val"
    for _, row in csv_rows(test, ("name_image",)):
        splits[_image_of(row["name_image"])] = "test"
    return splits


def _truth(word: str, where: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[word.lower()]
    except KeyError:
        raise DataError(f"{where}: is_valid={word!r} is neither True nor False") from None


def _image_of(name: str) -> str:
    """The bare name of an image, or of the image that a patch was cut from."""
    return PurePosixPath(name).name.partition(_PATCH)[0]


def _with_reference(row: LabelRow) -> LabelRow:
    return replace(row, reference=_image_of(row.image)) if _PATCH in row.image else row


def _image_only(row: LabelRow) -> LabelRow | None:
    return None if _PATCH in row.image else row


FORMAT = LabelFormat(
    name="flive",
    title="FLIVE",
    published_direction="higher",
    published_range=(0.0, 100.0),
    image_folders=("database", "."),
    parse=parse,
    images=39810,
    meta=MetaForm(
        "meta_info_FLIVEDataset.csv", "img_name/patch_name", "mos", std=None,
        complete=_image_only,
        split_codes={"0": "train", "1": "val", "2": "test"},
    ),
)  # fmt: skip
