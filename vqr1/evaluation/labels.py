"""MOS on their published scale, references and distortions, put to predictions.

What it does: ranking batches carry MOS scaled to [1, 5]; reports are in each set's own
units. The row number of every image finds its label.

For predictions from a file the label tables of the sets are read by themselves: their images need
not be there.

Not here: the label formats (`vqr1.data.labels`) and matching a file's rows by image name
(`vqr1.evaluation.prediction_file`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from vqr1.config import DatasetConfig, MixtureConfig
from vqr1.counted import counted
from vqr1.data.labelled_set import LabelledSet, read_labels
from vqr1.data.labels import label_format
from vqr1.data.location import set_folder
from vqr1.errors import DataError
from vqr1.evaluation.file_labels import some_of
from vqr1.evaluation.predictions import Predictions

EvalSplit = Literal["all", "train", "val", "test"]
"""Which images of a set are evaluated."""


def with_labels(predictions: Predictions, tables: Mapping[str, pd.DataFrame]) -> Predictions:
    """Predictions with mos, its std, reference and distortion of their sets' label tables.

    Args:
        predictions: rows of any sets; `index` is the row in the set's table.
        tables: by set, one row an image: mos (higher is better), reference, distortion, std_mos
            where it is known.
    """
    columns = {
        name: {key: table[key].tolist() for key in ("mos", "reference", "distortion")}
        for name, table in tables.items()
    }
    deviations = {
        name: table["std_mos"].to_numpy() if "std_mos" in table else np.full(len(table), np.nan)
        for name, table in tables.items()
    }
    rows = list(zip(predictions.datasets, predictions.index.tolist(), strict=True))
    return replace(
        predictions,
        mos=np.array([columns[name]["mos"][row] for name, row in rows], dtype=np.float64),
        std=np.array([deviations[name][row] for name, row in rows], dtype=np.float64),
        references=tuple(label_name(columns[name]["reference"][row]) for name, row in rows),
        distortions=tuple(label_name(columns[name]["distortion"][row]) for name, row in rows),
    )


def relabelled(predictions: Predictions, tables: Mapping[str, pd.DataFrame]) -> Predictions:
    """Predictions of an earlier start with the labels that their sets have now.

    Args:
        predictions: rows of any sets; `index` may be that of a table that has changed since.
        tables: by set, as `with_labels` takes them, with a column image.

    Raises:
        DataError: an image that is in no table.
    """
    rows = {
        (name, image): row
        for name, table in tables.items()
        for row, image in enumerate(table["image"])
    }
    keys = list(zip(predictions.datasets, predictions.images, strict=True))
    unknown = [image for name, image in keys if (name, image) not in rows]
    if unknown:
        raise DataError(
            f"{counted(len(unknown), 'scored image')} of an earlier start without a label now: "
            f"{some_of(unknown)}; choose another run_dir"
        )
    index = np.array([rows[key] for key in keys], dtype=np.int64)
    return with_labels(replace(predictions, index=index), tables)


def same_labels(first: Predictions, second: Predictions) -> bool:
    """Whether a file of the same answers holds the same labels; it has no column of `std`."""
    return (
        np.array_equal(first.index, second.index)
        and np.array_equal(first.mos, second.mos)
        and first.references == second.references
        and first.distortions == second.distortions
    )


def label_name(value: object) -> str | None:
    """A name from a table; None for a missing one, in whatever form the table has it."""
    return None if value is None or value != value or value == "" else str(value)


def whole_sets(dataset: DatasetConfig | MixtureConfig) -> DatasetConfig | MixtureConfig:
    """The same sets without a split: every image belongs to the test split.

    The rest of `split` stays: its seed draws the subset where `max_images` is set.
    """
    if isinstance(dataset, MixtureConfig):
        parts = {name: _whole_set(one) for name, one in dataset.parts.items()}
        return replace(dataset, parts=parts)
    return _whole_set(dataset)


def _whole_set(dataset: DatasetConfig) -> DatasetConfig:
    return replace(dataset, split=replace(dataset.split, by="none"))


def label_tables(
    dataset: DatasetConfig | MixtureConfig, split: EvalSplit
) -> dict[str, pd.DataFrame]:
    """Labels of the sets, without their images.

    Args:
        dataset: the set or sets.
        split: which images are evaluated.

    Returns:
        By set, all rows of the labels (image, mos, reference, distortion, split), with a column
        `evaluated`: the row belongs to the split.

    Raises:
        ConfigError: no `root`, or a split that does not fit the set.
        DataError: labels that are not as their format states, or no set has images in this split.
    """
    if split == "all":
        dataset = whole_sets(dataset)
    if isinstance(dataset, MixtureConfig):
        sets = {name: (config, f"dataset.parts.{name}") for name, config in dataset.parts.items()}
    else:
        sets = {dataset.set_name: (dataset, "dataset")}
    tables = {name: _label_table(config, key, split) for name, (config, key) in sets.items()}
    if not any(table["evaluated"].any() for table in tables.values()):
        keys = ", ".join(f"{key}.split" for _, key in sets.values())
        raise DataError(f"{keys}: no {split} images")
    return tables


def fitted_note(dataset: DatasetConfig | MixtureConfig, name: str) -> str | None:
    """What a reader must know of the MOS of a set of pairs only; None for any other set."""
    config = dataset.parts.get(name) if isinstance(dataset, MixtureConfig) else dataset
    if config is None or label_format(config.name).scored:
        return None
    return (
        f"the MOS are scores fitted to the pairs within the evaluated split "
        f"({config.pairs.fit.replace('_', '-')}); correlations are with these"
    )


def _label_table(config: DatasetConfig, key: str, split: EvalSplit) -> pd.DataFrame:
    root = set_folder(config, key)
    table = read_labels(config, root, key)
    labelled = LabelledSet(config.set_name, config, key, config.name, root, table)
    rows = labelled.rows("test" if split == "all" else split)
    return table.assign(evaluated=table.index.isin(rows.index))
