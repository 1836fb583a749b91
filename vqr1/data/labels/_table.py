"""From a parser's rows to the one table that the rest of the package reads.

Here, once for all formats: image paths must stay inside the image folder, no image comes twice,
scores lie where the format states, and lower-is-better scores are turned so that higher is better
at this door. Whether the images exist is not asked here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PureWindowsPath

import numpy as np
import pandas as pd

from vqr1.data.labels._format import LabelFormat, LabelRow
from vqr1.errors import DataError
from vqr1.row_names import row_name

_SHOWN = 10

_PLAIN = re.compile(r"[a-zA-Z0-9_-][a-zA-Z0-9_ .-]*(?:/[a-zA-Z0-9_-][a-zA-Z0-9_ .-]*)*")
"""Names that any system takes for a relative path of just these parts."""

# A published file that was re-exported may differ in its last digits, and the demo set shares a
# format; a score that lies further out than this share of the range is a slip (45.7 for 4.57).
_RANGE_MARGIN = 0.25


def to_table(
    rows: Sequence[LabelRow], label_format: LabelFormat, lower_is_better: bool, origin: str
) -> pd.DataFrame:
    """Checked table of all rows, scores turned so that higher is better.

    Args:
        rows: the parser's rows.
        label_format: the format they came from.
        lower_is_better: the published score falls with quality.
        origin: what to name when there are no rows.

    Returns:
        One row an image, or a tuple of images, in file order: image (the name of the row: its
        image, or `row_name` of its own images), images (all of the row's in the prompt's order),
        own_images (those without its reference), mos, std (NaN if none), reference, split and
        distortion (None if none), further (a dict of further columns), splits (a dict of the
        file's split columns); rows without any share one, which nobody changes. Turning reflects a
        score about the middle of the published range (of the observed range for a user's own set),
        so the range stays as it is.

    Raises:
        DataError: no rows, a path that leaves the image folder, a duplicate image, rows of another
            number of images than the others, or a score far outside the published range.
    """
    if not rows:
        raise DataError(f"{origin}: no labelled images; its label file holds no row")
    shown = [
        _relative(row.images, row.where) if row.images else (relative_image(row.image, row.where),)
        for row in rows
    ]
    own = [
        _relative(row.own_images, row.where) if row.images else names
        for names, row in zip(shown, rows, strict=True)
    ]
    images = [row_name(names) for names in own]
    _check_counts(shown, rows)
    _check_duplicates(images, rows)
    if label_format.published_range is not None:
        _check_range(rows, label_format, label_format.published_range)
    mos = np.array([row.mos for row in rows], dtype=np.float64)
    if lower_is_better:
        low, high = label_format.published_range or (mos.min(), mos.max())
        mos = (low + high) - mos
    table = pd.DataFrame({"image": images, "mos": mos, "std": [row.std for row in rows]})
    for column in ("reference", "split", "distortion"):
        table[column] = pd.Series([getattr(row, column) for row in rows], dtype=object)
    nothing: dict[str, object] = {}
    for column in ("further", "splits"):
        found = [dict(values) if (values := getattr(row, column)) else nothing for row in rows]
        table[column] = pd.Series(found, dtype=object)
    table["images"] = pd.Series(shown, dtype=object)
    table["own_images"] = pd.Series(own, dtype=object)
    return table


def relative_image(image: str, where: str) -> str:
    """An image path in POSIX form, checked to be relative and to stay below its folder.

    Raises:
        DataError: an empty or absolute path, or one with `..`.
    """
    if _PLAIN.fullmatch(image):  # as nearly all are; making a path costs ten times as much
        return image
    path = PureWindowsPath(image)  # understands both separators and drive letters
    if not image.strip() or "\0" in image or path.as_posix() == ".":
        raise DataError(f"{where}: empty image name {image!r}; name the image, or remove the row")
    if not _is_text(image):
        raise DataError(f"{where}: image name {image!r} holds half a character; correct the name")
    if path.drive or path.root:
        raise DataError(
            f"{where}: image {image!r} is an absolute path; paths are relative to the image folder"
        )
    if ".." in path.parts:
        raise DataError(
            f"{where}: image {image!r} leaves the image folder; write its path from there, without "
            "'..'"
        )
    return path.as_posix()


def _relative(images: Sequence[str], where: str) -> tuple[str, ...]:
    return tuple(relative_image(image, where) for image in images)


def _check_counts(shown: Sequence[Sequence[str]], rows: Sequence[LabelRow]) -> None:
    """Every row has as many images as the prompt that all are asked with."""
    counts = Counter(map(len, shown))
    usual = counts.most_common(1)[0][0]
    others = [
        f"{row.where}: {len(images)}"
        for images, row in zip(shown, rows, strict=True)
        if len(images) != usual
    ]
    if others:
        more = f", and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise DataError(
            f"images a row: {usual} in {counts[usual]} rows, but {', '.join(others[:_SHOWN])}"
            f"{more}; a prompt takes the same number of images of every row, so correct these rows "
            "or list them as another set"
        )


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_duplicates(images: Sequence[str], rows: Sequence[LabelRow]) -> None:
    first: dict[str, str] = {}
    for image, row in zip(images, rows, strict=True):
        if image in first:
            raise DataError(
                f"{row.where}: image {image!r} was already listed at {first[image]}; keep one row"
            )
        first[image] = row.where


def _check_range(
    rows: Sequence[LabelRow], label_format: LabelFormat, published: tuple[float, float]
) -> None:
    low, high = published
    margin = _RANGE_MARGIN * (high - low)
    for row in rows:
        if not low - margin <= row.mos <= high + margin:
            raise DataError(
                f"{row.where}: score {row.mos} is far outside the range {low} to {high} of "
                f"{label_format.title}; is this the set's own label file?"
            )
