"""What asks a run to stop: noted when it comes, obeyed between two steps.

SIGINT (Ctrl-C), SIGTERM (a shutdown, a scheduler's limit) and SIGUSR1 (SLURM's warning before the
limit) all mean: save and stop. A second one does what it does by default, at once. A watchdog asks
by `fault`.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from vqr1.errors import Interrupted, RunFaultError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequests:
    """Takes the stop signals while its context is open."""

    def __init__(self) -> None:
        self._signal: str | None = None
        self._fault: str | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
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

    @property
    def pending(self) -> bool:
        """True once something asked."""
        return self._signal is not None or self._fault is not None

    def install(self) -> None:
        """Take the signals (again): Lightning puts handlers of its own around a fit."""
        for number in self._before:
            if self._signal is None:
                signal.signal(number, self._note)

    def fault(self, message: str) -> None:
        """Ask for a stop because training has gone wrong; the first message stands."""
        self._fault = self._fault or message

    def check(self) -> None:
        """Stop here if something asked.

        Raises:
            Interrupted: a signal came.
            RunFaultError: a fault was reported.
        """
        if self._fault is not None:
            raise RunFaultError(self._fault)
        if self._signal is not None:
            raise Interrupted(self._signal)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A loader worker, which has inherited this handler and ends when its run does.
            if number == signal.SIGTERM:
                os._exit(0)
            return
        self._signal = signal.Signals(number).name
        # SIGUSR1 stays taken: SLURM sends it to every process of a step, perhaps more than once.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.write(2, f"{self._signal}: stopping after this step\n".encode())
