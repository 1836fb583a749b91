"""Which image files a command line names: files, folders, globs, lists, names on a stream.

Not here: what lists hold (`image_lists.py`), and whether images decode; that is seen when they are
scored.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vqr1.data.images import IMAGE_SUFFIXES, is_image_name
from vqr1.errors import DataError
from vqr1.inference.image_lists import Shown, images_of, is_list, named_in_list

STANDARD_INPUT = "-"
"""The pattern that stands for names on a stream, one a line."""


@dataclass
class PassedOver:
    """Files of folders and globs that were not taken.

    Attributes:
        suffixes: number of files by their ending in lower case; `hidden` for those whose name
            begins with a dot. What lies in hidden folders is not counted.
    """

    suffixes: Counter[str] = field(default_factory=Counter)

    def takes(self, name: str) -> bool:
        """Whether a file is an image by its name; counted where it is not."""
        if is_image_name(name):
            return True
        ending = "hidden" if name.startswith(".") else Path(name).suffix.lower()
        self.suffixes[ending or "no ending"] += 1
        return False

    def sentences(self) -> list[str]:
        """What is reported; nothing where every file was taken."""
        if not self.suffixes:
            return []
        kinds = ", ".join(f"{count} {ending}" for ending, count in self.suffixes.most_common())
        return [f"{self.suffixes.total()} files in folders are no images by their names ({kinds})"]


def find_images(
    patterns: Sequence[str],
    *,
    column: str | Sequence[str] | None = None,
    names: Iterable[str] = (),
    passed: PassedOver | None = None,
) -> list[Shown]:
    """The files that a command line names, each once.

    A file is taken whatever its ending, except `.csv` and `.jsonl`: these are lists, whose column
    names images relative to the list's folder, or the images of one prompt. Of folders (with all
    folders below them) and globs (`**` for any depth), the files that end like images and are not
    hidden are taken, in the order of their names. Names from lists and streams are taken as they
    are: one that is no image is an unreadable image among others, not a mistake on the command
    line.

    Links to folders are followed; a folder that several names lead to is taken by one of them.

    Args:
        patterns: files, folders, globs, lists, and `-` for `names`.
        column: column of the lists, several for several images a prompt; None is `image`.
        names: lines of the stream that `-` stands for, read only when it is there.
        passed: counts the files of folders and globs that are not taken.

    Raises:
        DataError: every pattern that gives no image, a folder that cannot be listed, or a list
            without the column or with rows that do not fit its header.
    """
    passed = PassedOver() if passed is None else passed
    found: dict[tuple[str, ...], Shown] = {}
    problems = []
    for pattern in patterns:
        path = Path(os.path.expanduser(pattern))
        matches: Sequence[Shown]
        if pattern == STANDARD_INPUT:
            matches = _named_in_lines(names)
        elif is_list(pattern) and os.path.isfile(path):
            matches = named_in_list(path, column)
        else:
            matches = list(_matches(path, passed))
        if not matches:
            problems.append(f"{pattern}: {_why_nothing(pattern, path)}")
        for match in matches:
            found.setdefault(tuple(map(os.path.abspath, images_of(match))), match)
    if problems:
        raise DataError("\n".join(problems))
    return list(found.values())


def _named_in_lines(names: Iterable[str]) -> list[Path]:
    lines = (line.rstrip("\r\n") for line in names)
    return [Path(line) for line in lines if line.strip()]


def _matches(path: Path, passed: PassedOver) -> Iterator[Path]:
    # Unlike Path.is_file and is_dir, these do not raise where the folder may not be looked into.
    if os.path.isfile(path):
        yield path
    elif os.path.isdir(path):
        yield from _images_below(path, passed)
    else:
        for match in sorted(glob.glob(str(path), recursive=True)):
            place = Path(match)
            if os.path.isdir(place) and "**" not in path.parts:
                yield from _images_below(place, passed)
            elif os.path.isfile(place) and passed.takes(place.name):
                yield place


def _images_below(folder: Path, passed: PassedOver) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: the folder cannot be listed ({error.strerror})")

    listed: dict[Path, list[str]] = {}
    linked, seen = [str(folder)], set[str]()
    # Links are followed after all else, so that a folder below this one keeps its own name; one to
    # a folder that is listed already, as in a circle, is not.
    while linked:
        for place, folders, names in os.walk(linked.pop(0), onerror=refuse):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            linked += filter(os.path.islink, (os.path.join(place, name) for name in folders))
            listed[Path(place)] = sorted(filter(passed.takes, names))
    for parent in sorted(listed):
        yield from (parent / name for name in listed[parent])


def _why_nothing(pattern: str, path: Path) -> str:
    if pattern == STANDARD_INPUT:
        return "no names on standard input; give one a line"
    if os.path.isdir(path):
        return f"no images in this folder; looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
    if os.path.isfile(path):
        return "this list names no image"
    if glob.has_magic(str(path)):
        return "no image matches; check the pattern, or name a folder"
    try:
        path.stat()
    except PermissionError as error:
        return f"cannot be read ({error.strerror})"
    except (OSError, ValueError):
        pass
    return "no such file or folder"
