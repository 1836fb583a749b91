"""Output that cannot be written stops nothing: pipes, terminals, full disks, closed descriptors.

Each case is a process of its own that imports no more than the module under test.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

WORK = """
import os, subprocess, sys
from pathlib import Path
from vqr1.standard_streams import guard_output
guard_output()
guard_output()
if "nonblocking" in sys.argv:
    os.set_blocking(1, False)
for number in range(20000):
    print("line", number)
print("flushed", flush=True)
os.system("echo from another program")
sys.stderr.write("to standard error\\n")
first = open("kept.txt", "w")
first.write("whole")
Path("descriptor.txt").write_text(str(first.fileno()))
"""


def work(
    folder: Path,
    stdout: int | None,
    stderr: int | None,
    *options: str,
    closes: str = "",
    arguments: tuple[str, ...] = (),
) -> subprocess.Popen[bytes]:
    """Start the work; `closes` are redirections of the shell."""
    command = [sys.executable, *options, "-c", WORK, *arguments]
    if closes:
        command = ["sh", "-c", f'exec "$@" {closes}', "sh", *command]
    return subprocess.Popen(
        command, cwd=folder, stdout=stdout, stderr=stderr,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


def check_done(folder: Path, process: subprocess.Popen[bytes]) -> None:
    # Python itself exits with 120 where it cannot flush standard output at its end.
    assert process.wait(60) == 0
    assert (folder / "kept.txt").read_text() == "whole"
    # No file of the program got the number of a stream that was closed.
    assert int((folder / "descriptor.txt").read_text()) > 2


@pytest.mark.parametrize("options", [(), ("-u",), ("-X", "dev")], ids=["", "u", "dev"])
def test_a_pipe_whose_reader_has_ended(tmp_path: Path, options: tuple[str, ...]) -> None:
    process = work(tmp_path, subprocess.PIPE, subprocess.PIPE, *options)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"line 0\n"
    process.stdout.close()
    printed = process.stderr.read().decode().splitlines()
    check_done(tmp_path, process)
    # The loss is reported once; another program's output goes nowhere, without its complaint.
    assert [line for line in printed if "Warning" not in line] == [
        "standard output cannot be written (Broken pipe); continuing without",
        "to standard error",
    ]


def test_both_streams_in_one_pipe_whose_reader_has_ended(tmp_path: Path) -> None:
    process = work(tmp_path, subprocess.PIPE, subprocess.STDOUT)
    assert process.stdout is not None
    process.stdout.close()
    check_done(tmp_path, process)


def test_a_terminal_that_was_closed(tmp_path: Path) -> None:
    terminal, own = os.openpty()
    process = work(tmp_path, own, own)
    os.close(own)
    os.read(terminal, 1)
    os.close(terminal)
    check_done(tmp_path, process)


def test_a_log_on_a_full_disk(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = work(tmp_path, full.fileno(), full.fileno())
        check_done(tmp_path, process)


@pytest.mark.parametrize("closes", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_were_closed_at_the_start(tmp_path: Path, closes: str) -> None:
    check_done(tmp_path, work(tmp_path, None, subprocess.DEVNULL, closes=closes))


def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_everything(tmp_path: Path) -> None:
    process = work(tmp_path, subprocess.PIPE, subprocess.DEVNULL, arguments=("nonblocking",))
    assert process.stdout is not None
    time.sleep(0.5)  # a pipe holds 64 KiB: it is full by then
    written = process.stdout.read().decode().splitlines()
    check_done(tmp_path, process)
    assert written == [
        *(f"line {number}" for number in range(20000)), "flushed", "from another program",
    ]  # fmt: skip


QUIET = """
from vqr1.standard_streams import guard_output
guard_output(quiet=True)
for number in range(20000):
    print("line", number)
"""


@pytest.mark.parametrize(
    "command",
    [
        ["-c", QUIET], ["-m", "vqr1", "--help"], ["-m", "vqr1", "data", "--help"],
        ["-m", "vqr1", "summarize", "--help"], ["-m", "vqr1", "sync", "--help"],
    ],
    ids=["print", "vqr1", "data", "summarize", "sync"],
)  # fmt: skip
def test_who_only_prints_ends_quietly_with_its_reader(tmp_path: Path, command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", ["train --help", "train --info", "score --help", "data list"],
)  # fmt: skip
def test_help_into_head(tmp_path: Path, words: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m vqr1 {words} | head -1"],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


NAMES = """
import os, sys
from vqr1.standard_streams import guard_output
guard_output(stdout="both" in sys.argv)
name = sys.stdin.readline().rstrip()
guard_output(stdout="both" in sys.argv)
print(os.fsencode(name), name, "\N{GREEK SMALL LETTER ALPHA}")
"""


@pytest.mark.parametrize(("guarded", "encoding"), [("both", "ascii"), ("standard error", "utf-8")])
def test_file_names_that_are_no_text(guarded: str, encoding: str) -> None:
    """As in a locale of UTF-8, where Python refuses bytes that are none, and in one without it."""
    strict = {"PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": f"{encoding}:strict"}
    done = subprocess.run(
        [sys.executable, "-c", NAMES, guarded], input=b"\xff.png\n",
        capture_output=True, check=True, timeout=60, env={**os.environ, **strict},
    )  # fmt: skip
    alpha = "\N{GREEK SMALL LETTER ALPHA}".encode(encoding, "backslashreplace")
    assert done.stdout.rstrip() == rb"b'\xff.png' \udcff.png " + alpha
