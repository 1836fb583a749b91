"""DeQA-Score's metas: JSON lists of images with their scores, one file a set and split.

    SET/metas/train_koniq_7k.json    [{"id": "10.jpg->3.9", "image": "KONIQ/images/10.jpg",
    SET/metas/test_koniq_2k.json       "gt_score": 3.9, "gt_score_norm": 4.5, "std": 0.55,
    SET/images/...                     "std_norm": 0.69, "level_probs": [...], ...}, ...]

`gt_score` is on the set's own scale, with the sign that makes higher better; `std` is on the same
one. `gt_score_norm` (linear to [1, 5] over the whole set), `level_probs` and `conversations` follow
from these and are not used: `mos_scaled` and the configured prompt and answer take their place.

`metas/split.json` (`{"train": [names], "test": [names]}`) states the splits alone.

Not here: which format such a list is a form of (`_forms.py`), the protocol (`data/protocols.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqr1.data.labels._format import LabelRow, Split, split_word
from vqr1.data.labels._reading import standard_deviation
from vqr1.data.tables import number, parse_json, parse_json_list, read_text
from vqr1.errors import DataError

METAS = "metas"
"""Folder of the lists, beside the set's `images`."""

PROTOCOL = "deqa"
"""Name of the split that the lists make, among a set's splits."""

_SPLIT_FILE = "split.json"
_NAME = re.compile(r"(train|val|test)_\w+\.json", re.IGNORECASE)
_IMAGE = re.compile(r'"image"\s*:\s*"([^"]+)"')
_BEGINNING = 4096


def lists_in(folder: Path, set_folder: str | None = None) -> list[Path]:
    """The lists in a folder, in the order of their names.

    Args:
        folder: where they would lie.
        set_folder: only those whose images lie in this folder of the collection.
    """
    if not folder.is_dir():
        return []
    named = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return [path for path in named if (of := _set_folder(path)) and set_folder in (None, of)]


def find_lists(root: Path, set_folder: str) -> list[Path]:
    """The lists of one set: where the collection unpacks them, or in the set's own folder."""
    return next((found for place in _places(root, set_folder)
                 if (found := lists_in(place, set_folder))), [])  # fmt: skip


@dataclass(frozen=True)
class ListedImage:
    """An image that a list puts into a split.

    Attributes:
        image: its path or name, as the list has it.
        split: of the list.
        where: `file:line`, or the file, for messages.
    """

    image: str
    split: Split
    where: str


def listed_images(root: Path, set_folder: str) -> list[ListedImage]:
    """The images of one set's lists, else those of its `split.json`; none where neither is there.

    Raises:
        DataError: a file that is not as these are.
    """
    if paths := find_lists(root, set_folder):
        rows = parse_lists(paths)
        return [ListedImage(row.image, s, row.where) for row in rows if (s := row.splits[PROTOCOL])]
    files = (place / _SPLIT_FILE for place in _places(root, set_folder))
    path = next((file for file in files if file.is_file()), None)
    return [] if path is None else list(_of_split_file(path))


def _of_split_file(path: Path) -> Iterator[ListedImage]:
    content = parse_json(read_text(path), str(path))
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object, found {type(content).__name__}")
    splits: tuple[Split, ...] = ("train", "val", "test")
    for split in splits:
        names = content.get(split, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{path}: {split!r} is not a list of image names")
        yield from (ListedImage(name, split, str(path)) for name in names)


def _places(root: Path, set_folder: str) -> list[Path]:
    return [root / set_folder / METAS, root / METAS, root]


def parse_lists(paths: Sequence[Path]) -> list[LabelRow]:
    """Rows of some lists, the splits being those of their names.

    Raises:
        DataError: no JSON list, or an item without image and score; names file and line.
    """
    return [row for path in paths for row in _rows(path)]


def _rows(path: Path) -> Iterator[LabelRow]:
    named = _NAME.fullmatch(path.name)
    split = split_word(named[1], str(path)) if named else None
    for where, item in parse_json_list(read_text(path), path):
        yield _row(item, where, split)


def _row(item: Any, where: str, split: Split | None) -> LabelRow:
    if not isinstance(item, dict):
        raise DataError(f"{where}: expected an object, found {type(item).__name__}")
    image, std = item.get("image"), item.get("std")
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if not isinstance(image, str):
        raise DataError(f"{where}: image={image!r} must be a path")
    if "gt_score" not in item:
        raise DataError(f"{where}: no gt_score, as the lists of DeQA-Score have it")
    return LabelRow(
        image=image,
        mos=number(item["gt_score"], where, "gt_score"),
        where=where,
        std=math.nan if std is None else standard_deviation(std, where, "std"),
        split=split,
        splits={} if split is None else {PROTOCOL: split},
    )


def _set_folder(path: Path) -> str | None:
    """The folder that a list's first image lies in; None where it is no such list."""
    with path.open(encoding="utf-8", errors="replace") as content:
        beginning = content.read(_BEGINNING)
    found = _IMAGE.search(beginning)
    return found[1].split("/")[0] if found and "gt_score" in beginning else None
