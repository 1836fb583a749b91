"""Files that list images: CSV tables and JSON lines; and references found for images by name.

A row may name several images, those of one prompt in its order: several columns of a CSV, or a list
under the key of a JSON line, as in the published training file. Names are relative to the list's
folder.

Not here: files, folders and globs of a command line (`files.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any

from vqr1.data.images import IMAGE_SUFFIXES
from vqr1.data.tables import parse_json, read_csv, read_text, separator_hint
from vqr1.errors import DataError

Shown = Path | tuple[Path, ...]
"""What one prompt is about: an image, or several in the prompt's order."""

LIST_SUFFIXES = (".csv", ".jsonl")

DEFAULT_COLUMN = "image"

_SHOWN_PROBLEMS = 5


def is_list(pattern: str) -> bool:
    """Whether a pattern is a CSV or JSON lines list."""
    return Path(pattern).suffix.lower() in LIST_SUFFIXES


def named_in_list(path: Path, column: str | Sequence[str] | None) -> list[Shown]:
    """The images that a list names.

    Args:
        path: the list.
        column: its column, or key of its lines; several are the images of one prompt. None: image.

    Raises:
        DataError: without the column, or with rows that do not name their images; names the line.
    """
    columns = [column or DEFAULT_COLUMN] if isinstance(column, str | None) else list(column)
    rows = _csv_rows(path, columns) if path.suffix.lower() == ".csv" else _json_rows(path, columns)
    found: list[Shown] = []
    for where, names in rows:
        if not any(name.strip() for name in names):
            continue  # an empty cell names no image
        if not all(name.strip() for name in names):
            raise DataError(f"{where}: the row names only some of its {len(names)} images")
        images = tuple(_beside(path.parent, name) for name in names)
        found.append(images if len(images) > 1 else images[0])
    return found


def _beside(folder: Path, name: str) -> Path:
    """A file of a list; a backslash separates folders, as on Windows, unless a name holds it."""
    path = folder / name
    if "\\" in name and not os.path.lexists(path):
        return folder / PureWindowsPath(name).as_posix()
    return path


def images_of(shown: Shown) -> tuple[Path, ...]:
    """All images that one prompt is about."""
    return shown if isinstance(shown, tuple) else (shown,)


def with_references(found: Sequence[Shown], references: str) -> list[Shown]:
    """Images, each with the reference that is shown before it.

    Args:
        found: single images.
        references: one file for all images, or a folder with a file for each: of the image's name,
            whatever its ending, in the subfolders of the image's path that the folder has.

    Raises:
        DataError: no such file or folder, images without a reference, or rows that list several.
    """
    place = Path(references).expanduser()
    if any(isinstance(shown, tuple) for shown in found):
        raise DataError(f"references={references}: the list names the images of each prompt itself")
    singles = [image for shown in found for image in images_of(shown)]
    if place.is_file():
        return [(place, image) for image in singles]
    if not place.is_dir():
        raise DataError(f"references={references}: no such file or folder")
    named_by_stem = cache(_named_by_stem)
    pairs: list[Shown] = []
    missing = []
    for image in singles:
        reference = _named_like(image, place, named_by_stem)
        if reference is None:
            missing.append(str(image))
        else:
            pairs.append((reference, image))
    if missing:
        more = f", and {len(missing) - _SHOWN_PROBLEMS} more" * (len(missing) > _SHOWN_PROBLEMS)
        raise DataError(
            f"references={references}: no file of the same name for {len(missing)} of "
            f"{len(singles)} images: {', '.join(missing[:_SHOWN_PROBLEMS])}{more}"
        )
    return pairs


def check_counts(found: Iterable[Shown], images: int, prompt: str) -> None:
    """Check that each prompt gets as many images as it takes.

    Args:
        found: the images.
        images: that the prompt takes.
        prompt: its name.

    Raises:
        DataError: another number, at the first such row.
    """
    for shown in found:
        count = len(images_of(shown))
        if count == images:
            continue
        names = " + ".join(map(str, images_of(shown)))
        fix = (
            "use a prompt for several, such as prompt=full_reference"
            if images == 1
            else "give references=FILE or FOLDER, or a list that names all of a prompt's images"
        )
        raise DataError(
            f"prompt.images={images}: {names}: {count} image{'s' * (count != 1)} for prompt="
            f"{prompt}; {fix}"
        )


def _named_like(
    image: Path, folder: Path, named_by_stem: Callable[[Path], Mapping[str, Sequence[Path]]]
) -> Path | None:
    """The file below a folder that has an image's name, the longest end of its path first."""
    parts = image.parts[1:] if image.anchor else image.parts
    for start in range(len(parts)):
        candidate = folder.joinpath(*parts[start:])
        if ".." in parts[start:]:
            continue
        if os.path.isfile(candidate):
            return candidate
        fits = named_by_stem(candidate.parent).get(candidate.stem, ())
        if len(fits) == 1:
            return fits[0]
    return None


def _named_by_stem(folder: Path) -> dict[str, list[Path]]:
    """What a folder has that ends like an image, by the name before the ending.

    Raises:
        DataError: it cannot be listed.
    """
    found: dict[str, list[Path]] = {}
    try:
        for path in folder.iterdir() if os.path.isdir(folder) else ():
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found.setdefault(path.stem, []).append(path)
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be listed ({error.strerror})") from error
    return found


def _csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    table = read_csv(path)
    for column in columns:
        if column not in table.names:
            raise DataError(
                f"{path}:{table.header_line}: no column {column!r}; it has "
                f"{', '.join(table.names)}; name the one that holds the images with column=..."
                f"{separator_hint(table.columns)}"
            )
    cells = zip(*(table.column(column) for column in columns), strict=True)
    for row, names in enumerate(cells):
        yield table.where(row), names


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for number, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        where = f"{path}:{number}"
        row = parse_json(text, where)
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object, found {type(row).__name__}")
        yield where, tuple(name for column in columns for name in _names(row, column, where))


def _names(row: dict[str, Any], column: str, where: str) -> list[str]:
    if column not in row:
        raise DataError(
            f"{where}: no key {column!r}; it has {', '.join(row)}; name the one that holds the "
            "images with column=..."
        )
    value = row[column]
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: {column}={value!r} must be a file name or a list of them")
    return names
