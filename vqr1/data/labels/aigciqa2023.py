"""AIGCIQA2023: quality scores of generated images, in whichever of its authors' three forms.

`AIGCIQA2023.csv` of their repository, `DATA/MOS/mosz1.mat` of the archive, or `AIGIQA2023.json`
beside the images on the hub (which repeats an image for every question about it). Scores are
z-scores rescaled to 0 to 100; the set's standard deviations are those of the ratings on the raters'
scale, for which there is no common factor, and are not read. Of the other two scores, authenticity
and correspondence with the prompt, nothing is read here.

The images are numbered: 400 of each of six generators (which take the place of the distortion),
four to each of 100 prompts (the reference: images of one prompt show the same).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource
from vqr1.data.labels._reading import csv_rows, mat_arrays, number
from vqr1.data.tables import parse_json, read_text
from vqr1.errors import DataError

_PER_GENERATOR, _PER_PROMPT = 400, 4


def parse(source: LabelSource) -> list[LabelRow]:
    """Rows of AIGCIQA2023 with their quality scores."""
    path = source.main_file("AIGCIQA2023.csv", "DATA/MOS/mosz1.mat", "AIGIQA2023.json")
    forms = {".csv": _of_csv, ".mat": _of_matlab, ".json": _of_json}
    form = forms.get(path.suffix.lower())
    if form is None:
        raise DataError(f"{path}: none of AIGCIQA2023's forms: {', '.join(forms)}")
    rows: dict[str, LabelRow] = {}
    for where, image, score in form(path):
        row = _row(where, image, score)
        if rows.setdefault(image, row).mos != row.mos:
            raise DataError(f"{where}: {image!r} has another score than at {rows[image].where}")
    return list(rows.values())


def _row(where: str, image: str, score: Any) -> LabelRow:
    stem = Path(image).stem
    if not stem.isdecimal():
        raise DataError(f"{where}: {image!r} is not named as in AIGCIQA2023 (0.png)")
    generator, rest = divmod(int(stem), _PER_GENERATOR)
    return LabelRow(
        image=image,
        mos=number(score, where, "quality"),
        where=where,
        reference=f"prompt {rest // _PER_PROMPT + 1}",
        distortion=f"generator {generator + 1}",
    )


def _of_csv(path: Path) -> Iterator[tuple[str, str, Any]]:
    for where, row in csv_rows(path, ("name", "quality_mos")):
        yield where, row["name"], row["quality_mos"]


def _of_matlab(path: Path) -> Iterator[tuple[str, str, Any]]:
    (scores,) = mat_arrays(path, "MOSz")
    for index, score in enumerate(scores):
        yield f"{path}:{index + 1}", f"{index}.png", score


def _of_json(path: Path) -> Iterator[tuple[str, str, Any]]:
    entries = parse_json(read_text(path), str(path))
    if not isinstance(entries, list):
        raise DataError(f"{path}: not a list of objects with img and moz1")
    for index, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not {"img", "moz1"} <= set(entry):
            raise DataError(f"{path}:{index}: no img and moz1 in {str(entry)[:80]!r}")
        yield f"{path}:{index}", str(entry["img"]), entry["moz1"]


FORMAT = LabelFormat(
    name="aigciqa2023",
    title="AIGCIQA2023",
    published_direction="higher",
    published_range=(0.0, 100.0),
    image_folders=("Image/allimg", "allimg", "."),
    parse=parse,
    images=2400,
)
