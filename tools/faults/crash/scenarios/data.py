"""Data sets that are downloaded or made, and caches."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import requests
import torch

from tools.faults.crash.explore import Known, LostError, Note, Scenario
from vqr1 import durable
from vqr1.data import demo
from vqr1.data.cache import ImageCache
from vqr1.data.download import fetch, install
from vqr1.data.download.catalogue import WebFile
from vqr1.data.download.install import RECORD, Plan
from vqr1.errors import DataError

KEYS = ("aa" + "0" * 62, "bb" + "0" * 62)


class Cached(Scenario):
    """Images into the cache, one of them twice."""

    name = "write into the cache"
    begins: tuple[object, ...] = ({},)

    def prepare(self, folder: Path) -> None:
        """The cache's own folders."""
        for key in KEYS:
            (folder / key[:2]).mkdir()

    def act(self, folder: Path, note: Note) -> None:
        """See the class."""
        cache = ImageCache(folder)
        there: dict[str, int] = {}
        for key, value in ((KEYS[0], 1), (KEYS[1], 2), (KEYS[0], 3)):
            cache.put(key, torch.full((4, 9, 3), value, dtype=torch.uint8))
            there = {**there, key: value}
            note(there)

    def recover(self, folder: Path, known: Known) -> None:
        """What is read is an image that was written, whole."""
        cache = ImageCache(folder)
        found: dict[str, int] = {}
        for key in KEYS:
            pixels = cache.get(key)
            if pixels is not None:
                found[key] = int(pixels.flatten()[0])
                if pixels.shape != (4, 9, 3) or not bool((pixels == found[key]).all()):
                    raise LostError("the entry is a mixture")
        known.check(found)


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(f"wrapped/{name}", content)
    return buffer.getvalue()


FILES = {"labels.csv": b"image,mos\na.png,1\n", "images/a.png": bytes(range(200))}
ARCHIVE = _archive()


class _Answer:
    """One answer of a server that breaks the connection off after some bytes."""

    def __init__(self, headers: Mapping[str, str], breaks: int | None) -> None:
        asked = headers.get("Range")
        self.start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.status_code = 206 if asked else 200
        total = len(ARCHIVE)
        self.headers = {"ETag": '"one"', "Content-Length": str(total - self.start)}
        if asked:
            self.headers["Content-Range"] = f"bytes {self.start}-{total - 1}/{total}"
        self._end = breaks

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def iter_content(self, size: int) -> Iterator[bytes]:
        """The rest of the file."""
        for begin in range(self.start, len(ARCHIVE), 100):
            if self._end is not None and begin >= self._end:
                raise requests.exceptions.ConnectionError("broken off")
            yield ARCHIVE[begin : begin + 100]


class Downloaded(Scenario):
    """A set's archive, fetched in two attempts, unpacked and installed."""

    name = "a download, installed"
    begins = ("nothing",)

    def act(self, folder: Path, note: Note) -> None:
        """See the class."""
        self._install(folder / "data", breaks=250)
        note("installed")

    def _install(self, root: Path, breaks: int | None) -> int:
        """Answers that were asked for."""
        answers: list[_Answer] = []

        def get(url: str, headers: Mapping[str, str], **_: Any) -> _Answer:
            answers.append(_Answer(headers, None if answers else breaks))
            return answers[-1]

        def check(folder: Path) -> None:
            found = {name: (folder / name).read_bytes() for name in FILES}
            if found != FILES:
                raise DataError(f"{folder}: not the set")

        file = WebFile("http://server/set.zip", len(ARCHIVE), len(ARCHIVE))
        with (
            mock.patch.object(requests, "get", get),
            mock.patch.object(fetch, "CHUNK", 100),
            mock.patch.object(fetch, "Patience", return_value=PATIENCE),
        ):
            install.install(Plan("set", root, [file]), ("images",), check)
        return len(answers)

    def recover(self, folder: Path, known: Known) -> None:
        """The same command again ends with the set, and fetches nothing that is installed."""
        root = folder / "data"
        there = (root / "set" / RECORD).is_file()
        known.check("installed" if there else "nothing")
        asked = self._install(root, None)
        found = {name: (root / "set" / name).read_bytes() for name in FILES}
        if found != FILES:
            raise LostError("the installed files are not those of the archive")
        if there and asked:
            raise LostError("it was fetched again")
        left = {path.name for path in root.iterdir()} - {"set", ".set.lock", ".downloads"}
        if left:
            raise LostError(f"left over: {sorted(left)}")


PATIENCE = fetch.Patience(tries=3, wait=0.0)


class MadeSet(Scenario):
    """The demo set, written on first use; a small one in its place."""

    name = "a set made on first use"
    begins = ("nothing",)

    def act(self, folder: Path, note: Note) -> None:
        """See the class."""
        self._ensure(folder / "cache")
        note("made")

    def _ensure(self, cache: Path) -> Path:
        with mock.patch.object(demo, "write_demo_set", _write_set):
            return demo.ensure_demo_set(cache)

    def recover(self, folder: Path, known: Known) -> None:
        """A folder that is there is whole."""
        there = (folder / "cache" / demo.FOLDER).is_dir()
        known.check("made" if there else "nothing")
        made = self._ensure(folder / "cache")
        found = {name: (made / name).read_bytes() for name in FILES}
        if found != FILES:
            raise LostError("the set is not what was written")


class MadeLargeSet(MadeSet):
    """The same with so many files that the whole system is synced."""

    name = "a large set made on first use"

    def act(self, folder: Path, note: Note) -> None:
        """See the class."""
        with mock.patch.object(durable, "_FEW_FILES", 0):
            super().act(folder, note)


def _write_set(folder: Path, advance: Any) -> None:
    (folder / "images").mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
