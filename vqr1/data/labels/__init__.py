"""Official label formats of image quality sets, and anyone's own CSV or JSONL.

`load_labels(name, root)` reads one set's labels into one table, higher is better. Each format is
one module that defines `FORMAT`: a file of this package, by its name, or a module of your own, by
its import path (`dataset.name=own_parts.lab`).
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from pathlib import Path

import pandas as pd

from vqr1.config import CsvColumns, DatasetConfig
from vqr1.data.labels._format import LabelFormat, LabelRow, LabelSource, Rating, Split
from vqr1.data.labels._forms import OFFICIAL, read_labels_of
from vqr1.data.labels._scores import chosen_score
from vqr1.data.labels._table import to_table
from vqr1.data.location import check_folder
from vqr1.errors import ConfigError

__all__ = [
    "FORMATS",
    "LabelFormat",
    "LabelRow",
    "LabelSource",
    "Rating",
    "Split",
    "label_format",
    "load_labels",
]

logger = logging.getLogger(__name__)

FORMATS: tuple[str, ...] = tuple(
    sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
)
"""Names of all label formats."""


def label_format(name: str, key: str = "dataset") -> LabelFormat:
    """What the format `name` declares.

    Args:
        name: one of `FORMATS`, or the import path of a module that defines `FORMAT`.
        key: dotted configuration key of the set, for error messages.

    Raises:
        ConfigError: there is no such format.
    """
    if name in FORMATS:
        declared: object = importlib.import_module(f"{__name__}.{name}").FORMAT
    else:
        declared = _own_format(name, key)
    if not isinstance(declared, LabelFormat):
        raise ConfigError([f"{key}.name={name!r}: its FORMAT is no vqr1.data.labels.LabelFormat"])
    return declared


def _own_format(name: str, key: str) -> object:
    try:
        return getattr(importlib.import_module(name), "FORMAT", None)
    except (ImportError, ValueError, TypeError) as error:
        # What a misspelt name raises, and a module that cannot import another one.
        why = "" if getattr(error, "name", None) == name else f" ({error})"
        raise ConfigError(
            [f"{key}.name={name!r}: no such format{why}; use one of {', '.join(FORMATS)}"]
        ) from error


def load_labels(
    name: str,
    root: str | Path,
    *,
    key: str = "dataset",
    label_file: str | None = None,
    lower_is_better: bool = False,
    columns: CsvColumns | None = None,
    select: str | None = None,
    score: str | None = None,
    config: DatasetConfig | None = None,
) -> pd.DataFrame:
    """Read a set's label files.

    Args:
        name: one of `FORMATS`.
        root: the set's folder.
        key: dotted configuration key of the set, for error messages.
        label_file: label file relative to `root` where it is not the format's own.
        lower_is_better: csv and jsonl only: the published score falls with quality.
        columns: csv only: column names.
        select: jsonl only: take the lines with this `dataset_name`.
        score: sets with several scores only: which one is the MOS; None takes the first.
        config: pairs only: the set's configuration, for its file of pairs.

    Returns:
        One row an image, or a tuple of images, in file order: `image` (path relative to the image
        folder, as the label file writes it), `images` and `own_images` (tuples; `to_table`), `mos`
        (published scale, turned so that HIGHER IS BETTER), `std` (same scale unless the set's page
        states otherwise; NaN if none), `reference` (None if none), `split` (train, val, test or
        None), `distortion` (None if not given), `further` and `splits` (dicts of further columns
        and of split columns). `attrs["form"]` states which form of label files was read,
        `attrs["format"]` is `name`, and `attrs["image_folders"]` names where its images may lie
        beside the format's own folders.

    Raises:
        ConfigError: unknown format, missing folder or file, or an option of another format.
        DataError: the label file is not as its format states; names file and line.
    """
    declared = label_format(name, key)
    folder = Path(root)
    check_folder(root, key)
    own_set = declared.published_range is None
    if lower_is_better and not own_set:
        raise ConfigError(
            [f"{key}.lower_is_better=True: {name} labels know their direction; remove the key"]
        )
    source = LabelSource(folder, key, label_file, columns, select, config=config)
    labels = read_labels_of(declared, source)
    if labels.form != OFFICIAL:
        logger.info("%s: label form: %s", key, labels.form)
    rows, declared = chosen_score(labels.rows, declared, score, key)
    falls = lower_is_better or declared.published_direction == "lower"
    table = to_table(rows, declared, falls, f"{key}.root={str(root)!r}")
    table.attrs.update(form=labels.form, format=declared.name, image_folders=labels.image_folders)
    return table
