"""What asks a run to stop: noted when it comes, obeyed between two steps.

SIGINT (Ctrl-C), SIGTERM (a shutdown, a scheduler's limit), SIGUSR1 (SLURM's warning before the
limit) and SIGHUP (the terminal was closed) all mean: save and stop. A second SIGINT or SIGTERM ends
the process at once, without a word. SIGHUP that is ignored at the start (`nohup`) stays ignored.
A watchdog asks by `fault`. In a run of several processes a signal to one of them stops all, at the
same step.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from vqr1.distributed.collectives import all_reduce_max, all_reduce_min, get_rank
from vqr1.distributed.stop_signals import takes
from vqr1.errors import Interrupted, RunFaultError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

WORKER_GRACE_SECONDS = 20
"""A loader worker that was sent SIGTERM, as a scheduler does to all processes, lives on so long."""


class StopRequests:
    """Takes the stop signals while its context is open.

    Attributes:
        signal: name of the signal that came, None so far.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._fault: str | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.getsignal(n) for n in SIGNALS if takes(n)}
            self.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether something asked any process; called by all at the same point.

        A signal that comes while this process waits for the others counts at the next call: they
        do not know of it yet.
        """
        number = all_reduce_max(0 if self.signal is None else signal.Signals[self.signal].value)
        if number and self.signal is None:
            self.signal = signal.Signals(number).name
        return bool(number) or self._fault is not None

    def install(self) -> None:
        """Take the signals (again): Lightning puts handlers of its own in place."""
        for number in self._before:
            if self.signal is None:
                signal.signal(number, self._note)

    def fault(self, message: str) -> None:
        """Ask for a stop because training has gone wrong; the first message stands."""
        self._fault = self._fault or message

    def check(self) -> None:
        """Stop here if something asked any process; called by all at the same point.

        Raises:
            Interrupted: a signal came.
            RunFaultError: a fault was reported.
        """
        if not self.asked():
            return
        if self._fault is not None:
            raise RunFaultError(self._fault)
        if self.signal is not None:
            raise Interrupted(self.signal)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A loader worker, which has inherited this handler: the step still needs it, but it
            # must end where nobody asks it to. After SIGHUP its parent does.
            if number == signal.SIGTERM:
                signal.alarm(WORKER_GRACE_SECONDS)
            return
        self.signal = signal.Signals(number).name
        # A second one ends the process as a kill does. Python's own handler of SIGINT would raise
        # within a write or a library that answers with another error.
        # SIGUSR1 stays taken: SLURM sends it to every process of a step, perhaps more than once. So
        # does SIGHUP, which both kernel and shell send; the SIGTERM of a session that ends after it
        # is the same wish, no second one.
        if number != signal.SIGHUP:
            for stop in (signal.SIGINT, signal.SIGTERM):
                signal.signal(stop, signal.SIG_DFL)
        if get_rank() == 0:
            # The terminal may be the one that was closed.
            with suppress(OSError):
                os.write(2, f"{self.signal}: stopping after this step\n".encode())


class Looks:
    """Looks for a stop after each batch of images that are shared out, as often in every process.

    Shares may differ by a batch, or by one of which no image decodes.

    Args:
        stops: what asks.
        batches: batches of this process's share.
    """

    def __init__(self, stops: StopRequests, batches: int) -> None:
        self.stops = stops
        self.left = all_reduce_min(batches)

    def after_batch(self) -> bool:
        """Whether something asked; to be called after every batch."""
        if not self.left:
            return False
        self.left -= 1
        return self.stops.asked()

    def after_all(self) -> bool:
        """Whether something asked, in the looks that other processes still take."""
        return any(self.after_batch() for _ in range(self.left))
