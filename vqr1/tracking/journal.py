"""The journal: what a run reports to the tracking server is first a line in its run directory.

The training process only appends to a file, so that no state of the server can stop or slow it.
Lines are written at once, without a buffer: a killed process loses none. They are synced to the
disk before they are sent (`vqr1.tracking.delivery`), so the server never knows more than the
journal even after a power loss; before a checkpoint is written, since the steps that it holds are
never logged again; and at the end. A disk without space does not stop the run either: lines wait in
memory, up to a limit, until they fit.

Each key is kept once for a step, each parameter once in all: a resumed run does some steps again,
and logs them again.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from vqr1.durable import make_folder, sync
from vqr1.tracking.events import (
    Event,
    File,
    Image,
    Metrics,
    Params,
    Start,
    Status,
    Tags,
    encode,
    read_events,
)
from vqr1.tracking.secrets import masked_uri
from vqr1.tracking.store import slug

FOLDER = "tracking"
"""Folder of the journal in a run directory."""

WAITING_BYTES = 16 * 1024 * 1024
"""Lines kept in memory while the disk takes none; what comes beyond is lost and counted."""

PARAM_LENGTH = 250
"""Characters of a parameter that are kept; the whole configuration is a file of the run."""

JOURNAL_TAG = "vqr1.journal"


def journal_file(run_dir: Path) -> Path:
    """Where the journal of a run directory is."""
    return run_dir / FOLDER / "journal.jsonl"


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


class Journal:
    """Appends events of one run.

    Args:
        run_dir: the run's folder; the journal is made in it where there is none.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.path = journal_file(run_dir)
        make_folder(self.path.parent)
        self.lost = 0
        self._waiting = b""
        self._last_step: dict[str, int] = {}
        self._steps: dict[str, set[int]] = {}
        self._params: set[str] = set()
        # What a library states in an error may hold more than is known to be secret.
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            # The line that a killed process left becomes a damaged one that readers pass over.
            self._waiting = b"\n"

    def start(self, experiment: str, tags: Mapping[str, str], tracking_uri: str) -> int:
        """Begin a new MLflow run.

        Returns:
            Byte offset from which on the run has been sent.
        """
        self._steps, self._params, self._last_step = {}, set(), {}
        journal_id = uuid.uuid4().hex
        self.append(
            Start(
                journal_id=journal_id,
                experiment=experiment,
                tags={**_slugged(tags), JOURNAL_TAG: journal_id},
                tracking_uri=masked_uri(tracking_uri),
                time=now_ms(),
            )
        )
        return self.size

    def resume(self) -> int | None:
        """Continue with the last MLflow run of the journal.

        Returns:
            Byte offset from which on the run has been sent; None where the journal holds no run.
        """
        started: int | None = None
        for offset, event in read_events(self.path):
            if isinstance(event, Start):
                started = offset
                self._steps, self._params = {}, set()
            elif isinstance(event, Metrics):
                for key in event.values:
                    self._steps.setdefault(key, set()).add(event.step)
            elif isinstance(event, Params):
                self._params.update(event.values)
        if started is not None:
            self.status("RUNNING")
        return started

    @property
    def size(self) -> int:
        """Bytes written."""
        return os.fstat(self._file).st_size

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Metrics at a step (0 if none); a key that has this step already is excluded."""
        at = step or 0
        new = {}
        for name, value in values.items():
            key = slug(name)
            if self._last_step.get(key) == at or at in self._steps.get(key, ()):
                continue
            self._last_step[key] = at
            new[key] = float(value)
        if new:
            self.append(Metrics(step=at, time=now_ms(), values=new))

    def params(self, values: Mapping[str, object]) -> None:
        """Parameters; one that is there already is excluded, because MLflow never changes one."""
        new = {slug(key): str(value)[:PARAM_LENGTH] for key, value in values.items()}
        new = {key: value for key, value in new.items() if key not in self._params}
        self._params.update(new)
        if new:
            self.append(Params(values=new))

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags; a later value replaces an earlier one."""
        self.append(Tags(values=_slugged(values)))

    def file(self, path: str, folder: str | None = None) -> None:
        """A file of the run directory, by its path in it, becomes an artifact in `folder`."""
        self.append(File(path=path, folder=folder))

    def image(self, path: str, key: str, step: int) -> None:
        """An image of the run directory becomes a step of the series `key`."""
        self.append(Image(path=path, key=key, step=step, time=now_ms()))

    def status(self, status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]) -> None:
        """The run's status from here on."""
        self.append(Status(status=status, time=now_ms()))

    def append(self, event: Event) -> None:
        """Write one event; never raises where the disk is full, and counts what it must drop."""
        line = encode(event)
        if len(self._waiting) + len(line) > WAITING_BYTES:
            self.lost += 1
        else:
            self._waiting += line
        self.flush()

    def flush(self) -> bool:
        """Write what waits; False where the disk does not take it now."""
        try:
            while self._waiting:
                # A part that was written stays written: the rest of the line follows it later.
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]
        except OSError:
            return False
        return True

    def sync(self) -> None:
        """Return once all that was written is on the disk, if that takes it."""
        self.flush()
        with suppress(OSError):
            sync(self.path)

    def waiting(self) -> int:
        """Events that the disk has not taken, and those that were dropped."""
        return self._waiting.count(b"\n") + self.lost

    def forget(self, size: int) -> None:
        """Cut the file to a former size: nothing came of the run that was begun."""
        os.ftruncate(self._file, size)
        self.close()

    def close(self) -> None:
        """Close the file, which is on the disk then."""
        self.sync()
        os.close(self._file)


def _slugged(values: Mapping[str, str]) -> dict[str, str]:
    return {slug(key): str(value) for key, value in values.items()}
