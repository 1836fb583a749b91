"""Running a sweep: found again or begun, launched, reconciled, summarised.

The sweeper plugins state which jobs there are and Hydra's launchers start them; what this module
adds is that a sweep is one thing with a memory. What a launcher returns is not looked at: a job's
own record states how it ended, also when its launcher did not live to hear of it.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from vqr1.config import LoggerConfig
from vqr1.config.renamed import old_keys
from vqr1.errors import ConfigError, DataError, SweepIncompleteError
from vqr1.outputs import SWEEP, check_folder, remove_unused
from vqr1.program import command_line
from vqr1.sweeps.folder import (
    FINISHED,
    PRUNED,
    WAITING,
    Attempt,
    SweepFolder,
    SweepRecord,
    is_done,
)
from vqr1.sweeps.jobs import SweepJob, differences
from vqr1.sweeps.parent import FOLDER_TAG, ParentRun
from vqr1.sweeps.results import JobResult, read_sweep
from vqr1.sweeps.sweep_log import SweepLog
from vqr1.tracking.store import default_tracking_uri

if TYPE_CHECKING:
    from vqr1.sweeps.report import SweepReport

WAIT_SECONDS = 1.0
"""Between two looks whether a job still runs."""

Launch = Callable[[Sequence[Sequence[str]], int], object]
"""Starts jobs by their overrides, numbered from the second argument, and returns at their end."""


@dataclass(frozen=True)
class SweepPlan:
    """What a command line asks for.

    Attributes:
        key: hash of the command line.
        command: the command line as typed, without secrets.
        base: flat stable values of the configuration that all jobs start from.
        space: the swept keys and their values as typed.
        jobs: the jobs known beforehand (a search adds its own one by one).
        logger: where runs go.
        config_yaml: the configuration that all jobs start from.
        max_failures: failed jobs above which no further job begins; None bears all.
        metric: metric of the summary; None takes the first usual one there is.
        curve: metric of the plots' curves.
        objective: direction and metric of a search, None for a grid.
    """

    key: str
    command: str
    base: dict[str, Any]
    space: dict[str, str]
    jobs: tuple[SweepJob, ...]
    logger: LoggerConfig
    config_yaml: str
    max_failures: int | None
    metric: str | None
    curve: str
    objective: str | None = None


def find_folder(plan: SweepPlan, resume: str, new: Path) -> tuple[SweepFolder, str | None]:
    """The folder of the sweep that a command continues, or the one for a new sweep.

    Args:
        plan: what the command asks for.
        resume: `auto`, `never`, a parent run's id, or a sweep's folder.
        new: folder for a new sweep.

    Returns:
        The folder, and what to report to the user of a sweep that could not be continued.

    Raises:
        ConfigError: the sweep to continue is not there or differs, or `new` holds another sweep or
            something else.
    """
    if resume not in ("auto", "never"):
        return _asked_for(plan, resume), None
    own = SweepFolder(new)
    if resume == "auto":
        places = [own, *map(SweepFolder, sorted(new.parent.glob("*"), reverse=True))]
        for place in places:
            record = _record_beside(place)
            if record is None or record.key != plan.key:
                continue
            changed = _changes(record, plan)
            if not changed:
                return place, None
            if place.path != new:
                note = "; ".join(changed)
                check_folder(new, SWEEP, "hydra.sweep.dir")
                return own, f"the configuration has changed since {place.path} ({note})"
    if own.record is not None:
        _check_version(own, own.record, f"hydra.sweep.dir={new}")
        raise ConfigError(
            [
                f"hydra.sweep.dir={new}: holds another sweep ({own.record.command}); choose "
                "another folder",
                *_changes(own.record, plan),
            ]
        )
    check_folder(new, SWEEP, "hydra.sweep.dir")
    return own, None


def _record_beside(folder: SweepFolder) -> SweepRecord | None:
    """The record of a folder that a sweep may continue; None of one that cannot be read."""
    try:
        return folder.record
    except (OSError, DataError):  # another user's, or another program's
        return None


def _asked_for(plan: SweepPlan, resume: str) -> SweepFolder:
    folder = SweepFolder(Path(resume).expanduser())
    if folder.record is None:
        uri = plan.logger.tracking_uri or default_tracking_uri()
        parent = ParentRun.open(uri, resume)
        tags = parent.client.get_run(resume).data.tags
        folder = SweepFolder(Path(tags.get(FOLDER_TAG, "")))
    record = folder.record
    if record is None:
        raise ConfigError(
            [
                f"sweep.resume={resume}: no sweep is kept at {folder.path}; give the id of a "
                "sweep's parent run, or its folder"
            ]
        )
    _check_version(folder, record, f"sweep.resume={resume}")
    changed = _changes(record, plan)
    if changed:
        raise ConfigError(
            [
                f"sweep.resume={resume}: that sweep was another one ({record.command}); repeat its "
                "command or start a new sweep",
                *changed,
            ]
        )
    return folder


def _check_version(folder: SweepFolder, record: SweepRecord, asked: str) -> None:
    """Refuse a sweep of an earlier version: jobs are known by a hash over the names of keys.

    Raises:
        ConfigError: keys have been renamed since it was begun.
    """
    if old := old_keys(record.base):
        raise ConfigError(
            [
                f"{asked}: an earlier version began this sweep ({', '.join(old)} have been renamed "
                "since), which cannot be resumed; "
                f"`{command_line('summarize', f'folder={folder.path}')}` still shows it; start a "
                "new sweep in another folder"
            ]
        )


def _changes(record: SweepRecord, plan: SweepPlan) -> list[str]:
    """What differs between a recorded sweep and a plan; further values of its keys do not."""
    if old := old_keys(record.base):
        return [f"renamed since: {', '.join(old)}"]
    before, now = ", ".join(record.space), ", ".join(plan.space)
    if set(record.space) != set(plan.space):
        return [f"swept keys: {before} then, {now} now"]
    changed = differences(record.base, plan.base)
    if record.search is not None:
        then = {"objective": record.objective, **record.space}
        changed += differences(then, {"objective": plan.objective, **plan.space})
    if changed:
        return changed
    names = {tuple(sorted(swept.items())): name for name, swept in record.jobs.items()}
    return [
        f"{', '.join(f'{k}={v}' for k, v in job.swept.items())}: composes to another configuration "
        "than then"
        for job in plan.jobs
        if names.get(tuple(sorted(job.swept.items())), job.name) != job.name
    ]


class Sweep:
    """One start of a sweep; a context manager that holds its lock and leaves its parent run true.

    Args:
        folder: the sweep's folder.
        plan: what the command asks for.
        report: prints a line for the user.
        search: settings of a search.
    """

    def __init__(
        self,
        folder: SweepFolder,
        plan: SweepPlan,
        report: Callable[[str], None],
        search: dict[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.report = report
        self._search = search
        self._lock = folder.lock()
        self.log: SweepLog | None = None
        self.first_number = 0

    def __enter__(self) -> Sweep:
        """Take the lock, open the parent run, and reconcile what a dead launcher left.

        Raises:
            ConfigError: another process runs this sweep.
        """
        if not self._lock.acquire():
            raise ConfigError(
                [f"hydra.sweep.dir={self.folder.path}: this sweep is being run by another process"]
            )
        record = self.folder.record
        try:
            self._open(record)
        except BaseException:
            self._lock.release()
            if record is None:
                remove_unused(self.folder.path)
            raise
        return self

    def _open(self, record: SweepRecord | None) -> None:
        self.first_number = self.folder.next_number()
        if record is None:
            self.log = SweepLog.create(
                self.plan.logger,
                self.folder.path,
                self.plan.command,
                self.plan.space,
                self.plan.config_yaml,
            )
        else:
            self.log = SweepLog.resume(self.plan.logger, self.folder.path, record)
        if self.log is not None and record is not None:
            self.log.reconcile()
        self._write_record(record)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Reconcile the children and close the parent run with a true status."""
        stopped = kind is not None and not issubclass(kind, Exception)
        if stopped:
            self.report("the sweep is stopped; the same command again continues with it")
        try:
            if self.log is not None:
                failed: Literal["FAILED", "KILLED"] = "KILLED" if stopped else "FAILED"
                self.log.close("FINISHED" if kind is None else failed, self.report)
                self._keep_run_id()
        finally:
            self._lock.release()

    def pending(self, jobs: Sequence[SweepJob]) -> list[SweepJob]:
        """The jobs that are not done yet."""
        results = self.folder.results()
        return [
            job for job in jobs if job.name not in results or not is_done(results[job.name].outcome)
        ]

    def launch(self, jobs: Sequence[SweepJob], launch: Launch) -> None:
        """Start jobs; returns when none of them can continue.

        A launcher that breaks because a worker died is started again with the jobs that it had not
        come to.
        """
        waiting = list(jobs)
        while waiting:
            number = self.folder.next_number()
            attempts = [self._prepare(job, number + place) for place, job in enumerate(waiting)]
            try:
                launch([job.overrides for job in waiting], number)
                broken = False
            except launcher_errors() as error:
                self.report(f"the launcher lost a job: {type(error).__name__}")
                broken = True
            if self.log is not None:
                self.log.reconcile()
            left = [a.job for a in attempts if a.status == WAITING]
            waiting = left if broken and len(left) < len(waiting) else []

    def results(self) -> list[JobResult]:
        """What every job reached so far; while the server is away, by the jobs' folders."""
        return read_sweep(self.folder, self._parent, list(self.plan.space), self.plan.curve)

    def _parent(self) -> ParentRun | None:
        return None if self.log is None else self.log.parent()

    def await_running(self) -> None:
        """Wait for the jobs that outlived the launcher which started them."""
        printed = False
        while any(attempt.status == "RUNNING" for attempt in self.folder.attempts()):
            if not printed:
                self.report("waiting for jobs that an earlier start left running")
                printed = True
            time.sleep(WAIT_SECONDS)

    def finish(self, missing: int | None = None) -> SweepReport:
        """Write, log and print the summary.

        Args:
            missing: what is not done yet; None for the jobs that are not. A search counts trials:
                one that failed has a job too, and two of equal values share one.

        Raises:
            ConfigError: no finished job has the metric that was asked for.
            SweepIncompleteError: jobs did not finish.
        """
        # Statistics and plots take a second to import: the first job need not wait for them.
        from vqr1.report_page.write import add_report
        from vqr1.sweeps.report import SweepReport, report_metrics, write_report

        sweep = str(self.folder.path.resolve())
        report = SweepReport.build(self.plan.command, self.results(), self.plan.metric, sweep)
        files = write_report(report, self.folder.path, self.plan.curve)
        page = add_report(self.folder.path)
        files += [page] if page is not None else []
        if self.log is not None:
            self.log.report(files, report_metrics(report))
        self.report(f"\n{report.markdown()}\nsummary: {files[0]}")
        if self.log is not None and self.log.run_id is not None:
            self.report(f"MLflow parent run {self.log.run_id}")
        done = sum(report.counts.get(status, 0) for status in (FINISHED, PRUNED))
        jobs = missing is None
        missing = len(report.jobs) - done if missing is None else missing
        if missing > 0:
            what = f"of {len(report.jobs)} jobs" if jobs else "trials of the search"
            raise SweepIncompleteError(
                f"{missing} {what} did not finish; the same command again makes only what is "
                "missing"
            )
        return report

    def _prepare(self, job: SweepJob, number: int) -> Attempt:
        attempt = Attempt(
            number,
            self.folder.path / str(number),
            job,
            None if self.log is None else self.log.reference,
            self.first_number,
            self.plan.max_failures,
        )
        self.folder.prepare(attempt)
        return attempt

    def _keep_run_id(self) -> None:
        """Record the run that the server did not have when the sweep began."""
        record = self.folder.record
        if self.log is not None and record is not None and self.log.run_id is not None:
            self.folder.write(replace(record, parent_run_id=self.log.run_id))

    def add_jobs(self, jobs: Sequence[SweepJob]) -> None:
        """Put jobs into the sweep's record."""
        record = self.folder.record
        assert record is not None
        self.folder.write(replace(record, jobs=record.jobs | {j.name: j.swept for j in jobs}))

    def _write_record(self, before: SweepRecord | None) -> None:
        jobs = {} if before is None else before.jobs
        # The command that began it finds it again, whichever has continued it.
        begun = self.plan if before is None else before
        record = SweepRecord(
            begun.key,
            begun.command,
            self.plan.base,
            self.plan.space,
            jobs | {job.name: job.swept for job in self.plan.jobs},
            None if self.log is None else self.log.tracking_uri,
            None if self.log is None else self.log.run_id,
            self._search,
            self.plan.objective,
        )
        self.folder.write(record)


def launcher_errors() -> tuple[type[Exception], ...]:
    """What launchers raise when a job's process dies under them."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    return (concurrent.futures.BrokenExecutor, UncompletedJobError, FailedJobError)
