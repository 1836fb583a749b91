"""An archive of unknown origin into a folder, or not at all.

Refused before anything is written: absolute names, `..`, links, devices, two names that a file
system without letter case would take for one, and more bytes than the disk has room for or than the
archive can hold honestly. While it is unpacked no member may exceed the size that the archive's
own table states.

Not here: where archives come from (`fetch.py`), what has to be in them (`install.py`).
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from vqr1.errors import DataError, first_line

LARGEST_RATIO = 200.0
"""Unpacked bytes for each byte of the archive beyond which it is taken for a bomb. Photographs do
not compress; bitmaps of one colour reach about 100."""

ROOM_TO_KEEP = 1 << 30
"""Bytes of the disk that stay free."""

_CHUNK = 1 << 20
_ENDINGS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip")
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True)
class Member:
    """One file of an archive.

    Attributes:
        name: its path in the archive.
        size: its bytes as the archive states them.
        open: gives its content.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, advance: Callable[[int], None] = lambda count: None) -> int:
    """Unpack a tar or zip archive into an empty folder.

    Args:
        archive: the file.
        folder: an existing empty folder.
        advance: called with the number of bytes that were written.

    Returns:
        Files that were written.

    Raises:
        DataError: the archive is damaged, of another kind, or holds what is refused (see the
            module); nothing outside `folder` was written.
        OSError: the disk does not take it.
    """
    with _members(archive) as members:
        _check(archive, members, folder)
        for member in members:
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(archive, member, path, advance)
    return len(members)


def unpacked_size(archive: Path) -> int:
    """Bytes that an archive's files take by its own table.

    Raises:
        DataError: it is damaged or of another kind.
    """
    with _members(archive) as members:
        return sum(member.size for member in members)


@contextmanager
def _members(archive: Path) -> Iterator[list[Member]]:
    if not archive.name.lower().endswith(_ENDINGS):
        raise DataError(f"{archive}: not an archive known here ({', '.join(_ENDINGS)})")
    try:
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:
                yield [_zip_member(archive, opened, item) for item in opened.infolist()
                       if not item.is_dir()]  # fmt: skip
        else:
            with tarfile.open(archive) as packed:
                yield [_tar_member(archive, packed, item) for item in packed if not item.isdir()]
    except _DAMAGED as error:
        raise DataError(
            f"{archive}: damaged, or not what its name states ({first_line(error)}); remove it and "
            "fetch it again"
        ) from error


def _zip_member(archive: Path, opened: zipfile.ZipFile, item: zipfile.ZipInfo) -> Member:
    kind = (
        item.external_attr >> 28
    )  # the file type of Unix in the upper bits; 0 where none is given
    if kind not in (0, 0o10):
        raise DataError(f"{archive}: {item.filename!r} is a link or a device; refused")
    if item.flag_bits & 1:
        raise DataError(f"{archive}: {item.filename!r} is encrypted; unpack it by hand")
    return Member(item.filename, item.file_size, lambda: opened.open(item))


def _tar_member(archive: Path, packed: tarfile.TarFile, item: tarfile.TarInfo) -> Member:
    if not item.isreg() or item.issparse():
        raise DataError(f"{archive}: {item.name!r} is a link, a device or sparse; refused")

    def content() -> IO[bytes]:
        found = packed.extractfile(item)
        assert found is not None  # a regular file has content
        return found

    return Member(item.name, item.size, content)


def _check(archive: Path, members: list[Member], folder: Path) -> None:
    seen: dict[str, str] = {}
    for member in members:
        parts = PurePosixPath(member.name).parts
        bad = "\\" in member.name or "\0" in member.name or ":" in (parts or ("",))[0]
        if bad or not parts or parts[0] == "/" or ".." in parts:
            raise DataError(f"{archive}: {member.name!r} leaves the folder; refused")
        for end in range(1, len(parts) + 1):
            path = "/".join(parts[:end])
            if seen.setdefault(path.lower(), path) != path:
                raise DataError(
                    f"{archive}: {path!r} and {seen[path.lower()]!r} differ in letter case only; "
                    "refused"
                )
    files = ["/".join(PurePosixPath(member.name).parts) for member in members]
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    if len(set(files)) < len(files) or not folders.isdisjoint(files):
        raise DataError(f"{archive}: holds a file twice, or a file in the place of a folder")
    total = sum(member.size for member in members)
    if total > LARGEST_RATIO * max(archive.stat().st_size, 1):
        raise DataError(
            f"{archive}: {total} bytes unpacked, more than {LARGEST_RATIO:g} times the archive's; "
            "refused"
        )
    free = shutil.disk_usage(folder).free
    if total + ROOM_TO_KEEP > free:
        raise DataError(
            f"{folder}: {total / 2**30:.1f} GiB are needed and 1 GiB more, {free / 2**30:.1f} GiB "
            "are free; make room, or choose another disk with --root"
        )


def _write(archive: Path, member: Member, path: Path, advance: Callable[[int], None]) -> None:
    left = member.size
    with member.open() as content, path.open("xb") as file:
        while chunk := content.read(min(_CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
            advance(len(chunk))
    if left:
        raise DataError(f"{archive}: {member.name!r} has another size than its table states")
