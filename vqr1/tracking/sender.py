"""The thread that carries the journal to the MLflow server while the run continues.

The run never waits for it, except for a bounded time at its start (to learn the MLflow run's id)
and at its end (to deliver the rest). What is left then, `vqr1 sync` sends later.
A lock file keeps two processes from sending one journal.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from vqr1.errors import ConfigError
from vqr1.tracking.delivery import Delivery
from vqr1.tracking.journal import journal_file
from vqr1.tracking.outages import outage_errors
from vqr1.tracking.store import one_line

LINGER_SECONDS = 0.5
"""Events of this long are sent together: fewer transactions."""

FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 30.0


def sender_lock(run_dir: Path) -> FileLock:
    """The lock that the only sender of a journal holds."""
    return FileLock(journal_file(run_dir).with_name("sender.lock"), timeout=0)


class _SentElsewhereError(OSError):
    """Another process holds the journal's lock: it is sent later, if anything is left then."""


@dataclass(frozen=True)
class Undelivered:
    """What a bounded time did not suffice for.

    Attributes:
        events: events that the server does not have.
        refused: values that it will never take.
        reason: what the last attempt met; where none failed, that the time did not suffice.
    """

    events: int
    refused: int
    reason: str


class Sender:
    """Sends a journal in the background.

    Args:
        run_dir: the run's folder, with its journal.
        tracking_uri: the MLflow store.
        since: byte offset of the journal from which on the current run has been sent.
    """

    def __init__(self, run_dir: Path, tracking_uri: str, since: int) -> None:
        self._delivery = Delivery(run_dir, tracking_uri)
        self._lock = sender_lock(run_dir)
        self._since = since
        self._wake = threading.Event()
        self._first = threading.Event()
        self._closing = False
        self._given_up = False
        self._reason = ""
        self._unusable: ConfigError | None = None
        # A daemon: at the end of the process nothing waits for a server that does not answer.
        self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """The current MLflow run's id; None before the server has it."""
        delivered = self._delivery.delivered
        return delivered.run_id if delivered.offset >= self._since else None

    def notify(self) -> None:
        """State that the journal has grown."""
        self._wake.set()

    def wait_for_run(self, seconds: float, until: int | None = None) -> str | None:
        """Wait until the server has the run, or the first attempt has failed.

        Args:
            seconds: the longest wait, and the longest without progress.
            until: byte offset up to which the server must have the journal, through failures too;
                None does without.

        Returns:
            Why there is no run yet; None where there is one.

        Raises:
            ConfigError: MLflow cannot use the address.
        """
        insist = until is not None
        offset, end = self._delivery.delivered.offset, time.monotonic() + seconds
        while not self._has_run(until) and time.monotonic() < end:
            if not self._thread.is_alive() or (self._first.is_set() and not insist):
                break
            self._first.wait(0.05)
            if insist and self._first.is_set():
                time.sleep(0.05)
            if self._delivery.delivered.offset != offset:
                offset, end = self._delivery.delivered.offset, time.monotonic() + seconds
        if self._unusable is not None:
            raise self._unusable
        if self._has_run(until):
            return None
        return self._reason or f"no answer in {seconds:g} s"

    def _has_run(self, until: int | None) -> bool:
        return self.run_id is not None and self._delivery.delivered.offset >= (until or 0)

    def close(self, seconds: float) -> Undelivered:
        """Deliver the rest for at most so many seconds, then stop."""
        self._closing = True
        self._wake.set()
        self._thread.join(seconds)
        self._given_up = True
        self._wake.set()
        return Undelivered(
            self._delivery.left(),
            self._delivery.delivered.refused,
            self._reason or "the server did not answer in time",
        )

    def _run(self) -> None:
        retry = FIRST_RETRY_SECONDS
        try:
            while not self._given_up:
                # Read before sending: what is written after the batch is sent in one more round.
                closing = self._closing
                try:
                    self._hold()
                    more = self._delivery.send_batch()
                except ConfigError as error:
                    self._unusable = error
                    self._reason = one_line(error)
                    return
                except outage_errors() as error:
                    self._reason = one_line(error)
                except Exception as error:
                    self._reason = one_line(error)
                    raise
                else:
                    retry = FIRST_RETRY_SECONDS
                    self._reason = ""
                    if not more and closing:
                        return
                    if self.run_id is not None:
                        self._first.set()
                    if not more:
                        self._idle()
                    continue
                self._first.set()
                retry = self._back_off(retry)
        finally:
            self._first.set()
            self._lock.release()

    def _hold(self) -> None:
        try:
            if not self._lock.is_locked:
                self._lock.acquire()
        except Timeout as error:
            raise _SentElsewhereError("another process is sending this run's journal") from error

    def _idle(self) -> None:
        self._wake.wait()
        self._wake.clear()
        if not self._closing:
            time.sleep(LINGER_SECONDS)

    def _back_off(self, retry: float) -> float:
        """Wait before the next attempt; shorter ones once the run is over."""
        if self._closing:
            time.sleep(FIRST_RETRY_SECONDS)
            return retry
        end = time.monotonic() + retry
        while time.monotonic() < end and not self._closing:
            self._wake.wait(end - time.monotonic())
            self._wake.clear()
        return min(retry * 2, LAST_RETRY_SECONDS)


def send_all(delivery: Delivery, seconds: float) -> str:
    """Send a journal from this thread, trying again for at most so many seconds.

    Returns:
        What the last attempt met; empty where all is delivered.

    Raises:
        ConfigError: MLflow cannot use the address.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            while delivery.send_batch():
                pass
        except outage_errors() as error:
            reason = one_line(error)
        else:
            return ""
        if time.monotonic() >= end:
            return reason
        time.sleep(FIRST_RETRY_SECONDS)
