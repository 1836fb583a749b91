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
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np
import pandas as pd

from vqr1.config import DatasetConfig
from vqr1.data.fitted_scores import with_fitted_scores, with_groups
from vqr1.data.image_index import FoundImage, ImageIndex
from vqr1.data.labels import LabelFormat, Split, label_format, load_labels
from vqr1.data.location import set_folder, side_folder
from vqr1.data.preference_file import SetPairs, read_pairs
from vqr1.data.reference_images import with_references
from vqr1.data.splits import assign_splits, draw_subset
from vqr1.errors import ConfigError, DataError
from vqr1.row_names import row_name

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
        table: one row an image, or a tuple of images, numbered from 0: image (path relative to
            `image_root`; of several own images `row_name`), images (paths of all that a prompt
            shows, in its order), own_images (those without the row's reference), mos
            (published scale, higher is better), std, reference, split (train, val, test, or None:
            in no split), distortion, further (a dict of further columns), mos_scaled (what rewards
            see: in [1, 5], or mos itself with `mos_scale=published`), std_mos and std_scaled (std
            on the scales of mos and mos_scaled), label_name (the image's name as the label file
            writes it, which differs from `image` where letter case or folder do on this disk).
        bad_images: `name: problem` of the images excluded because they are missing or empty.
        form: which form of label files the set's folder has, in words.
        excluded: sentences about images that were taken out of their splits after opening.
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
    excluded: tuple[str, ...] = ()
    pairs: SetPairs | None = None

    @property
    def skipped(self) -> int:
        """Number of images excluded because they are missing or empty."""
        return len(self.bad_images)

    def ranked_together(self, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Rows whose scores compare, by a name: all of them, or those of each reference.

        Args:
            rows: of `table`.

        Returns:
            One entry by the set's name, or (where its format compares within references) one a
            reference by `set/reference`, without references of a single image.
        """
        if label_format(self.config.name, self.key).compare_within == "set":
            return {self.name: rows}
        groups = {
            f"{self.name}/{reference}": group
            for reference, group in rows.groupby("reference", sort=False)
            if len(group) > 1
        }
        alone = len(rows) - sum(map(len, groups.values()))
        if alone:
            logger.warning("%s: %d images have no other of their reference", self.key, alone)
        return groups

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
        names = dict.fromkeys(name for row in rows for name in self._names("images", row))
        return {name: _digest(self.image_root / name) for name in names}

    def image_path(self, row: int) -> Path:
        """Full path of the image in row `row` of `table`, the last one that its prompt shows."""
        return self.image_root / self._names("own_images", row)[-1]

    def image_paths(self, row: int) -> list[Path]:
        """Full paths of the images that the prompt about row `row` of `table` shows, in order."""
        return [self.image_root / name for name in self._names("images", row)]

    def own_files(self, rows: Iterable[int]) -> dict[str, Path]:
        """By name, the files of the images that rows are about, without their references.

        A reference has no score and may be shared by all splits; it is no copy of an image.
        """
        names = (name for row in rows for name in self._names("own_images", row))
        return {name: self.image_root / name for name in names}

    def shown_files(self, rows: Iterable[int]) -> list[Path]:
        """The files that prompts about rows show, each once."""
        return list(dict.fromkeys(path for row in rows for path in self.image_paths(row)))

    def _names(self, column: str, row: int) -> tuple[str, ...]:
        return cast("tuple[str, ...]", self.table[column].iat[row])


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return ""


def open_dataset(
    config: DatasetConfig,
    key: str = "dataset",
    name: str | None = None,
    *,
    listing: bool = False,
) -> LabelledSet:
    """Read a set's labels, find its images and divide it into parts.

    Args:
        config: the set.
        key: its dotted configuration key, for error messages (`dataset.parts.kadid` in a mixture).
        name: name in logs; its alias or the format's name if not given.
        listing: for a command that lists bad images, which then neither stop it nor are logged,
            whatever `on_bad_image` states.

    Raises:
        ConfigError: a key does not fit the set; names the key.
        DataError: label files or images are not as the format states; names file and line, or the
            images (at most ten).
    """
    declared = label_format(config.name, key)
    if name is not None and config.alias not in (None, name):
        raise ConfigError(
            [f"{key}.alias={config.alias!r}: in a mixture {name} is the set's name; remove it"]
        )
    root = set_folder(config, key)
    labels = read_labels(config, root, key)
    scaled = scale_min_max(labels["mos"].to_numpy(), f"{key}.root={str(root)!r}")
    minmax = config.mos_scale == "minmax"
    labels["mos_scaled"] = scaled if minmax else labels["mos"]
    width = labels["mos"].max() - labels["mos"].min()
    labels["std_scaled"] = labels["std_mos"] * (4.0 / width if minmax else 1.0)
    image_root = _image_root(config, labels, root, key)
    table, bad_images = _with_found_images(labels, image_root, declared, key)
    if bad_images and not (listing and len(table)):
        _handle_bad_images(bad_images, len(labels), image_root, config, key)
    if config.full_reference:
        table = with_references(table, declared, root, image_root, key)
    name, form = name or config.set_name, str(labels.attrs["form"])
    pairs = _pairs(config, root, key, labels, table)
    return LabelledSet(
        name, config, key, declared.title, image_root, table, bad_images, form, pairs=pairs
    )


def _pairs(
    config: DatasetConfig, root: Path, key: str, labels: pd.DataFrame, table: pd.DataFrame
) -> SetPairs | None:
    """The pairs by row of the images that were found; None where the set has no file of pairs."""
    if config.pairs.file is None:
        return None
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
        score=config.score,
        config=config,
    )
    if config.reference_folder:
        labels["reference"] = _folder_references(labels, config, root, key)
    declared = label_format(config.name, key)
    if not declared.scored and config.split.by == "reference":
        labels = with_groups(labels, config, root, key)
    labels["split"] = assign_splits(labels, config.split, side_folder(config, root), key)
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


def _folder_references(
    labels: pd.DataFrame, config: DatasetConfig, root: Path, key: str
) -> list[str]:
    """The folder that each image lies in; of an image that is not there, the one that is stated.

    Raises:
        ConfigError: an official format, or labels that name references.
        DataError: an image that lies in the image folder itself.
    """
    declared = label_format(config.name, key)
    if declared.published_range is not None or labels["reference"].notna().any():
        raise ConfigError(
            [f"{key}.reference_folder=True: the labels of {config.name} name references; remove it"]
        )
    image_root = _image_root(config, labels, root, key)
    images = labels["image"].tolist()
    found = ImageIndex(image_root, declared.own_names, declared.foreign_paths).find_all(images)
    references = []
    for image, result in zip(images, found, strict=True):
        folder = str(PurePosixPath(result.path or image).parent)
        if result.path is not None and folder == ".":
            raise DataError(
                f"{key}.reference_folder=True: {result.path} lies in no folder of its own below "
                f"{image_root}; name references in the labels, or set {key}.image_folder right"
            )
        # One that is missing and names no folder is of its own reference until it is excluded.
        references.append(image if folder == "." else folder)
    return references


def _image_root(config: DatasetConfig, labels: pd.DataFrame, root: Path, key: str) -> Path:
    if config.image_folder is not None:
        folder = root / config.image_folder
        if not folder.is_dir():
            raise ConfigError(
                [f"{key}.image_folder={config.image_folder!r}: no such folder in {root}"]
            )
        return folder
    candidates = (
        *label_format(config.name, key).image_folders,
        *labels.attrs["image_folders"],
    )
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
        if candidate.lower() in folders:
            return folders[candidate.lower()]
    raise DataError(
        f"{key}.root={str(root)!r}: no image folder {' or '.join(candidates)} there; "
        f"name it with {key}.image_folder"
    )


def _with_found_images(
    labels: pd.DataFrame,
    image_root: Path,
    declared: LabelFormat,
    key: str,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows whose images exist, with the paths of the disk, and what is wrong with the rest."""
    index = ImageIndex(image_root, declared.own_names, declared.foreign_paths)
    names = dict.fromkeys(chain.from_iterable(labels["images"]))
    elsewhere = {name: found for name in names if (found := index.find(name)).path != name}
    if not elsewhere:
        return labels.copy(deep=False), ()
    problems = [_problem(images, elsewhere) for images in labels["images"]]
    usable = [problem is None for problem in problems]
    table = labels[usable].reset_index(drop=True)
    for column in ("images", "own_images"):
        paths = [_located(images, elsewhere) for images in table[column]]
        table[column] = pd.Series(paths, index=table.index, dtype=object)
    table["image"] = [row_name(images) for images in table["own_images"]]
    repeated = table["image"][table["image"].duplicated()]
    if len(repeated):
        raise DataError(
            f"{image_root}: {len(repeated)} image files are labelled twice, under names that "
            f"differ in letter case, folder or ending: {', '.join(repeated[:_SHOWN])}"
        )
    return table, tuple(problem for problem in problems if problem is not None)


def _problem(images: tuple[str, ...], elsewhere: Mapping[str, FoundImage]) -> str | None:
    """What is wrong with the first image of a row that cannot be used."""
    lost = (name for name in images if name in elsewhere and elsewhere[name].path is None)
    return next((f"{name}: {elsewhere[name].problem}" for name in lost), None)


def _located(images: tuple[str, ...], elsewhere: Mapping[str, FoundImage]) -> tuple[str, ...]:
    """A row's images as the disk has them."""
    if elsewhere.keys().isdisjoint(images):
        return images
    return tuple(str(elsewhere[name].path) if name in elsewhere else name for name in images)


def _handle_bad_images(
    bad: tuple[str, ...], total: int, image_root: Path, config: DatasetConfig, key: str
) -> None:
    """Stop if the configuration asks for it, else log what is excluded."""
    shown = "; ".join(bad[:_SHOWN]) + (f"; and {len(bad) - _SHOWN} more" if bad[_SHOWN:] else "")
    summary = f"{len(bad)} of {total} labelled images cannot be used in {image_root}: {shown}"
    share = len(bad) / total
    if config.on_bad_image == "error":
        allowed = f" {key}.max_bad_share={math.ceil(100 * share) / 100:g}"
        raise DataError(
            f"{summary}. Set {key}.root or {key}.image_folder right, or leave such images out with "
            f"{key}.on_bad_image=skip{allowed if share > config.max_bad_share else ''}"
        )
    if len(bad) == total or share > config.max_bad_share:
        raise DataError(
            f"{summary}. That is {share:.1%}, above {key}.max_bad_share={config.max_bad_share:g}"
        )
    logger.warning("%s: excluded %s", key, summary)
