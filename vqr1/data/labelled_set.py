"""One data set, opened: checked labels, images that exist, splits, and scaled MOS.

`open_dataset` reads the labels, divides the rows, finds the images and scales the scores; it
decodes nothing (that happens in the loader's workers, and in `vqr1 data inspect` for a
whole set). Scaling is min-max to [1, 5] over all rows of the label files, as in the published
training files: mos_scaled = (mos - min) / (max - min) * 4 + 1. With
`mos_scale=published` it is mos.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vqr1.config import DatasetConfig
from vqr1.data.fitted_scores import with_fitted_scores, with_groups
from vqr1.data.image_index import ImageIndex
from vqr1.data.labels import LabelFormat, Split, label_format, load_labels
from vqr1.data.location import set_folder
from vqr1.data.preference_file import SetPairs, read_pairs
from vqr1.data.splits import assign_splits, draw_subset
from vqr1.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

_SHOWN = 10
_COMPARED = 8


@dataclass(frozen=True)
class LabelledSet:
    """A data set whose labels are read and whose images were found.

    Attributes:
        name: name in logs and in ranking batches.
        config: what it was opened with.
        key: its dotted configuration key.
        title: the set's name in papers and in the published training files.
        image_root: folder that the image paths are relative to.
        table: one row an image, numbered from 0: image (path relative to `image_root`), mos
            (published scale, higher is better), std, reference, split (train, val, test, or None:
            in no split), distortion, further (a dict of further columns), mos_scaled (what rewards
            see: in [1, 5], or mos itself with `mos_scale=published`), std_mos and std_scaled (std
            on the scales of mos and mos_scaled), label_name (the image's name as the label file
            writes it, which differs from `image` where letter case or folder do on this disk).
        bad_images: `name: problem` of the images excluded because they are missing or empty.
        form: which form of label files the set's folder has, in words.
        pairs: preferences between pairs of the images; None where the set has none.
    """

    name: str
    config: DatasetConfig
    key: str
    title: str
    image_root: Path
    table: pd.DataFrame
    bad_images: tuple[str, ...] = ()
    form: str = ""
    pairs: SetPairs | None = None

    @property
    def skipped(self) -> int:
        """Number of images excluded because they are missing or empty."""
        return len(self.bad_images)

    def rows(self, split: Split, max_images: int | None = None) -> pd.DataFrame:
        """Rows of one split, or of its subset, in table order under their numbers in `table`.

        Whoever takes a subset of a split takes this one: training, validation, evaluation and the
        commands. It holds the n images with the smallest SHA-256 of `split.seed`, split, and image
        name as the label file writes it: the same whatever the order of rows, the training seed,
        and letter case or folder of the files on this disk, and nested in n.

        Args:
            split: train, val or test.
            max_images: use at most this many images; where the configuration's `max_images` is
                smaller, that many.
        """
        rows = self.table[self.table["split"] == split]
        limits = [n for n in (self.config.max_images, max_images) if n is not None]
        return rows.iloc[self._drawn(rows, min(limits, default=len(rows)), split)]

    def sample(self, count: int) -> pd.DataFrame:
        """Rows of at most `count` images of the whole set, drawn as `rows` draws them."""
        return self.table.iloc[self._drawn(self.table, count, "all")]

    def _drawn(self, rows: pd.DataFrame, count: int, split: str) -> list[int]:
        return draw_subset(rows["label_name"].tolist(), count, self.config.split.seed, split)

    def digest(self, max_val_images: int | None = None) -> str:
        """SHA-256 of the rows (names, scaled scores, splits, in order) and of the subsets.

        Args:
            max_val_images: validation images that are used at most.
        """
        # Fitted scores follow from the pairs, to the last digits of a machine's own arithmetic.
        scores = ["mos_scaled"] if label_format(self.config.name, self.key).scored else []
        rows = self.table[["image", *scores, "split"]]
        found = hashlib.sha256(pd.util.hash_pandas_object(rows, index=True).to_numpy().tobytes())
        limits: dict[Split, int | None] = {"train": None, "val": max_val_images, "test": None}
        for split, limit in limits.items():
            used = self.rows(split, limit).index
            if len(used) < (self.table["split"] == split).sum():
                found.update(f"{split}:{used.tolist()}".encode())
        if self.pairs is not None:
            found.update(self.pairs.stated.digest().encode())
        return found.hexdigest()

    def image_digests(self) -> dict[str, str]:
        """By name, SHA-256 of the files of a few images that are drawn from all.

        That of an unreadable file is empty: what this means is for those who need its pixels.
        """
        rows = self.sample(_COMPARED).index
        return {str(self.table["image"].iat[row]): _digest(self.image_path(row)) for row in rows}

    def image_path(self, row: int) -> Path:
        """Full path of the image in row `row` of `table`."""
        return self.image_root / str(self.table["image"].iat[row])


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return ""


def open_dataset(
    config: DatasetConfig, key: str = "dataset", name: str | None = None
) -> LabelledSet:
    """Read a set's labels, find its images and divide it into parts.

    Args:
        config: the set.
        key: its dotted configuration key, for error messages (`dataset.parts.kadid` in a mixture).
        name: name in logs; the format's name if not given.

    Raises:
        ConfigError: a key does not fit the set; names the key.
        DataError: label files or images are not as the format states; names file and line, or the
            images (at most ten).
    """
    declared = label_format(config.name, key)
    root = set_folder(config, key)
    labels = read_labels(config, root, key)
    scaled = scale_min_max(labels["mos"].to_numpy(), f"{key}.root={str(root)!r}")
    minmax = config.mos_scale == "minmax"
    labels["mos_scaled"] = scaled if minmax else labels["mos"]
    width = labels["mos"].max() - labels["mos"].min()
    labels["std_scaled"] = labels["std_mos"] * (4.0 / width if minmax else 1.0)
    image_root = _image_root(config, declared, root, key)
    table, bad_images = _with_found_images(labels, image_root, declared, config, key)
    name, form = name or config.name, str(labels.attrs["form"])
    pairs = _pairs(config, root, key, labels, table)
    return LabelledSet(
        name, config, key, declared.title, image_root, table, bad_images, form, pairs
    )


def _pairs(
    config: DatasetConfig, root: Path, key: str, labels: pd.DataFrame, table: pd.DataFrame
) -> SetPairs | None:
    """The pairs by row of the images that were found."""
    path_of = dict(zip(table["label_name"], table["image"], strict=True))
    names = labels["label_name"].tolist()
    return read_pairs(config, root, key, names, [path_of.get(name) for name in names])


def read_labels(config: DatasetConfig, root: Path, key: str) -> pd.DataFrame:
    """All rows of a set's label files, each with the split that it belongs to; no image is needed.

    Columns of `load_labels`, `std_mos` (std on the scale of mos), and `label_name`: `image`, which
    stays when `image` becomes the path found on disk.

    Args:
        config: the set.
        root: its folder.
        key: its dotted configuration key, for error messages.

    Raises:
        ConfigError: a key that does not fit the set or its files.
        DataError: label files that are not as the format states.
    """
    labels = load_labels(
        config.name,
        root,
        key=key,
        label_file=config.label_file,
        lower_is_better=config.lower_is_better,
        columns=config.columns,
        select=config.select,
        config=config,
    )
    declared = label_format(config.name, key)
    if not declared.scored and config.split.by == "reference":
        labels = with_groups(labels, config, root, key)
    labels["split"] = assign_splits(labels, config.split, root, key)
    labels["label_name"] = labels["image"]
    if not declared.scored:
        labels = with_fitted_scores(labels, config, root, key)
    labels["std_mos"] = labels["std"] * declared.std_unit
    return labels


def scale_min_max(mos: np.ndarray, origin: str, low: float = 1.0, high: float = 5.0) -> np.ndarray:
    """Scores scaled linearly so that the smallest is `low` and the largest `high`.

    Args:
        mos: [rows] MOS.
        origin: what to name if the scores do not differ.
        low: value of the smallest score.
        high: value of the largest score.

    Raises:
        DataError: all scores are equal.
    """
    smallest, largest = mos.min(), mos.max()
    if smallest == largest:
        raise DataError(f"{origin}: all {len(mos)} scores are {smallest}; nothing can be ranked")
    scaled: np.ndarray = (mos - smallest) / (largest - smallest) * (high - low) + low
    return scaled


def _image_root(config: DatasetConfig, declared: LabelFormat, root: Path, key: str) -> Path:
    if config.image_folder is not None:
        folder = root / config.image_folder
        if not folder.is_dir():
            raise ConfigError(
                [f"{key}.image_folder={config.image_folder!r}: no such folder in {root}"]
            )
        return folder
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    for candidate in declared.image_folders:
        if (root / candidate).is_dir():
            return root / candidate
        if candidate.lower() in folders:
            return folders[candidate.lower()]
    raise DataError(
        f"{key}.root={str(root)!r}: no image folder {' or '.join(declared.image_folders)} there; "
        f"name it with {key}.image_folder"
    )


def _with_found_images(
    labels: pd.DataFrame,
    image_root: Path,
    declared: LabelFormat,
    config: DatasetConfig,
    key: str,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows whose images exist, with the paths of the disk, and what is wrong with the rest."""
    index = ImageIndex(image_root, declared.search_subfolders, declared.published_range is None)
    found = index.find_all(labels["image"].tolist())
    bad = [
        f"{image}: {result.problem}"
        for image, result in zip(labels["image"], found, strict=True)
        if result.path is None
    ]
    if bad:
        _handle_bad_images(bad, len(labels), image_root, config, key)
    usable = np.array([result.path is not None for result in found])
    table = labels[usable].reset_index(drop=True)
    table["image"] = [result.path for result in found if result.path is not None]
    repeated = table["image"][table["image"].duplicated()]
    if len(repeated):
        raise DataError(
            f"{image_root}: {len(repeated)} image files are labelled twice, under names that "
            f"differ in letter case or folder: {', '.join(repeated[:_SHOWN])}"
        )
    return table, tuple(bad)


def _handle_bad_images(
    bad: list[str], total: int, image_root: Path, config: DatasetConfig, key: str
) -> None:
    """Stop if the configuration asks for it, else log what is excluded."""
    shown = "; ".join(bad[:_SHOWN]) + (f"; and {len(bad) - _SHOWN} more" if bad[_SHOWN:] else "")
    summary = f"{len(bad)} of {total} labelled images cannot be used in {image_root}: {shown}"
    if config.on_bad_image == "error":
        raise DataError(
            f"{summary}. Set {key}.root or {key}.image_folder right, or leave such images out with "
            f"{key}.on_bad_image=skip"
        )
    share = len(bad) / total
    if len(bad) == total or share > config.max_bad_share:
        raise DataError(
            f"{summary}. That is {share:.1%}, above {key}.max_bad_share={config.max_bad_share:g}"
        )
    logger.warning("%s: excluded %s", key, summary)
