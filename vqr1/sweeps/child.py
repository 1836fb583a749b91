"""The job's side of a sweep: trained once, whoever else tries, and its end written down.

A run directory that holds `job.json` belongs to a sweep, whichever launcher started it. Its process
holds the job's lock while it trains: a second attempt at the same job, such as one of a sweep that
was started again while a worker of the first still lives, waits and then finds it done.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vqr1.durable import write_file
from vqr1.errors import PrunedError
from vqr1.sweeps.folder import (
    FAILED,
    FINISHED,
    OUTCOME_FILE,
    PRUNED,
    Attempt,
    Outcome,
    SweepFolder,
    is_done,
    write_json,
)

if TYPE_CHECKING:
    from lightning import Callback

logger = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
"""Between two looks whether another process still trains the same job."""


class JobRecord:
    """Writes how an attempt ended, also when it raises.

    Attributes:
        value: what the command returned; set by the caller.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.value: float | None = None
        self._started = time.monotonic()

    def __enter__(self) -> JobRecord:
        self.attempt.started_file.touch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write `outcome.json`; an interrupt leaves none, so that the job runs again."""
        if kind is not None and not issubclass(kind, Exception):
            return
        seconds = round(time.monotonic() - self._started, 1)
        if error is None:
            outcome = Outcome(FINISHED, self.value, None, seconds)
        elif isinstance(error, PrunedError):
            outcome = Outcome(PRUNED, None, None, seconds)
        else:
            outcome = Outcome(FAILED, None, last_line(error), seconds)
            text = "".join(traceback.format_exception(error))
            write_file(self.attempt.folder / "error.txt", text)
        write_json(self.attempt.folder / OUTCOME_FILE, asdict(outcome))


def run_swept(run_dir: Path, task: Callable[[], float | None]) -> float | None:
    """Train one job of a sweep, unless another attempt at it has done so.

    Args:
        run_dir: the job's run directory; holds `job.json`.
        task: trains and returns the command's metric.

    Returns:
        The metric, of this attempt or of the one that was quicker.
    """
    attempt = Attempt.read(run_dir)
    assert attempt is not None
    lock = attempt.lock()
    while not lock.acquire():
        time.sleep(WAIT_SECONDS)
    try:
        before = SweepFolder(attempt.folder.parent).results().get(attempt.job.name)
        if before is not None and is_done(before.outcome):
            assert before.outcome is not None
            logger.info("job %s is done already in %s", attempt.job.name, before.folder)
            return before.outcome.value
        if stopped(attempt):
            return None
        with JobRecord(attempt) as record:
            record.value = task()
        return record.value
    finally:
        lock.release()


def child_tags(run_dir: Path) -> dict[str, str]:
    """MLflow tags that make a run the child of its sweep; none for a run of its own."""
    attempt = Attempt.read(run_dir)
    if attempt is None or attempt.parent_run_id is None:
        return {}
    return {
        "mlflow.parentRunId": attempt.parent_run_id,
        "vqr1.job": attempt.job.name,
        "vqr1.job_number": str(attempt.number),
        **attempt.job.swept,
    }


def trial_callbacks(run_dir: Path, metric: str) -> list[Callback]:
    """Callbacks that a search's job needs; none for any other run.

    Args:
        run_dir: the job's run directory.
        metric: reported to the search at each validation.
    """
    attempt = Attempt.read(run_dir)
    if attempt is None or attempt.job.trial is None:
        return []
    # Optuna takes a second to import; only the jobs of a search pay for it.
    from vqr1.sweeps.search import pruning_callback

    return [pruning_callback(attempt, metric)]


def last_line(error: BaseException) -> str:
    """Last line of what Python prints for an error."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def stopped(attempt: Attempt) -> bool:
    """Whether so many jobs of this start have failed that no further one may begin."""
    if attempt.max_failures is None:
        return False
    attempts = SweepFolder(attempt.folder.parent).attempts()
    ended = [a.outcome for a in attempts if a.number >= attempt.first_number]
    failed = sum(outcome is not None and outcome.status == FAILED for outcome in ended)
    return failed > attempt.max_failures
