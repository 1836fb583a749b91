"""A sweep's folder: the record of its jobs that survives every kind of end.

    <folder>/sweep.json         command, search space, base configuration, MLflow parent, jobs
    <folder>/<n>/job.json       what attempt n is to train; written before it starts
    <folder>/<n>/outcome.json   how it ended; written by the job itself, absent while it runs or
                                where it was killed
    <folder>/locks/<job>/       held by the process that trains a job, released by its death;
                                `locks/sweep` by the process that runs the sweep

An attempt's folder is never used twice. Files are written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vqr1.durable import make_folder, write_file
from vqr1.errors import DataError
from vqr1.sweeps.jobs import SweepJob
from vqr1.training.run_record import RunLock

SWEEP_FILE = "sweep.json"
JOB_FILE = "job.json"
OUTCOME_FILE = "outcome.json"

FINISHED = "FINISHED"
FAILED = "FAILED"
PRUNED = "PRUNED"
KILLED = "KILLED"
WAITING = "WAITING"


@dataclass(frozen=True)
class SweepRecord:
    """Contents of `sweep.json`.

    Attributes:
        key: hash of the command line that began the sweep.
        command: that command line as typed.
        base: flat stable values of the configuration that all jobs start from.
        space: the swept keys and their values as typed.
        jobs: name of every job and its swept values.
        tracking_uri: MLflow store of the parent run, None without MLflow.
        parent_run_id: MLflow parent run; None without MLflow, and until its server has it.
        search: settings of a search, None for a grid.
        objective: direction and metric of a search, None for a grid.
    """

    key: str
    command: str
    base: dict[str, Any]
    space: dict[str, str]
    jobs: dict[str, dict[str, str]]
    tracking_uri: str | None = None
    parent_run_id: str | None = None
    search: dict[str, Any] | None = None
    objective: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        status: FINISHED, FAILED or PRUNED.
        value: what the command returned, None unless finished.
        error: last line of the error, None unless failed.
        seconds: wall time.
    """

    status: str
    value: float | None = None
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """One try at a job.

    Attributes:
        number: of its folder.
        folder: its folder, the job's run directory.
        job: what it trains.
        parent_run_id: MLflow parent run, or its journal where only that is known; None without
            MLflow.
        first_number: first attempt of the start that this one belongs to.
        max_failures: failed attempts of this start above which no other begins; None bears all.
    """

    number: int
    folder: Path
    job: SweepJob
    parent_run_id: str | None = None
    first_number: int = 0
    max_failures: int | None = None

    @classmethod
    def read(cls, folder: Path) -> Attempt | None:
        """The attempt whose run directory this is, None for a run of its own."""
        file = folder / JOB_FILE
        if not file.is_file():
            return None
        values = json.loads(file.read_text(encoding="utf-8"))
        job = values.pop("job")
        job["overrides"] = tuple(job["overrides"])
        return cls(int(folder.name), folder, SweepJob(**job), **values)

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs and where it was killed."""
        file = self.folder / OUTCOME_FILE
        return Outcome(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    @property
    def started_file(self) -> Path:
        """Exists once the job has begun."""
        return self.folder / "started"

    @property
    def status(self) -> str:
        """FINISHED, FAILED or PRUNED; RUNNING, KILLED or WAITING where nothing was written."""
        if self.outcome is None:
            if not self.started_file.exists():
                return WAITING
            if is_running(self):
                return "RUNNING"
        # Read again: it may have been written until the lock was found free.
        outcome = self.outcome
        return KILLED if outcome is None else outcome.status

    def lock(self) -> RunLock:
        """Held by the process that trains this job, whichever attempt at it."""
        return RunLock(self.folder.parent / "locks" / self.job.name)


class SweepFolder:
    """Reads and writes one sweep's folder.

    Args:
        path: the folder; need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def record(self) -> SweepRecord | None:
        """The sweep's record, None where the folder holds no sweep.

        Raises:
            DataError: the file is damaged, or of another program.
        """
        file = self.path / SWEEP_FILE
        if not file.is_file():
            return None
        try:
            return SweepRecord(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise DataError(f"{file}: not the record of a sweep; choose another folder") from error

    def write(self, record: SweepRecord) -> None:
        """Write the record."""
        make_folder(self.path, above=True)
        write_json(self.path / SWEEP_FILE, asdict(record))

    def attempts(self) -> list[Attempt]:
        """Every attempt so far, by number."""
        folders = [path for path in self.path.glob("*") if path.name.isdigit()]
        read = [Attempt.read(path) for path in sorted(folders, key=lambda path: int(path.name))]
        return [attempt for attempt in read if attempt is not None]

    def results(self) -> dict[str, Attempt]:
        """By job name its attempt that counts: the one that is done, else the latest."""
        chosen: dict[str, Attempt] = {}
        for attempt in self.attempts():
            before = chosen.get(attempt.job.name)
            if before is None or not is_done(before.outcome):
                chosen[attempt.job.name] = attempt
        return chosen

    def next_number(self) -> int:
        """Number of the next attempt: above every folder there is."""
        numbers = [int(path.name) for path in self.path.glob("*") if path.name.isdigit()]
        return max(numbers, default=-1) + 1

    def prepare(self, attempt: Attempt) -> None:
        """Make the folder of an attempt that is about to be launched."""
        make_folder(attempt.folder, exist_ok=False)
        values = asdict(attempt)
        del values["number"], values["folder"]
        write_json(attempt.folder / JOB_FILE, values)

    def lock(self) -> RunLock:
        """Held by the one process that runs the sweep."""
        return RunLock(self.path / "locks" / "sweep")


def is_done(outcome: Outcome | None) -> bool:
    """Whether nothing is left to do for a job: trained to its end, or given up by the search."""
    return outcome is not None and outcome.status in (FINISHED, PRUNED)


def is_running(attempt: Attempt) -> bool:
    """Whether a living process trains this attempt's job."""
    lock = attempt.lock()
    if not lock.acquire():
        return True
    lock.release()
    return False


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    # An address may hold a password.
    write_file(path, json.dumps(values, indent=2, default=str) + "\n", private=True)
