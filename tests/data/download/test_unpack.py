"""Archives that mean well come out as they went in; others leave nothing."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vqr1.data.download import unpack as unpacking
from vqr1.data.download.unpack import unpack
from vqr1.errors import DataError

FILES = {"set/images/I01.png": b"one" * 1000, "set/dmos.csv": b"a,b\n", "set/empty.txt": b""}


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, *members: tarfile.TarInfo, files: dict[str, bytes] | None = None) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in (files or {}).items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
        for item in members:
            archive.addfile(item)
    return path


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    item = tarfile.TarInfo(name)
    item.type, item.linkname = kind, target
    return item


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "outer" / "set"
    made.mkdir(parents=True)
    return made


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_an_archive_comes_out_as_it_went_in(name: str, folder: Path) -> None:
    path = folder.parent.parent / name
    archive = write_zip(path, FILES) if name == "a.zip" else write_tar(path, files=FILES)
    written: list[int] = []
    assert unpack(archive, folder, written.append) == 3
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == FILES
    assert sum(written) == 3004


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "tar: absolute": (lambda p: write_tar(p / "a.tar", files={"/etc/x": b"1"}), "leaves"),
    "tar: parent": (lambda p: write_tar(p / "a.tar", files={"s/../../x": b"1"}), "leaves"),
    "tar: link": (
        lambda p: write_tar(p / "a.tar", member("x", tarfile.SYMTYPE, "/etc")),
        "is a link, a device",
    ),
    "tar: hard link": (
        lambda p: write_tar(p / "a.tar", member("x", tarfile.LNKTYPE, "../y")),
        "is a link, a device",
    ),
    "tar: device": (lambda p: write_tar(p / "a.tar", member("x", tarfile.CHRTYPE)), "device"),
    "tar: pipe": (lambda p: write_tar(p / "a.tar", member("x", tarfile.FIFOTYPE)), "device"),
    "tar: letter case": (
        lambda p: write_tar(p / "a.tar", files={"Img/a": b"1", "img/b": b"2"}),
        "differ in letter case",
    ),
    "tar: file as folder": (
        lambda p: write_tar(p / "a.tar", files={"a": b"1", "a/b": b"2"}),
        "in the place of a folder",
    ),
    "tar: twice": (lambda p: write_tar(p / "a.tar", files={"a": b"1", "./a": b"2"}), "twice"),
    "zip: absolute": (lambda p: write_zip(p / "a.zip", {"/x": b"1"}), "leaves"),
    "zip: parent": (lambda p: write_zip(p / "a.zip", {"../x": b"1"}), "leaves"),
    "zip: drive": (lambda p: write_zip(p / "a.zip", {"C:/x": b"1"}), "leaves"),
    "zip: backslash": (lambda p: write_zip(p / "a.zip", {"..\\x": b"1"}), "leaves"),
    "zip: bomb": (lambda p: write_zip(p / "a.zip", {"x": b"\0" * 50_000_000}), "more than 200"),
    "no archive": (lambda p: write(p / "a.zip", b"<html>"), "damaged, or not what its name states"),
    "cut": (lambda p: cut(write_tar(p / "a.tgz", files={"x": bytes(range(256)) * 400})), "damaged"),
    "another kind": (lambda p: write(p / "a.rar", b"Rar!"), "not an archive known here"),
}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def cut(path: Path) -> Path:
    return write(path, path.read_bytes()[:-40])


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused_leaves_nothing(case: str, folder: Path, tmp_path: Path) -> None:
    make, message = BAD[case]
    archive = make(tmp_path)
    with pytest.raises(DataError, match=message):
        unpack(archive, folder)
    left = set(tmp_path.rglob("*")) - {archive, folder, folder.parent}
    assert left == set()


def test_a_zip_link_is_refused(folder: Path, tmp_path: Path) -> None:
    item = zipfile.ZipInfo("x")
    item.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(item, "/etc/passwd")
    with pytest.raises(DataError, match="is a link or a device"):
        unpack(tmp_path / "a.zip", folder)


def test_room_on_the_disk_is_asked_for_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "ROOM_TO_KEEP", 1 << 60)
    with pytest.raises(DataError, match="are needed and 1 GiB more"):
        unpack(write_zip(tmp_path / "a.zip", FILES), folder)
    assert list(folder.iterdir()) == []
