"""Finding the image files that a label file names, below one folder and nowhere else.

Names are matched exactly first, then without regard to letter case and to how accents are composed
in Unicode (label files and archives disagree in both; macOS writes them decomposed); two candidates
that differ only in these are an error. A bare name that is not in the folder itself is looked for
in all subfolders: found when one file has it, refused when several do. A name that states a
subfolder is in that one only, unless the paths are those of another layout. Folders are listed once
each instead of asking the file system about every name; of a file that is found only its size is
asked. A symbolic link that leads out of the folder is refused.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path, PurePosixPath

from vqr1.data.images import IMAGE_SUFFIXES
from vqr1.errors import DataError


@dataclass(frozen=True, slots=True)
class FoundImage:
    """Where a named image is, or why it cannot be used.

    Attributes:
        path: path relative to the folder in the letter case of the disk; None if unusable.
        problem: what is wrong with it; empty if it was found.
    """

    path: str | None
    problem: str = ""


@dataclass
class _Listing:
    """What one folder holds.

    Attributes:
        files: names of its plain files. A set of a million images has a million of them, so names
            are all that is kept.
        others: folders, links and what else there is, by name.
    """

    files: set[str] = field(default_factory=set)
    others: dict[str, os.DirEntry[str]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.files or name in self.others

    @cached_property
    def alike(self) -> dict[str, list[str]]:
        """All names, by what they are without regard to letter case and composition."""
        found: dict[str, list[str]] = {}
        for name in (*self.files, *self.others):
            found.setdefault(_folded(name), []).append(name)
        return found


@dataclass
class ImageIndex:
    """Lists of the files below one folder, read when first needed.

    Attributes:
        folder: the image folder; no image outside it is ever found.
        own_names: the names are of anyone's own table: one without an ending is the image file that
            has it before its ending.
        foreign_paths: the names are paths of another layout: where none leads to a file, the file
            of that name is meant; of several, the one that shares the most folders at its end.
    """

    folder: Path
    own_names: bool = False
    foreign_paths: bool = False
    _listings: dict[str, _Listing] = field(default_factory=dict)
    _below: dict[str, list[str]] | None = None
    _stems: dict[str, list[str]] | None = None

    def __post_init__(self) -> None:
        self._real_folder = os.path.realpath(self.folder)

    def find_all(self, images: Sequence[str]) -> list[FoundImage]:
        """Look up every image.

        Args:
            images: relative POSIX paths without `..`.

        Raises:
            DataError: a name fits several files, or leads out of the folder through a link; or a
                folder cannot be listed.
        """
        return [self.find(image) for image in images]

    def find(self, image: str) -> FoundImage:
        """Look up one image; see `find_all`."""
        stated, slash, name = image.rpartition("/")
        known = self._listings.get(f"{stated}{slash}")
        if known is not None and name in known.files:  # as nearly all are
            return self._sized(image)
        parts = [part for part in image.split("/") if part not in ("", ".")]
        folder = ""
        for part in parts[:-1]:
            found = self._entry(folder, part, image)
            if found is None or not self._is_folder(folder, found):
                return self._find_below(image)
            folder = f"{folder}{found}/"
        found = self._entry(folder, parts[-1], image)
        if found is None:
            return self._find_below(image)
        return self._check(folder, found)

    def _find_below(self, image: str) -> FoundImage:
        missing = FoundImage(None, "no such file")
        candidates = self._named_below(image)
        if not candidates:
            return missing
        if len(candidates) > 1:
            raise DataError(_ambiguous(self.folder, image, candidates))
        stated, slash, name = candidates[0].rpartition("/")
        found = self._entry(f"{stated}{slash}", name, image)
        return missing if found is None else self._check(f"{stated}{slash}", found)

    def _named_below(self, image: str) -> list[str]:
        """Files below the folder that a name fits: exactly, or without regard to letter case."""
        path = PurePosixPath(image)
        bare = path.parent == PurePosixPath(".")
        candidates: list[str] = []
        if bare or self.foreign_paths:
            named = self._files_below().get(_folded(path.name), [])
            exact = [found for found in named if PurePosixPath(found).name == path.name]
            # Two files of anyone's own that differ in letter case only are both meant.
            candidates = named if self.own_names else exact or named
            candidates = candidates if bare else _most_alike(path, candidates)
        if self.own_names and not candidates:
            candidates = self._stems_below().get(_folded(image), [])
        return candidates

    def _stems_below(self) -> dict[str, list[str]]:
        """Image files by their path and by their name, both without the ending."""
        if self._stems is None:
            self._stems = {}
            for paths in self._files_below().values():
                for path in map(PurePosixPath, paths):
                    if path.suffix.lower() in IMAGE_SUFFIXES:
                        for stem in {_folded(path.stem), _folded(str(path.with_suffix("")))}:
                            self._stems.setdefault(stem, []).append(str(path))
        return self._stems

    def _check(self, folder: str, name: str) -> FoundImage:
        """The file of this name in a folder that is listed ("" or ending in a slash)."""
        entry = self._listing(folder).others.get(name)
        if entry is not None:
            if entry.is_symlink():
                self._check_inside(entry.path, f"{folder}{name}")
            if entry.is_dir():
                return FoundImage(None, "is a folder")
            if not entry.is_file():
                return FoundImage(None, "no such file")  # a link to nothing
        return self._sized(f"{folder}{name}")

    def _sized(self, path: str) -> FoundImage:
        """A file that is there."""
        # Not by the entry of the listing, which would keep the whole result.
        try:
            size = os.stat(f"{self.folder}/{path}").st_size
        except PermissionError as error:
            return FoundImage(None, f"cannot be read ({error.strerror})")
        if size == 0:
            return FoundImage(None, "is empty (0 bytes)")
        return FoundImage(path)

    def _is_folder(self, folder: str, name: str) -> bool:
        entry = self._listing(folder).others.get(name)
        return entry is not None and entry.is_dir()

    def _check_inside(self, full_path: str, path: str) -> None:
        real = os.path.realpath(full_path)
        if os.path.commonpath([real, self._real_folder]) != self._real_folder:
            raise DataError(
                f"{self.folder}: image {path!r} is a link that leaves the image folder "
                f"(to {real}); put the file itself there"
            )

    def _entry(self, folder: str, name: str, image: str) -> str | None:
        """A name of a folder as the disk has it."""
        listing = self._listing(folder)
        if name in listing:
            return name
        candidates = listing.alike.get(_folded(name), [])
        if len(candidates) > 1:
            names = [f"{folder}{candidate}" for candidate in candidates]
            raise DataError(_ambiguous(self.folder, image, names))
        return candidates[0] if candidates else None

    def _listing(self, folder: str) -> _Listing:
        if folder not in self._listings:
            full_path = os.path.join(self.folder, folder)
            if folder:
                self._check_inside(full_path, folder.rstrip("/"))
            try:
                self._listings[folder] = _listed(full_path)
            except PermissionError as error:
                raise DataError(
                    f"{full_path}: the folder cannot be listed ({error.strerror})"
                ) from error
        return self._listings[folder]

    def _files_below(self) -> dict[str, list[str]]:
        if self._below is None:
            self._below = {}
            for folder, subfolders, files in os.walk(self.folder):
                subfolders.sort()
                relative = os.path.relpath(folder, self.folder)
                prefix = "" if relative == "." else f"{PurePosixPath(relative).as_posix()}/"
                for name in files:
                    self._below.setdefault(_folded(name), []).append(f"{prefix}{name}")
        return self._below


def _listed(folder: str) -> _Listing:
    listing = _Listing()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                listing.files.add(entry.name)
            else:
                listing.others[entry.name] = entry
    return listing


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).lower()


def _most_alike(path: PurePosixPath, candidates: Sequence[str]) -> list[str]:
    """The candidates that share the most folders with a path, counted from its end."""
    wanted = _folded(str(path)).split("/")[::-1]
    shared: dict[str, int] = {}
    for candidate in candidates:
        parts = zip(wanted, _folded(candidate).split("/")[::-1], strict=False)
        shared[candidate] = len(list(takewhile(lambda pair: pair[0] == pair[1], parts)))
    most = max(shared.values(), default=0)
    return [candidate for candidate, count in shared.items() if count == most]


def _ambiguous(folder: Path, image: str, candidates: Sequence[str]) -> str:
    return (
        f"{folder}: image {image!r} fits {len(candidates)} files ({', '.join(sorted(candidates))});"
        " keep one of them"
    )
