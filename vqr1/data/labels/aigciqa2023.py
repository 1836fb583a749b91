"""AIGCIQA2023: scores of generated images, in whichever of its authors' three forms.

`AIGCIQA2023.csv` of their repository, `DATA/MOS/mosz1.mat` to `mosz3.mat` of the archive, or
`AIGIQA2023.json` beside the images on the hub (which repeats an image for every question about it).
The scores are quality, authenticity and correspondence with the prompt, where the form has them
all. They are z-scores rescaled to 0 to 100; the set's standard deviations are those of the ratings
on the raters' scale, for which there is no common factor, and are not read.

The images are numbered: 400 of each of six generators (which take the place of the distortion),
four to each of 100 prompts (the reference: images of one prompt show the same).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, Rating
from vqr1.data.labels._reading import csv_rows, mat_arrays, number
from vqr1.data.tables import parse_json, read_text
from vqr1.errors import DataError

SCORES = ("quality", "authenticity", "correspondence")
"""In the order of the numbers in the names of files and keys: mosz1 to mosz3, moz1 to moz3."""

_PER_GENERATOR, _PER_PROMPT = 400, 4

_NUMBER = re.compile("[0-9]{1,4}")


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of AIGCIQA2023.

    Raises:
        DataError: the file has none of the set's forms, or two scores for one image.
    """
    path = source.main_file("AIGCIQA2023.csv", "DATA/MOS/mosz1.mat", "AIGIQA2023.json")
    forms = {".csv": _of_csv, ".mat": _of_matlab, ".json": _of_json}
    form = forms.get(path.suffix.lower())
    if form is None:
        raise DataError(f"{path}: none of AIGCIQA2023's forms: {', '.join(forms)}")
    rows: dict[str, LabelRow] = {}
    for where, image, scores in form(path):
        row = _row(where, image, scores)
        if rows.setdefault(image, row).scores != row.scores:
            raise DataError(f"{where}: {image!r} has other scores than at {rows[image].where}")
    return list(rows.values())


def _row(where: str, image: str, scores: Mapping[str, Any]) -> LabelRow:
    stem = Path(image).stem
    if not _NUMBER.fullmatch(stem):
        raise DataError(f"{where}: {image!r} is not named as in AIGCIQA2023 (0.png)")
    generator, rest = divmod(int(stem), _PER_GENERATOR)
    ratings = {name: Rating(number(score, where, name)) for name, score in scores.items()}
    return LabelRow(
        image=image,
        mos=ratings["quality"].mos,
        where=where,
        reference=f"prompt {rest // _PER_PROMPT + 1}",
        distortion=f"generator {generator + 1}",
        scores=ratings,
    )


def _of_csv(path: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for where, row in csv_rows(path, ("name", "quality_mos")):
        yield where, row["name"], {n: row[f"{n}_mos"] for n in SCORES if f"{n}_mos" in row}


def _of_matlab(path: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    files = {name: path.with_name(f"mosz{index}.mat") for index, name in enumerate(SCORES, 1)}
    files["quality"] = path
    arrays = {n: mat_arrays(file, "MOSz")[0] for n, file in files.items() if file.is_file()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path.parent}: the files are not of one release: {lengths}")
    for index in range(lengths["quality"]):
        scores = {name: array[index] for name, array in arrays.items()}
        yield f"{path}:{index + 1}", f"{index}.png", scores


def _of_json(path: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    entries = parse_json(read_text(path), str(path))
    if not isinstance(entries, list):
        raise DataError(f"{path}: not a list of objects with img and moz1")
    keys = {name: f"moz{index}" for index, name in enumerate(SCORES, 1)}
    for index, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not {"img", "moz1"} <= set(entry):
            raise DataError(f"{path}:{index}: no img and moz1 in {str(entry)[:80]!r}")
        scores = {name: entry[key] for name, key in keys.items() if key in entry}
        yield f"{path}:{index}", str(entry["img"]), scores


FORMAT = LabelFormat(
    name="aigciqa2023",
    title="AIGCIQA2023",
    published_direction="higher",
    published_range=(0.0, 100.0),
    image_folders=("Image/allimg", "allimg", "."),
    parse=parse,
    images=2400,
    scores=dict.fromkeys(SCORES, (0.0, 100.0)),
)
