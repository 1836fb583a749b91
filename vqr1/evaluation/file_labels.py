"""Predictions of a file beside the labels of data sets: which image of the one is which of another.

A file of `score.py` names images by the paths that it was given, labels by paths from the set's
folder: an image is the one whose name its path ends with, where none has the path itself. Letter
case and Unicode form count only where they decide: a set's label file may differ in them from its
image files (TID2013's does), which is where predictions have their names from.

Not here: reading files (`prediction_file.py`) and labels (`labels.py`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from vqr1.counted import counted
from vqr1.errors import DataError
from vqr1.evaluation.predictions import Predictions

_SHOWN = 10


def with_labels_of(
    path: Path, predictions: Predictions, labels: Mapping[str, pd.DataFrame]
) -> Predictions:
    """Predictions with the MOS of data sets, matched by set and image name.

    Args:
        path: their file, for messages.
        predictions: what was read from it.
        labels: by set, image, mos, std_mos, reference, distortion; `evaluated` where only some rows
            count.

    Raises:
        DataError: an image of the file has no label, or one that is evaluated no prediction.
    """
    everything = pd.concat([table.assign(dataset=name) for name, table in labels.items()])
    evaluated = everything["evaluated"] if "evaluated" in everything else [True] * len(everything)
    keys = list(zip(everything["dataset"], everything["image"].map(str), strict=True))
    rows = {key: row for row, key in enumerate(keys)}
    predictions = _by_label_names(path, predictions, rows)
    found = list(zip(predictions.datasets, predictions.images, strict=True))
    unknown = [image for name, image in found if (name, image) not in rows]
    wanted = {key for key, use in zip(keys, evaluated, strict=True) if use}
    missing = [image for name, image in wanted.difference(found)]
    if unknown or missing:
        problems = []
        if unknown:
            problems.append(f"{counted(len(unknown), 'image')} without a label: {some_of(unknown)}")
        if missing:
            problems.append(
                f"{len(missing)} labelled images have no prediction: {some_of(sorted(missing))}"
            )
        raise DataError(
            f"{path}: predictions and labels of {', '.join(labels)} do not match: "
            f"{'; '.join(problems)}"
        )
    predictions = predictions.rows(np.array([key in wanted for key in found], dtype=np.bool_))
    found = [key for key in found if key in wanted]
    matched = everything.iloc[[rows[key] for key in found]]
    return replace(
        predictions,
        # Of each set by itself: the tables keep their own numbers.
        index=matched.index.to_numpy(dtype=np.int64),
        mos=matched["mos"].to_numpy(dtype=np.float64),
        std=matched["std_mos"].to_numpy(dtype=np.float64),
        references=_names(matched["reference"]),
        distortions=_names(matched["distortion"]),
    )


def _by_label_names(
    path: Path, predictions: Predictions, known: Collection[tuple[str, str]]
) -> Predictions:
    """The predictions under the names that the labels have, where the file holds whole paths.

    Raises:
        DataError: two images of the file are one of the labels, or one may be several.
    """
    given = list(zip(predictions.datasets, predictions.images, strict=True))
    folded: dict[tuple[str, str], list[str]] = {}
    for dataset, image in known:
        folded.setdefault((dataset, _folded(image)), []).append(image)
    names = [_label_name(path, name, image, known, folded) for name, image in given]
    first: dict[tuple[str, str], str] = {}
    for (dataset, image), name in zip(given, names, strict=True):
        before = first.setdefault((dataset, name), image)
        if before != image:
            raise DataError(f"{path}: {before} and {image} are both {name} of {dataset}")
    return replace(predictions, images=tuple(names))


def _label_name(
    path: Path,
    dataset: str,
    image: str,
    known: Collection[tuple[str, str]],
    folded: Mapping[tuple[str, str], list[str]],
) -> str:
    """The name itself where there is a label of it, else the longest end of the path with one.

    Args:
        path: the file, for messages.
        dataset: the image's set.
        image: its name in the file.
        known: set and name of all labels.
        folded: names of the labels by set and what `_folded` makes of them.

    Raises:
        DataError: ends differ from those of several labels in letter case only.
    """
    parts = image.replace("\\", "/").split("/")
    ends = (image, *("/".join(parts[start:]) for start in range(1, len(parts))))
    exact = next((end for end in ends if (dataset, end) in known), None)
    if exact is not None:
        return exact
    alike = next((folded[key] for end in ends if (key := (dataset, _folded(end))) in folded), [])
    if len(alike) > 1:
        raise DataError(
            f"{path}: {image} may be {' or '.join(sorted(alike))} of {dataset}, which differ in "
            "letter case or Unicode form only; write the image's name as its label does"
        )
    return alike[0] if alike else image


def _folded(name: str) -> str:
    """A name without its letter case and Unicode form."""
    return unicodedata.normalize("NFC", name).casefold()


def _names(values: pd.Series) -> tuple[str | None, ...]:
    """Names as text; None for missing ones, in whatever form the table has them."""
    return tuple(None if pd.isna(value) or value == "" else str(value) for value in values)


def some_of(names: Sequence[str]) -> str:
    """Names in a message: the first, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
