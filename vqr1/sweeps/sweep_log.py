"""A sweep's own run in MLflow: a journal in its folder, sent as the journals of runs are.

No state of the server stops a sweep. While the server is away, jobs name their parent by its
journal, and `vqr1.tracking.delivery` finds its run once there is one; results are read from the
jobs' folders. At its end the sweep sends what its jobs could not, and gives them their true status.

Not here: reading and closing runs at the server (`parent.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from filelock import Timeout

from vqr1.config import LoggerConfig
from vqr1.durable import write_file
from vqr1.errors import ConfigError
from vqr1.sweeps.folder import SweepFolder, SweepRecord
from vqr1.sweeps.parent import FOLDER_TAG, ParentRun
from vqr1.tracking.delivery import (
    Delivered,
    Delivery,
    journal_reference,
    shown_address,
    write_mark,
)
from vqr1.tracking.events import Metrics, Params, Start, read_events
from vqr1.tracking.git_state import git_tags
from vqr1.tracking.journal import FOLDER, Journal, journal_file, now_ms
from vqr1.tracking.outages import store_reached
from vqr1.tracking.run_log import Tracking, open_tracking, sending
from vqr1.tracking.secrets import masked
from vqr1.tracking.sender import send_all, sender_lock
from vqr1.tracking.store import reading_client, slug

SPACE_LENGTH = 6000
"""Characters of a swept key's values that MLflow takes."""

SEND_SECONDS = 5.0
"""Longest that one job's journal is tried again at the sweep's end."""


class SweepLog:
    """The journal of a sweep, and its way to MLflow.

    Args:
        folder: the sweep's folder.
        tracking: journal and sender.
    """

    def __init__(self, folder: Path, tracking: Tracking) -> None:
        self._folder = folder
        self._tracking = tracking
        # Jobs name the journal before a server has it: it must be there after a power loss.
        tracking.journal.sync()
        self.tracking_uri = tracking.tracking_uri

    @classmethod
    def create(
        cls,
        logger: LoggerConfig,
        folder: Path,
        command: str,
        space: Mapping[str, str],
        config_yaml: str,
    ) -> SweepLog | None:
        """Begin a sweep's run; None without MLflow.

        Args:
            logger: where runs go.
            folder: the sweep's folder.
            command: the command line as typed.
            space: swept keys and their values as typed.
            config_yaml: the configuration that all jobs start from.

        Raises:
            ConfigError: MLflow cannot use the address, or does not answer and `logger.require` is
                set.
        """
        if "mlflow" not in logger.kinds:
            return None
        tags = {
            **git_tags(),
            **logger.tags,
            "vqr1.kind": "sweep",
            "vqr1.command": command,
            FOLDER_TAG: str(folder.resolve()),
        }
        name = logger.run_name or f"sweep {' x '.join(space) or 'of one job'}"
        tracking = open_tracking(logger, folder, name, tags, resume=False)
        # Whole, unlike a run's parameters: the space is nowhere else in MLflow.
        values = {slug(key): masked({key: space[key]})[key][:SPACE_LENGTH] for key in space}
        tracking.journal.append(Params(values=values))
        for file, text in (("config.yaml", config_yaml), ("command.txt", f"{command}\n")):
            write_file(folder / FOLDER / file, text)
            tracking.journal.file(f"{FOLDER}/{file}")
        tracking.sender.notify()
        return cls(folder, tracking)

    @classmethod
    def resume(cls, logger: LoggerConfig, folder: Path, record: SweepRecord) -> SweepLog | None:
        """Continue a sweep's run; None of a sweep without MLflow.

        Args:
            logger: where runs go.
            folder: the sweep's folder.
            record: what is kept of the sweep.

        Raises:
            ConfigError: as `create`.
        """
        if record.tracking_uri is None:
            return None
        if record.parent_run_id is not None and not journal_file(folder).is_file():
            _adopt(logger, folder, record.tracking_uri, record.parent_run_id)
        there = replace(logger, tracking_uri=record.tracking_uri)
        return cls(folder, open_tracking(there, folder, "sweep", {}, resume=True))

    @property
    def run_id(self) -> str | None:
        """The run's id; None while the server does not have it."""
        return self._tracking.sender.run_id

    @property
    def reference(self) -> str:
        """What jobs name as their parent: the run's id, or its journal's."""
        if self.run_id is not None:
            return self.run_id
        starts = [e for _, e in read_events(self._tracking.journal.path) if isinstance(e, Start)]
        return journal_reference(starts[-1].journal_id)

    def parent(self) -> ParentRun | None:
        """The run at its server; None while that does not answer."""
        return _parent(self.tracking_uri, self.run_id)

    def reconcile(self) -> bool:
        """Give the children their true status; False where the server does not answer."""
        return _reconciled(SweepFolder(self._folder), self.parent())

    def report(self, files: Sequence[Path], metrics: Mapping[str, float]) -> None:
        """Log a summary.

        Args:
            files: its files, in the sweep's folder.
            metrics: its metrics; a later summary's replace them.
        """
        for file in files:
            self._tracking.journal.file(file.relative_to(self._folder).as_posix(), "summary")
        if metrics:
            values = dict(metrics)
            self._tracking.journal.append(Metrics(step=0, time=now_ms(), values=values))
        self._tracking.sender.notify()

    def close(
        self, status: Literal["FINISHED", "FAILED", "KILLED"], report: Callable[[str], None]
    ) -> None:
        """End the run, and send what it and its jobs have not sent; a line states what is left."""
        self._tracking.finish(status)
        left = deliver_jobs(SweepFolder(self._folder), self.tracking_uri, self.run_id)
        if left is not None:
            report(f"MLflow does not have all of this sweep ({left}); send it with: "
                   f"{sending(self._folder)}")  # fmt: skip


def deliver_jobs(
    folder: SweepFolder, tracking_uri: str, run_id: str | None, seconds: float = SEND_SECONDS
) -> str | None:
    """Send the journals of a sweep's jobs, and give them their true status.

    Args:
        folder: the sweep.
        tracking_uri: the store.
        run_id: the sweep's run; None while the server does not have it.
        seconds: longest that one journal is tried again.

    Returns:
        Why something is left; None where nothing is.
    """
    parent = _parent(tracking_uri, run_id)
    if parent is None:
        return "the server does not answer"
    for attempt in folder.attempts():
        if not journal_file(attempt.folder).is_file():
            continue
        # A job that is still running sends its journal itself.
        with suppress(Timeout), sender_lock(attempt.folder):
            reason = send_all(Delivery(attempt.folder, tracking_uri), seconds)
            if reason:
                return f"job {attempt.number}: {reason}"
    return None if _reconciled(folder, parent) else "the server does not answer"


def _parent(tracking_uri: str, run_id: str | None) -> ParentRun | None:
    if run_id is None:
        return None
    try:
        with store_reached(tracking_uri):
            return ParentRun(reading_client(tracking_uri), run_id, tracking_uri)
    except ConfigError:
        return None


def _reconciled(folder: SweepFolder, parent: ParentRun | None) -> bool:
    if parent is None:
        return False
    try:
        parent.reconcile_children(folder)
    except ConfigError:
        return False
    return True


def _adopt(logger: LoggerConfig, folder: Path, tracking_uri: str, run_id: str) -> None:
    """A journal for the run of a sweep that an earlier version began without one."""
    journal = Journal(folder)
    journal.start(logger.experiment, {}, tracking_uri)
    mark = Delivered(journal.size, run_id, store=shown_address(tracking_uri))
    journal.close()  # and synced, before the mark counts its bytes
    write_mark(journal.path, mark)
