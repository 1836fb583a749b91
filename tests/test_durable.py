"""Whole files and growing files, with the process killed between any two system calls."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.support.small_disk import file_limit
from vqr1 import durable
from vqr1.durable import (
    CommittedFile,
    committed_mark,
    committed_size,
    remove_asides,
    remove_committed,
    replacing,
    sync,
    write_file,
)
from vqr1.errors import DataError

CHANGING = ("open", "write", "fsync", "replace", "unlink", "ftruncate")


class Calls:
    """`os`, counting the calls that change or sync files; `before` is given each one's number."""

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        self.names: list[str] = []
        self._before = before

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGING:
            return real

        def counted(*args: Any, **keys: Any) -> Any:
            self._before(len(self.names))
            self.names.append(name)
            return real(*args, **keys)

        return counted


def calls_of(action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls = Calls()
    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", calls)
        action()
    return calls.names


def killed_before(number: int, action: Callable[[], None]) -> None:
    """Run an action in a process that is killed before its system call of a number."""
    child = os.fork()
    if child == 0:

        def kill(call: int) -> None:
            if call == number:
                os.kill(os.getpid(), signal.SIGKILL)

        durable.os = Calls(kill)  # type: ignore[attr-defined]
        action()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_order_of_the_system_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Made, written, synced, renamed; the folder opened and synced last.
    assert calls_of(lambda: write_file(tmp_path / "a", "x"), monkeypatch) == [
        "open", "open", "write", "open", "fsync", "replace", "open", "fsync",
    ]  # fmt: skip
    assert calls_of(lambda: sync(tmp_path / "a"), monkeypatch) == ["open", "fsync"] * 2
    file = CommittedFile(tmp_path / "rows")
    # The bytes are synced before the mark that counts them is begun.
    assert calls_of(lambda: file.append(b"row\n"), monkeypatch)[:3] == ["write", "fsync", "open"]
    file.close()


@pytest.mark.parametrize("content", ["text \N{GREEK SMALL LETTER MU}\r\n", b"\0bytes\r\n", ""])
def test_content_is_written_as_given(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "file"
    write_file(path, "before")
    write_file(path, content)
    expected = content.encode() if isinstance(content, str) else content
    assert path.read_bytes() == expected
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.medium
def test_a_kill_between_any_two_calls_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    calls = calls_of(lambda: write_file(path, "old"), monkeypatch)
    renamed = calls.index("replace")
    for number in range(len(calls)):
        write_file(path, "old")
        killed_before(number, lambda: write_file(path, "new" * 1000))
        assert path.read_text() == ("old" if number <= renamed else "new" * 1000)
        remove_asides(tmp_path)
        assert os.listdir(tmp_path) == ["file"]


@pytest.mark.medium
def test_a_kill_while_appending_loses_whole_appends_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows"

    def grow() -> None:
        file = CommittedFile(path)
        for row in (b"first\n", b"second\n"):
            file.append(row)
        file.close()

    calls = calls_of(grow, monkeypatch)
    whole = (b"", b"first\n", b"first\nsecond\n")
    seen = set()
    for number in range(len(calls)):
        path.unlink(missing_ok=True)
        committed_mark(path).unlink(missing_ok=True)
        killed_before(number, grow)
        file = CommittedFile(path)
        file.close()
        assert path.read_bytes() in whole
        seen.add(path.read_bytes())
        assert set(os.listdir(tmp_path)) <= {path.name, committed_mark(path).name}
    assert seen == set(whole)


@pytest.mark.medium
def test_nothing_is_left_of_a_growing_file_whose_writer_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows"

    def grow() -> None:
        file = CommittedFile(path)
        file.append(b"row\n")
        file.close()

    for number in range(len(calls_of(grow, monkeypatch))):
        remove_committed(path)
        killed_before(number, grow)
        remove_committed(path)
        assert os.listdir(tmp_path) == []


def test_only_asides_are_removed_and_of_one_file_where_it_is_named(tmp_path: Path) -> None:
    digits = "0123456789abcdef"
    asides = [f".{name}.{digits}.part" for name in ("a", "a*", "a.b", "")]
    others = ["a.part", ".a.part", ".a.0123.part", "a.0123456789abcdef.part"]
    for name in (*asides, *others):
        (tmp_path / name).touch()
    remove_asides(tmp_path, "a*")
    assert set(os.listdir(tmp_path)) == {*asides, *others} - {f".a*.{digits}.part"}
    remove_asides(tmp_path)
    assert set(os.listdir(tmp_path)) == set(others)
    remove_asides(tmp_path / "missing", "a")


def test_an_error_within_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, "old")

    def interrupted() -> None:
        with replacing(path) as aside:
            aside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, "old")
    file = CommittedFile(tmp_path / "rows")
    file.append(b"first\n")
    # 10 bytes fit into a file: each write is cut in its middle.
    with file_limit(10):
        with pytest.raises(OSError, match="File too large"):
            write_file(path, "0123456789abc")
        with pytest.raises(OSError, match="File too large"):
            file.append(b"second\n")
        file.append(b"2nd\n")
    file.append(b"third\n")
    file.close()
    assert path.read_text() == "old"
    assert (tmp_path / "rows").read_bytes() == b"first\n2nd\nthird\n"
    assert sorted(os.listdir(tmp_path)) == ["file", "rows", "rows.committed"]


def test_a_failed_sync_is_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_file(path, "old")

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    calls = Calls()
    calls.fsync = broken  # type: ignore[attr-defined]
    monkeypatch.setattr(durable, "os", calls)
    with pytest.raises(OSError, match="Input/output"):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("refused", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced(
    tmp_path: Path, refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_files_only(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(refused, os.strerror(refused))
        os.fsync(descriptor)

    calls = Calls()
    calls.fsync = of_files_only  # type: ignore[attr-defined]
    monkeypatch.setattr(durable, "os", calls)
    if refused == errno.EINVAL:  # a file system without such a thing, not a failure
        write_file(tmp_path / "file", "new")
    else:
        with pytest.raises(OSError, match="Input/output"):
            write_file(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_modes_are_those_of_new_files(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_file(tmp_path / "plain", "x")
        write_file(tmp_path / "private", "x", private=True)
        with replacing(tmp_path / "native") as aside:
            aside.write_bytes(b"x")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"plain": mode, "native": mode, "private": 0o600}


def test_a_read_only_folder_is_stated_and_a_missing_one_too(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "missing" / "file", "x")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError):
        write_file(file / "file", "x")


def test_a_name_of_the_longest_length(tmp_path: Path) -> None:
    name = "\N{GREEK SMALL LETTER MU}" * 127  # 254 bytes
    write_file(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]


def test_links_are_followed_and_pipes_written_to(tmp_path: Path) -> None:
    path, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to("file")
    write_file(link, "x")
    assert (path.read_text(), link.is_symlink()) == ("x", True)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_file(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "pipe"]
    with pytest.raises(OSError, match="No space left"):
        write_file(Path("/dev/full"), "x")
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path, "x")


def test_writers_at_once_leave_one_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [letter * 100_000 for letter in "abcd"]
    seen: set[str] = set()

    def write(content: str) -> None:
        for _ in range(5):
            write_file(path, content)
            seen.add(path.read_text())

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen <= set(contents)
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_committed(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    assert committed_size(path) == 0
    path.write_bytes(b"nobody counted these")
    assert committed_size(path) == 0
    file = CommittedFile(path)
    assert path.read_bytes() == b""
    file.append(b"row\n")
    assert (file.size, committed_size(path)) == (4, 4)
    file.close()
    path.write_bytes(b"row\ntorn")
    file = CommittedFile(path)
    file.append(b"next\n")
    file.close()
    assert path.read_bytes() == b"row\nnext\n"


@pytest.mark.parametrize("mark", ["9", "many", "-1", ""])
def test_a_damaged_growing_file_is_refused(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"row\n")
    committed_mark(path).write_text(mark)
    with pytest.raises(DataError, match=r"rows\.committed: .* rows has 4; .* remove both"):
        CommittedFile(path)


def test_a_file_is_as_public_as_any_new_one(tmp_path: Path) -> None:
    """safetensors puts a file that only its owner can read in place of the one it is given."""
    umask = os.umask(0o022)
    try:
        for private, mode in ((False, 0o644), (True, 0o600)):
            with replacing(tmp_path / "file", private=private) as aside:
                save_file({"a": torch.zeros(2)}, aside)
            assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    finally:
        os.umask(umask)
