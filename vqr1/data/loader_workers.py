"""Loader workers that die: noticed where a batch is waited for, and nowhere else.

PyTorch's handler of SIGCHLD raises wherever the main thread happens to be. Within a finaliser
Python prints such an error with its stack and drops it, within a log handler the logging package
does the same, and within a write it leaves half a file. Here the handler is let through only while
the main thread asks for a batch, and is asked once before that. A worker that is killed closes its
sockets some moments before the kernel reports its death: a batch that is received in between fails
with an error of the connection, and is asked about again until the death is known.

PyTorch's workers ask before each batch whether they are to end, under a lock that they share with
the main process. One that ends meanwhile (killed, or by another of its threads for lack of memory)
never gives it back, and PyTorch would wait for it for ever where it looks after a dead worker. The
main process alone decides that workers are to end: here it reads its own answer, and notes
it for them only if it gets the lock in time; they are ended without that too.

Not here: the one line for a dead worker (`vqr1.training.faults`).
"""

from __future__ import annotations

import multiprocessing
import os
import pickle  # nosec B403 - the name of an error; nothing is read with it
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import queues, synchronize
from types import FrameType
from typing import Any, TypeVar

_T = TypeVar("_T")

_LOST = (OSError, EOFError, pickle.UnpicklingError, RuntimeError)
"""What receiving a batch raises where its sender has closed the connection. RuntimeError is what
Python raises where a message came without the file descriptor that belongs to it."""

_KNOWN = "DataLoader worker"
"""In PyTorch's message of a worker's death, and before an error that a worker met and sent."""

_SECONDS_TO_DIE = 5.0
"""How long a killed process may take from closing its sockets to being reported as dead; it is
long where the machine is busy or the process large."""


_SECONDS_FOR_LOCK = 1.0
"""How long a lock that a dead worker may hold is waited for; others hold it for microseconds."""


class _Deaths:
    """PyTorch's handler, at a gate.

    Args:
        handler: raises if a worker has died.
    """

    def __init__(self, handler: Callable[[int, FrameType | None], object]) -> None:
        self.handler = handler
        self.let_through = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.let_through:
            self.handler(number, frame)


def watched(batches: Iterator[_T]) -> Iterator[_T]:
    """The batches of a loader that has workers, made just now by its `__iter__`.

    Raises:
        RuntimeError: a worker died.
    """
    deaths = _gate()
    done = getattr(batches, "_workers_done_event", None)
    if isinstance(done, synchronize.Event):
        batches._workers_done_event = _Done(done)  # type: ignore[attr-defined]
    while True:
        try:
            if deaths is not None:
                deaths.let_through = True
                deaths(signal.SIGCHLD, None)
            batch = next(batches)
        except StopIteration:
            return
        except _LOST as error:
            if deaths is not None and _KNOWN not in str(error):
                _await_death(deaths)
            raise
        finally:
            if deaths is not None:
                deaths.let_through = False
        yield batch


class _Done:
    """The event that asks workers to end, as the only process that sets it sees it.

    Args:
        shared: PyTorch's, which the workers have.
    """

    def __init__(self, shared: synchronize.Event) -> None:
        self._shared: Any = shared
        self._set = False

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._set

    def set(self) -> None:
        """Ask the workers to end, unless the lock is lost: nobody but them looks."""
        self._set = True
        if self._shared._cond.acquire(True, _SECONDS_FOR_LOCK):
            self._shared._flag.release()
            self._shared._cond.release()


def _await_death(deaths: _Deaths) -> None:
    """Give a worker that closed its sockets the time to be known as dead.

    Raises:
        RuntimeError: a worker has died.
    """
    end = time.monotonic() + _SECONDS_TO_DIE
    while time.monotonic() < end:
        deaths(signal.SIGCHLD, None)
        time.sleep(0.05)


def _gate() -> _Deaths | None:
    """The gate before PyTorch's handler; it sets that one, once in a process, for its first loader.

    None where there is no such handler: in another thread than the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    handler = signal.getsignal(signal.SIGCHLD)
    if isinstance(handler, _Deaths):
        return handler
    if not callable(handler):
        return None
    gate = _Deaths(handler)
    signal.signal(signal.SIGCHLD, gate)
    return gate


def start_method() -> str | None:
    """How workers start: None leaves it to Python, except within a worker of joblib's.

    There the method is joblib's own, which starts no process that did not come from joblib.
    """
    known = multiprocessing.get_all_start_methods()
    return None if multiprocessing.get_start_method() in known else known[0]


def end_where_a_batch_is_lost(worker: int) -> None:
    """Make a loader worker end where it has no memory to send a batch.

    Python's queue prints such an error and drops the batch, for which training would wait for ever;
    that a worker ended is noticed.
    """
    queues.Queue._on_queue_feeder_error = staticmethod(_exit)  # type: ignore[attr-defined]


def _exit(error: Exception, batch: object) -> None:
    os._exit(1)
