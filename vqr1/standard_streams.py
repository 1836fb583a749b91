"""Standard output and standard error that a run does not depend on.

A terminal closes, a reader such as `head` ends, a redirected log lies on a full disk: what cannot
be written is dropped, and the run continues. Results are in files, never in these two streams alone
(`score.py`, whose rows on standard output are its result, guards standard error only).

Not here: signals, among them the SIGHUP of a closed terminal (`vqr1.distributed.stop_requests`,
`vqr1.distributed.stop_signals`).
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO, TypeGuard

STDIN, STDOUT, STDERR = 0, 1, 2

_GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET, errno.ENOTCONN}
"""Errors after which a stream takes nothing again; a full disk may have room later."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Errors of a file that takes no more, which may be standard output."""
_ESCAPES = "backslashreplace"
_NAMES = {STDOUT: "standard output", STDERR: "standard error"}


class LossyFile(io.FileIO):
    """A file descriptor to write to, whose errors are no one's: what it does not take is dropped.

    Args:
        number: the descriptor; it stays open.
        quiet: nothing is reported where a reader, such as `head`, has seen enough.
    """

    def __init__(self, number: int, *, quiet: bool = False) -> None:
        super().__init__(number, "wb", closefd=False)
        self._number = number
        self._quiet = quiet
        self._reported = False

    def write(self, data: object) -> int:
        """Write all bytes, or drop those that the descriptor does not take."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        rest = view
        while rest:
            try:
                # Past `FileIO.write`, which gives None where the reader of a non-blocking pipe is
                # slow.
                rest = rest[os.write(self._number, rest) :]
            except BlockingIOError:
                select.select([], [self._number], [])
            except OSError as error:
                self._drop(error)
                break
        return len(view)

    def _drop(self, error: OSError) -> None:
        if error.errno in _GONE:
            # Libraries in C, and processes started from now on, write to the same descriptor.
            _open_null(self._number)
        if not self._reported:
            self._reported = True
            self._report(error)

    def _report(self, error: OSError) -> None:
        if self._number == STDERR or (self._quiet and error.errno == errno.EPIPE):
            return
        line = f"{_NAMES[self._number]} cannot be written ({error.strerror}); continuing without\n"
        with suppress(OSError):
            os.write(STDERR, line.encode())


def guard_output(*, stdout: bool = True, quiet: bool = False) -> None:
    """Make `sys.stdout` and `sys.stderr` drop what cannot be written; once is enough.

    Descriptors that were closed at the start are opened on the null device: the next file that is
    opened would get their number, and what a library prints would be written into it. A stream that
    somebody has replaced (a test that captures output) is left as it is.

    File names may hold bytes that are no text in the streams' encoding: standard input gives them
    as Python has them in names, and both outputs print what they cannot encode as escapes.

    Args:
        stdout: standard output too; false for a command whose result it is.
        quiet: a reader that ends is no news, as of a command that only prints.
    """
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            _open_null(number)
    if sys.stdin is None:
        sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115
    _set_errors(sys.stdin, STDIN, "surrogateescape")
    if stdout or sys.stdout is None:
        sys.stdout = _guarded(sys.stdout, STDOUT, quiet=quiet)
    else:
        _set_errors(sys.stdout, STDOUT, _ESCAPES)
    sys.stderr = _guarded(sys.stderr, STDERR)


def drop_output() -> None:
    """Send standard output, and what Python still holds for it, to the null device."""
    _open_null(STDOUT)


def _guarded(stream: TextIO | None, number: int, *, quiet: bool = False) -> TextIO:
    if stream is None:
        file = LossyFile(number, quiet=quiet)
        return io.TextIOWrapper(io.BufferedWriter(file), encoding="utf-8", errors=_ESCAPES)
    if not _is_standard(stream, number):
        return stream
    raw = stream.buffer if isinstance(stream.buffer, io.RawIOBase) else stream.buffer.raw
    if isinstance(raw, LossyFile):
        return stream
    file = LossyFile(number, quiet=quiet)
    with suppress(OSError):
        stream.flush()
    # `python -u` has no buffer between text and descriptor.
    unbuffered = isinstance(stream.buffer, io.RawIOBase)
    return io.TextIOWrapper(
        file if unbuffered else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors=_ESCAPES,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _is_standard(stream: TextIO | None, number: int) -> TypeGuard[io.TextIOWrapper[Any]]:
    """Whether a stream is Python's own for a descriptor."""
    return type(stream) is io.TextIOWrapper and stream.fileno() == number


def _set_errors(stream: TextIO | None, number: int, errors: str) -> None:
    if _is_standard(stream, number) and stream.errors != errors:
        # Not where it was read from already, or holds text that nobody takes any more.
        with suppress(OSError):
            stream.reconfigure(errors=errors)


def _open_null(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    os.set_inheritable(number, True)
