"""SIGTERM and SIGHUP outside of training: they end a command as Ctrl-C does.

What a command was doing is left in order on the way out: an evaluation closes its file and ends the
processes that it started, a sweep interrupts its jobs and closes its parent run. A training takes
the signals itself while it runs (`vqr1.distributed.stop_requests`).

SIGHUP (the terminal was closed) that is ignored at the start, as `nohup` has it, stays ignored.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vqr1.distributed.environment import is_launched

STOPPING = (signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal ends the command; like Ctrl-C no `Exception`, so that nothing takes it for one."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name


@contextmanager
def stop_signals() -> Iterator[None]:
    """Raise `Stopped` where one of the signals comes.

    Not in processes that torchrun or the like has started: they may wait for each other in a
    library, where Python runs no handler, and would not end at all.
    """
    outside = threading.current_thread() is not threading.main_thread() or is_launched()
    numbers = () if outside else tuple(n for n in STOPPING if takes(n))
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            _end_worker(number)
            return
        # A second SIGTERM ends the process at once. A closed terminal may send SIGHUP twice.
        for each in numbers:
            signal.signal(each, signal.SIG_DFL if each == signal.SIGTERM else signal.SIG_IGN)
        raise Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def takes(number: signal.Signals) -> bool:
    """Whether a stop signal is one for us: not a SIGHUP that is ignored already (`nohup`)."""
    return number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN


def _end_worker(number: int) -> None:
    """In a loader worker, which has inherited the handler: it ends with its parent."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
