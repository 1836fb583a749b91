"""Real processes of a command whose terminal, pipe or disk takes no output, and signals to them."""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess

from tools.faults import forked

LINES = 2
"""Lines that the reader of a pipe takes before it ends, as `head -2`."""


def closed_pipe() -> None:
    """Both streams go into a pipe whose reader ends after two lines."""
    reader, writer = os.pipe()
    _redirect(writer)

    def read() -> None:
        taken = 0
        while taken < LINES:
            taken += os.read(reader, 1 << 16).count(b"\n")
        os.close(reader)

    threading.Thread(target=read, daemon=True).start()


def closed_terminal() -> None:
    """Both streams go to a terminal that is closed after the first output."""
    terminal, own = os.openpty()
    _redirect(own)

    def read() -> None:
        select.select([terminal], [], [])
        os.read(terminal, 1 << 16)
        os.close(terminal)

    threading.Thread(target=read, daemon=True).start()


def full_disk() -> None:
    """Both streams go to a log on a full disk."""
    _redirect(os.open("/dev/full", os.O_WRONLY))


def full_results() -> None:
    """Standard output alone goes to a full disk."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def nohup() -> None:
    """SIGHUP is ignored, as `nohup` has it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def start(
    module: str, folder: str, change: Callable[[], None] | None, *arguments: str
) -> ForkServerProcess:
    """Start a command's `main` in a folder; output that is not lost is added to `output.txt`."""
    return forked.start(_run, module, folder, change, arguments)


def _run(
    module: str, folder: str, change: Callable[[], None] | None, arguments: Sequence[str]
) -> None:
    forked.enter(folder)
    if change is not None:
        change()
    sys.argv = [f"{module.rpartition('.')[2]}.py", *arguments]
    importlib.import_module(module).main()


def _redirect(descriptor: int) -> None:
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
