"""What happens to a folder while a scenario runs: every write, new name, removal, rename and sync.

The functions of `os` that change, sync or rename files are wrapped for the time of a recording.
Before and after each of them the folder is compared with what is known of it, so that what other
code did in between (Python's own files, safetensors, Arrow) is recorded too, as writes and names
that nobody has synced. What native code syncs by itself counts as not synced, which only adds
states. Renames are seen one by one; a file that native code has put in the place of another is seen
as a rename.

Nothing is synced in truth: the events alone decide what a power loss leaves.

Not here: which states these are (`disk.py`).
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = 0
"""Number of the recorded folder itself."""

Entry = tuple[int, str, int | None]
"""A folder's number, a name in it, and the number that the name now has; None removes it."""


@dataclass(frozen=True)
class Write:
    """Bytes into a file; `size` is the file's afterwards, so that a shorter one was truncated."""

    number: int
    offset: int
    data: bytes
    size: int


@dataclass(frozen=True)
class Names:
    """One atomic change of names: made, removed, or renamed (two entries)."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Sync:
    """A file's content, or a folder's names, are on the disk; all of the disk where None."""

    number: int | None


@dataclass(frozen=True)
class Commit:
    """The program calls something done."""

    value: object


Event = Write | Names | Sync | Commit


@dataclass
class Tree:
    """Folders and files by number.

    Attributes:
        names: by folder the number of each name in it.
        contents: by file its bytes.
    """

    names: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    contents: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> Tree:
        """A tree that changes by itself."""
        return Tree({n: dict(names) for n, names in self.names.items()}, dict(self.contents))

    def rename(self, entries: tuple[Entry, ...]) -> None:
        """Apply one change of names; folders that are not known yet are made by it."""
        for folder, name, number in entries:
            names = self.names.setdefault(folder, {})
            if number is None:
                names.pop(name, None)
            else:
                names[name] = number

    def write(self, event: Write) -> None:
        """Apply a write to a file's bytes."""
        self.contents[event.number] = written(self.contents.get(event.number, b""), event)

    def files(self, folder: int = ROOT, path: str = "") -> Iterator[tuple[str, bytes | None]]:
        """Every path below the root with its bytes; None is a folder."""
        for name, number in sorted(self.names.get(folder, {}).items()):
            place = f"{path}{name}"
            if number in self.names:
                yield place, None
                yield from self.files(number, f"{place}/")
            else:
                yield place, self.contents.get(number, b"")


def written(content: bytes, event: Write) -> bytes:
    """A file's bytes after a write into them; a gap reads as zeros."""
    end = event.offset + len(event.data)
    whole = content[: event.offset].ljust(event.offset, b"\0") + event.data + content[end:]
    return whole[: event.size].ljust(event.size, b"\0")


@dataclass
class Recording:
    """What a scenario did.

    Attributes:
        before: the folder when it began, all of it on the disk.
        events: in order.
        after: the folder at its end.
        commit: notes that the program calls something done.
    """

    before: Tree
    events: list[Event]
    after: Tree
    commit: Callable[[object], None]


@contextmanager
def recorded(folder: Path) -> Iterator[Recording]:
    """Record what happens to a folder within the block; `.after` is filled at its end."""
    recorder = _Recorder(folder)
    recording = Recording(recorder.tree.copy(), recorder.events, recorder.tree, recorder.commit)
    with mock.patch.multiple(os, **recorder.wrapped()):
        yield recording
    recorder.scan()
    for number in recording.after.names:  # what is a folder, whenever it was made
        recording.before.names.setdefault(number, {})
    # Applied from the beginning, the events give the folder that is there, byte for byte.
    replayed = recording.before.copy()
    for event in recording.events:
        if isinstance(event, Write):
            replayed.write(event)
        elif isinstance(event, Names):
            replayed.rename(event.entries)
    found = dict(real_files(folder))
    assert dict(replayed.files()) == found, "the recording does not give the real folder"


def real_files(folder: Path) -> Iterator[tuple[str, bytes | None]]:
    """Every path of a real folder with its bytes; None is a folder."""
    for path in sorted(folder.rglob("*")):
        yield str(path.relative_to(folder)), None if path.is_dir() else path.read_bytes()


class _Recorder:
    """Compares a folder with what is known of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder)
        self.tree = Tree()
        self.events: list[Event] = []
        self._next = ROOT + 1
        self._real = {name: getattr(os, name) for name in (*_CHANGING, *_SYNCING, *_RENAMING)}
        status = os.stat(self.folder)
        self._device = status.st_dev
        self._number_of = {status.st_ino: ROOT}
        self._busy = False
        self.scan()
        self.events.clear()

    def wrapped(self) -> dict[str, Any]:
        """Functions of `os` in place of which ours are called."""
        wrapped: dict[str, Any] = {n: self._changing(self._real[n]) for n in _CHANGING}
        wrapped |= dict.fromkeys(("fsync", "fdatasync"), self._syncing)
        wrapped |= {name: self._renaming(self._real[name]) for name in _RENAMING}
        return {**wrapped, "sync": self._sync_all}

    def commit(self, value: object) -> None:
        """Note that the program calls something done."""
        self.scan()
        self.events.append(Commit(value))

    def scan(self) -> None:
        """Record what has changed since the last scan."""
        if self._busy:
            return
        self._busy = True
        try:
            found: dict[int, set[str]] = {}
            self._scan_names(ROOT, self.folder, found)
            self._forget(found)
            self._scan_contents(ROOT, self.folder)
        finally:
            self._busy = False

    def _scan_names(self, folder: int, path: str, found: dict[int, set[str]]) -> None:
        known = self.tree.names[folder]
        with os.scandir(path) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
        found[folder] = {entry.name for entry in entries}
        for entry in entries:
            inode, is_folder = entry.inode(), entry.is_dir(follow_symlinks=False)
            number = self._number_of.get(inode)
            if number is None or (number in self.tree.names) != is_folder:
                number = self._number_of[inode] = self._next
                self._next += 1
                if is_folder:
                    self.tree.names[number] = {}
                else:
                    self.tree.contents[number] = b""
            if known.get(entry.name) != number:
                moved = self._moved_from(number)
                self._note_names((*moved, (folder, entry.name, number)))
            if is_folder:
                self._scan_names(number, entry.path, found)

    def _moved_from(self, number: int) -> tuple[Entry, ...]:
        """The entries that a number had which are there no more: native code has renamed it."""
        return tuple(
            (folder, name, None)
            for folder, names in self.tree.names.items()
            for name, other in names.items()
            if other == number and not os.path.lexists(self._path(folder, name))
        )

    def _path(self, folder: int, name: str) -> str:
        for parent, names in self.tree.names.items():
            for other, number in names.items():
                if number == folder and folder != ROOT:
                    return os.path.join(self._path(parent, other), name)
        return os.path.join(self.folder, name)

    def _forget(self, found: dict[int, set[str]]) -> None:
        for folder, there in found.items():
            for name in [name for name in self.tree.names[folder] if name not in there]:
                self._note_names(((folder, name, None),))
        alive = {ROOT} | {n for f in found for n in self.tree.names[f].values()}
        # The system may give the inode of a file that is gone to a new one.
        self._number_of = {i: n for i, n in self._number_of.items() if n in alive}

    def _note_names(self, entries: tuple[Entry, ...]) -> None:
        self.events.append(Names(entries))
        self.tree.rename(entries)

    def _scan_contents(self, folder: int, path: str) -> None:
        for name, number in self.tree.names[folder].items():
            place = os.path.join(path, name)
            if number in self.tree.names:
                self._scan_contents(number, place)
                continue
            if stat.S_ISLNK(os.lstat(place).st_mode):
                continue
            with open(place, "rb") as file:
                now = file.read()
            event = _difference(number, self.tree.contents[number], now)
            if event is not None:
                self.events.append(event)
                self.tree.contents[number] = now

    def _changing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def called(*args: Any, **keys: Any) -> Any:
            if not self._busy:
                self.scan()
            result = real(*args, **keys)
            self.scan()
            return result

        return called

    def _syncing(self, descriptor: int) -> None:
        self.scan()
        status = os.fstat(descriptor)
        number = self._number_of.get(status.st_ino)
        if status.st_dev == self._device and number is not None:
            self.events.append(Sync(number))

    def _sync_all(self) -> None:
        self.scan()
        self.events.append(Sync(None))

    def _renaming(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def called(source: Any, target: Any, **keys: Any) -> None:
            self.scan()
            places = [self._place(path) for path in (source, target)]
            real(source, target, **keys)
            (origin, goal) = places
            if origin is not None and goal is not None:
                number = self.tree.names[origin[0]][origin[1]]
                self._note_names(((*origin, None), (*goal, number)))
            self.scan()

        return called

    def _place(self, path: Any) -> tuple[int, str] | None:
        """Folder's number and name of a path; None outside of the recorded folder."""
        whole = os.path.abspath(os.fspath(path))
        inside = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
        relative = os.path.relpath(inside, self.folder)
        if relative.startswith(".."):
            return None
        *parents, name = relative.split(os.sep)
        folder = ROOT
        for parent in parents:
            folder = self.tree.names[folder][parent]
        return folder, name


_CHANGING = (
    "open", "write", "pwrite", "ftruncate", "truncate", "link", "symlink", "unlink", "remove",
    "rmdir", "mkdir",
)  # fmt: skip
_SYNCING = ("fsync", "fdatasync", "sync")
_RENAMING = ("rename", "replace")


def _difference(number: int, before: bytes, now: bytes) -> Write | None:
    """The one write that makes a file's bytes others."""
    if before == now:
        return None
    shorter = min(len(before), len(now))
    # Most writes append, and need no search.
    same = before[:shorter] == now[:shorter]
    start = shorter if same else next((i for i in range(shorter) if before[i] != now[i]), shorter)
    return Write(number, start, now[start:], len(now))
