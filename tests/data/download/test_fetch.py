"""A file that arrives whole, whatever the server does; compared byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tools.faults.file_server import FileServer, serving
from vqr1.data.download.fetch import Patience, Remote, fetch
from vqr1.errors import DataError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(tries=3, wait=0.01, timeout=2)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({"/a.zip": CONTENT}) as found:
        yield found


def remote(server: FileServer, path: str = "/a.zip") -> Remote:
    return Remote(server.url(path), len(CONTENT), DIGEST)


def test_a_file_arrives(server: FileServer, tmp_path: Path) -> None:
    seen: list[int] = []
    path = fetch(remote(server), tmp_path / "a.zip", lambda done, total: seen.append(done), QUICK)
    assert path.read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
    # A second call checks the file and asks nobody.
    fetch(remote(server), path, patience=QUICK)
    assert len(server.asked) == 1


def test_broken_connections_are_continued_where_they_ended(
    server: FileServer, tmp_path: Path
) -> None:
    server.faults.break_after = 1 << 20
    assert fetch(remote(server), tmp_path / "a.zip", patience=QUICK).read_bytes() == CONTENT
    assert server.asked == ["", "bytes=1048576-", "bytes=2097152-"]


def test_what_was_fetched_before_the_server_went_is_kept(
    server: FileServer, tmp_path: Path
) -> None:
    server.faults.break_after, server.faults.breaks = 1 << 19, 1

    def gone(done: int, total: int | None) -> None:
        server.faults.status = [503]

    impatient = Patience(tries=1, wait=0.0, timeout=2)
    with pytest.raises(DataError, match=r"given up after 1 attempts .*524288 bytes are kept in"):
        fetch(remote(server), tmp_path / "a.zip", gone, impatient)
    assert (tmp_path / "a.zip.part").stat().st_size == 1 << 19
    fetch(remote(server), tmp_path / "a.zip", patience=QUICK)
    assert server.asked[-1] == "bytes=524288-"


@pytest.mark.parametrize("change", ["tag", "no ranges"])
def test_bytes_of_two_versions_are_never_joined(
    server: FileServer, tmp_path: Path, change: str
) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"old" * 100_000)
    (tmp_path / "a.zip.part.committed").write_text("300000")
    (tmp_path / "a.zip.part.json").write_text('{"version": "\\"zero\\""}')
    server.faults.ranges = change == "tag"
    assert fetch(remote(server), tmp_path / "a.zip", patience=QUICK).read_bytes() == CONTENT


def test_busy_servers_are_asked_again_and_redirects_followed(
    server: FileServer, tmp_path: Path
) -> None:
    server.faults.redirect = {"/old.zip": "/a.zip"}
    server.faults.status = [503, 429]
    found = fetch(remote(server, "/old.zip"), tmp_path / "a.zip", patience=QUICK)
    assert found.read_bytes() == CONTENT


def test_slow_replies_are_waited_for_and_silent_ones_are_not(
    server: FileServer, tmp_path: Path
) -> None:
    server.faults.wait = 0.005
    assert fetch(remote(server), tmp_path / "a.zip", patience=QUICK).read_bytes() == CONTENT
    server.faults.wait = 1.0
    silent = Patience(tries=1, wait=0.0, timeout=0.2)
    with pytest.raises(DataError, match=r"given up after 1 attempts"):
        fetch(remote(server), tmp_path / "b.zip", patience=silent)


def test_more_bytes_here_than_there_begin_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    (tmp_path / "a.zip.part.committed").write_text(str(len(CONTENT) + 4))
    (tmp_path / "a.zip.part.json").write_text('{"version": "\\"one\\""}')
    assert fetch(remote(server), tmp_path / "a.zip", patience=QUICK).read_bytes() == CONTENT


@pytest.mark.parametrize(("size", "asked"), [(len(CONTENT), []), (None, ["bytes=3000000-"])])
def test_a_file_whose_check_was_stopped_is_not_fetched_again(
    server: FileServer, tmp_path: Path, size: int | None, asked: list[str]
) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    (tmp_path / "a.zip.part.committed").write_text(str(len(CONTENT)))
    (tmp_path / "a.zip.part.json").write_text('{"version": "\\"one\\""}')
    wanted = Remote(server.url("/a.zip"), size, DIGEST)
    assert fetch(wanted, tmp_path / "a.zip", patience=QUICK).read_bytes() == CONTENT
    assert server.asked == asked


@pytest.mark.parametrize("damaged", [CONTENT[:-1] + b"?", CONTENT[:-1]])
def test_a_damaged_file_is_removed_and_fetched_by_the_next_call(
    server: FileServer, tmp_path: Path, damaged: bytes
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"has been removed: run the command again"):
        fetch(remote(server), path, patience=QUICK)
    assert fetch(remote(server), path, patience=QUICK).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Remote("/none.zip"), r"/none.zip: HTTP 404; no such file there"),
        (Remote("/a.zip", size=17), r"/a.zip: the server's file has 3000000 bytes, the known one"),
        (Remote("/a.zip", sha256="0" * 64), r"SHA-256 .*it is another version or was damaged"),
    ],
)
def test_what_is_refused(server: FileServer, tmp_path: Path, found: Remote, message: str) -> None:
    wanted = Remote(server.url(found.url), found.size, found.sha256)
    with pytest.raises(DataError, match=message):
        fetch(wanted, tmp_path / "a.zip", patience=QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "message"), [(401, "hf auth login"), (403, "owner's terms")])
def test_gated_files_state_how_they_are_had(
    server: FileServer, tmp_path: Path, status: int, message: str
) -> None:
    server.faults.status = [status]
    with pytest.raises(DataError, match=message):
        fetch(remote(server), tmp_path / "a.zip", patience=QUICK)


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    with serving({}) as server:
        url = server.url("/a.zip")
    with pytest.raises(DataError, match=r"given up after 2 attempts"):
        fetch(Remote(url), tmp_path / "a.zip", patience=Patience(2, 0.0, 1))
