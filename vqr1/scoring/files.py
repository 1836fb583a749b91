"""Which image files a command line names.

What it leaves out: whether they decode; that is seen when they are scored.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from vqr1.errors import DataError

IMAGE_SUFFIXES = frozenset(
    (
        ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff",
        ".webp",
    )
)  # fmt: skip
"""Endings, in lower case, by which images are told from other files in folders and globs."""


def find_images(patterns: Sequence[str]) -> list[Path]:
    """The files that a command line names, each once.

    A file is taken whatever its ending; of folders (with all folders below them) and globs
    (`**` for any depth), the files that end like images and are not hidden, in the order of their
    names.

    Args:
        patterns: files, folders and globs.

    Raises:
        DataError: every pattern that gives no image, or a folder that cannot be listed.
    """
    found: dict[str, Path] = {}
    problems = []
    for pattern in patterns:
        matches = list(_matches(Path(pattern).expanduser()))
        if not matches:
            problems.append(f"{pattern}: {_why_nothing(Path(pattern).expanduser())}")
        for path in matches:
            found.setdefault(os.path.abspath(path), path)
    if problems:
        raise DataError("\n".join(problems))
    return list(found.values())


def _matches(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from _images_below(path)
    else:
        for match in sorted(glob.glob(str(path), recursive=True)):
            place = Path(match)
            if place.is_dir() and "**" not in path.parts:
                yield from _images_below(place)
            elif place.is_file() and _is_image(place.name):
                yield place


def _images_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: the folder cannot be listed ({error.strerror})")

    for place, folders, names in os.walk(folder, onerror=refuse):
        # The order of this very list decides where the walk goes next.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if _is_image(name))


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _why_nothing(path: Path) -> str:
    if path.is_dir():
        return f"no images in this folder; looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
    if glob.has_magic(str(path)):
        return "no image matches; check the pattern, or name a folder"
    return "no such file or folder"
