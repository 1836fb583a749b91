"""The one way in which anything that must survive is written: whole files, and files that grow.

A file is replaced as a whole: a new one is written beside it, synced and renamed over it, and then
the folder is synced. A kill or a power loss at any point leaves the old content or the new one,
never a mixture, and once the call returns it is the new one. A folder gets its name once all that
it holds is synced; the names of new folders are synced as those of files are. A file that grows by
appends has a second one beside it that holds how many of its bytes are committed; what follows them
is cut off when the file is opened again.

Every system call that changes a file stands in this module, as `os.NAME`, so that tests can stop
a process between any two of them.

Not here: locks (`vqr1.locks`), what a command may replace (`vqr1.outputs`), and databases, which
keep a journal of their own.
"""

from __future__ import annotations

import errno
import glob
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vqr1.errors import DataError

ASIDE = ".part"
"""Ending of a file that is being written. Its name begins with a dot and is never used twice."""
_UNIQUE = 16
"""Hexadecimal digits before that ending."""

_LONGEST_STEM = 200
"""Bytes of a name that are repeated in the name aside; file systems take 255."""
_FEW_FILES = 100
"""Files of a folder that are synced one by one."""
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.EACCES)
"""What folders answer that cannot be synced (network file systems, folders that may be written but
not listed); their renames are as durable as they can be."""


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Replace a file as a whole by what is written within.

    Args:
        path: the file, or a link to it; its folder exists.
        private: readable by its owner alone; otherwise as any new file, by the process's umask.

    Yields:
        An empty file in the same folder to write to. Where the block raises, it is removed and
        `path` stays as it is.

    Raises:
        OSError: the folder or the disk does not take it.
    """
    if path.is_symlink():
        path = path.resolve()
    aside = _aside(path)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    mode = os.fstat(descriptor).st_mode
    os.close(descriptor)
    try:
        yield aside
        # safetensors puts a file that only its owner can read in place of the one it is given.
        if os.stat(aside).st_mode != mode:
            os.chmod(aside, stat.S_IMODE(mode))
        _sync_file(aside)
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(aside)
        raise
    _sync_folder(path.parent)


def write_file(path: Path, content: str | bytes, *, private: bool = False) -> None:
    """Replace a file as a whole; what is no file (a pipe, a terminal) is written to as it is.

    Args:
        path: the file, or a link to it; its folder exists.
        content: its bytes, or text to be encoded as UTF-8.
        private: see `replacing`.

    Raises:
        OSError: the folder or the disk does not take it; `path` is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        _write_into(path, data)
        return
    with replacing(path, private=private) as aside:
        _write_into(aside, data)


def sync(path: Path) -> None:
    """Return once a file that something else appends to, and its name, are on the disk.

    Raises:
        OSError: the disk does not take it.
    """
    _sync_file(path)
    _sync_folder(path.parent)


def make_folder(path: Path, *, above: bool = False, exist_ok: bool = True) -> None:
    """Make a folder that is not there, with those above it, and sync their names.

    Args:
        path: the folder.
        above: sync the names of all folders above it on its file system too, which others may have
            made a moment ago.
        exist_ok: it may be there.

    Raises:
        OSError: it cannot be made.
    """
    found = path.is_dir()
    path = path.absolute()
    missing = [place for place in path.parents if not place.is_dir()]
    os.makedirs(path, exist_ok=exist_ok)
    if not found or above:
        device = os.stat(path).st_dev
        for number, place in enumerate(path.parents):
            if number > len(missing) and not (above and os.stat(place).st_dev == device):
                break
            _sync_folder(place)


def place_file(source: Path, target: Path) -> None:
    """Give a file that is on the disk its name in the same folder.

    Raises:
        OSError: the disk does not take it.
    """
    os.replace(source, target)
    _sync_folder(target.parent)


def place_folder(source: Path, target: Path, *, former: Path | None = None) -> None:
    """Give a folder that was filled aside its name, once all that it holds is on the disk.

    Args:
        source: the folder.
        target: its new path on the same file system.
        former: the path that a folder which is there gets; a power loss may leave it there and
            nothing at `target`. None expects nothing at `target`.

    Raises:
        OSError: the disk does not take it, or `target` is a folder that is not empty.
    """
    _sync_tree(source)
    if former is not None and target.exists():
        os.rename(target, former)
    os.rename(source, target)
    _sync_folder(target.parent)


def remove_file(path: Path) -> None:
    """Delete a file, and return once the disk knows; nothing happens where there is none."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    with suppress(FileNotFoundError):
        _sync_folder(path.parent)


def remove_asides(folder: Path, name: str | None = None) -> None:
    """Delete what killed writers left in a folder.

    Args:
        folder: need not exist.
        name: of the one file that nobody else writes now; None: nobody else writes any file here.
    """
    stem = "*" if name is None else glob.escape(name)
    for path in folder.glob(f".{stem}.{'[0-9a-f]' * _UNIQUE}{ASIDE}"):
        with suppress(FileNotFoundError):
            os.unlink(path)


class CommittedFile:
    """A file that grows by whole appends; opened again, it holds those that were committed.

    One process at a time has it open.

    Args:
        path: the file; made where there is none. `committed_mark(path)` lies beside it.

    Raises:
        DataError: the file is shorter than its mark states, or the mark is no number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = committed_size(path)
        remove_asides(path.parent, committed_mark(path).name)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._cut()

    def append(self, data: bytes) -> None:
        """Add bytes, all or none of them.

        Raises:
            OSError: the disk does not take them; the file is as before.
        """
        try:
            _write_all(self._descriptor, data)
            os.fsync(self._descriptor)
            write_file(committed_mark(self.path), str(self.size + len(data)))
        except BaseException:
            self.size = committed_size(self.path)
            self._cut()
            raise
        self.size += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self.size)
        os.lseek(self._descriptor, self.size, os.SEEK_SET)


def committed_mark(path: Path) -> Path:
    """The file that holds how many bytes of a growing file are committed."""
    return path.with_name(f"{path.name}.committed")


def committed_size(path: Path) -> int:
    """Bytes of a growing file that are committed; 0 where the file or its mark is missing.

    Raises:
        DataError: the file is shorter, or the mark is no number.
    """
    mark = committed_mark(path)
    try:
        size, text = path.stat().st_size, mark.read_text(encoding="utf-8")
    except FileNotFoundError:
        return 0
    if not text.isdecimal() or int(text) > size:
        raise DataError(
            f"{mark}: {text[:20]!r} committed bytes, and {path.name} has {size}; the file was "
            "changed or damaged: remove both"
        )
    return int(text)


def remove_committed(path: Path) -> None:
    """Delete a growing file: its mark first, so that no mark counts bytes of another file."""
    remove_file(committed_mark(path))
    remove_asides(path.parent, committed_mark(path).name)
    remove_file(path)


def _aside(path: Path) -> Path:
    stem = path.name if len(os.fsencode(path.name)) <= _LONGEST_STEM else ""
    return path.with_name(f".{stem}.{uuid.uuid4().hex[:_UNIQUE]}{ASIDE}")


def _write_into(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _sync_file(path: Path) -> None:
    # A descriptor of its own: whoever wrote the file has closed theirs. Syncing is never tried
    # again after a failure, because the system may have dropped what it could not write.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    """Sync all that a folder holds; the whole system where that is less work."""
    found = [path for path in folder.rglob("*") if not path.is_symlink()]
    if len(found) > _FEW_FILES:
        os.sync()
        return
    for path in found:
        if path.is_dir():
            _sync_folder(path)
        elif path.is_file():
            _sync_file(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in _NO_FOLDER_SYNC:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
