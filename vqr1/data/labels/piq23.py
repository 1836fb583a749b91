r"""PIQ23 (portraits): `Scores_Overall.csv`, one row an image, `IMAGE PATH` as `Overall\66_....jpg`.

Traps: JOD scores compare WITHIN A SCENE only, in which they were scaled from pairs of images; the
scene is the reference, and training ranks the images of one scene. The set's two other attributes
have images of their own: `label_file=Scores_Details.csv` or `Scores_Exposure.csv`.

The authors publish two splits, protocols here: `scene` (35 scenes train, 15 test) and `device`
(`Device Split.csv` of their repository, beside the scores), whose training and test images are of
the same scenes. pyiqa's label file serves too, for the attribute Overall; its `SceneSplit` marks
two training scenes, `Indoor_Scene_12` and `_13`, as test (it looks for `Indoor_Scene_1` in the
names), so the split by scene is the authors' in either case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from vqr1.data.labels._format import (
    LabelFormat,
    LabelRow,
    LabelSource,
    Split,
    split_word,
)
from vqr1.data.labels._reading import csv_rows, number, standard_deviation
from vqr1.errors import DataError

_SCENE = re.compile("[A-Za-z]+_Scene_([0-9]{1,2})")

# Numbers of the 15 scenes that the authors test on.
_TEST_SCENES = {1, 5, 10, 11, 16, 17, 20, 28, 30, 31, 33, 34, 43, 45, 46}


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of one attribute."""
    names = "Scores_Overall.csv", "meta_info_PIQDataset.csv"
    path = source.main_file(*(f"{folder}{n}" for n in names for folder in ("", "Scores/")))
    devices = _device_split(source)
    rows = []
    for where, fields in csv_rows(path, ("IMAGE PATH", "JOD", "JOD STD", "SCENE")):
        image = fields["IMAGE PATH"].replace("\\", "/")
        # pyiqa's file holds all three attributes.
        if "DeviceSplit" not in fields or image.startswith("Overall/"):
            rows.append(_row(image, fields, where, devices))
    return rows


def _row(
    image: str, fields: Mapping[str, str], where: str, devices: Mapping[str, Split | None]
) -> LabelRow:
    scene = _scene_split(fields["SCENE"], where)
    splits: dict[str, Split] = {"scene": scene}
    if devices and PurePosixPath(image).name not in devices:
        raise DataError(f"{where}: {image!r} is not in the set's Device Split.csv")
    device = devices.get(PurePosixPath(image).name) or split_word(
        fields.get("DeviceSplit", ""), where
    )
    if device is not None:
        splits["device"] = device
    return LabelRow(
        image=image,
        mos=number(fields["JOD"], where, "JOD"),
        where=where,
        std=standard_deviation(fields["JOD STD"], where, "JOD STD"),
        reference=fields["SCENE"],
        split=scene,
        splits=splits,
    )


def _scene_split(scene: str, where: str) -> Split:
    match = _SCENE.fullmatch(scene)
    if match is None:
        raise DataError(f"{where}: SCENE={scene!r} is not named as in PIQ23 (Indoor_Scene_0)")
    return "test" if int(match[1]) in _TEST_SCENES else "train"


def _device_split(source: LabelSource) -> dict[str, Split | None]:
    path = source.optional_file("Device Split.csv", "Test split/Device Split.csv")
    if path is None:
        return {}
    return {
        row["IMAGE"]: split_word(row["SPLIT"], where)
        for where, row in csv_rows(path, ("IMAGE", "SPLIT"))
    }


FORMAT = LabelFormat(
    name="piq23",
    title="PIQ23",
    published_direction="higher",
    published_range=(-6.0, 6.0),  # about that of all attributes
    image_folders=(".",),
    parse=parse,
    images=5116,
    compare_within="reference",
)
