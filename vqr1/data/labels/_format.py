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
from typing import Literal

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


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One labelled image as published.

    Attributes:
        image: path relative to the image folder, as the label file writes it.
        mos: MOS on the published scale and in the published direction.
        where: `file:line` of the label, for error messages.
        std: standard deviation of the single ratings on the file's scale; NaN where not given.
        reference: the undistorted image (content) that the image derives from, or None.
        split: official split, or None.
        distortion: kind of distortion that the file or its name states, or None.
        further: numbers or words of further columns, by name.
        splits: the split in each protocol that the file has a column for, by the column's name.
    """

    image: str
    mos: float
    where: str
    std: float = math.nan
    reference: str | None = None
    split: Split | None = None
    distortion: str | None = None
    further: Mapping[str, float | str] = field(default_factory=dict)
    splits: Mapping[str, Split] = field(default_factory=dict)


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

    def main_file(self, *names: str) -> Path:
        """The label file: the configured one, or the first of `names` that exists under the root.

        Raises:
            ConfigError: the configured file does not exist, or none was configured where the
                format has no fixed name.
            DataError: none of the format's own names exists.
        """
        if self.label_file is not None:
            path = self.root / self.label_file
            if not path.resolve().is_relative_to(self.root.resolve()):
                raise ConfigError(
                    [f"{self.key}.label_file={self.label_file!r}: leaves {self.key}.root"]
                )
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
        search_subfolders: the label file names bare files that lie in subfolders of the image
            folder.
        std_unit: units of the published score in one unit of `LabelRow.std`, where the two are on
            different scales.
        meta: the set's CSV file of pyiqa, which may lie beside or in place of the official file.
        scored: the labels state MOS; else they are fitted to its pairs (`dataset.pairs`).
    """

    name: str
    title: str
    published_direction: Literal["higher", "lower"]
    published_range: tuple[float, float] | None
    image_folders: tuple[str, ...]
    parse: Callable[[LabelSource], list[LabelRow]]
    images: int | None = None
    search_subfolders: bool = False
    std_unit: float = 1.0
    meta: MetaForm | None = None
    scored: bool = True


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
