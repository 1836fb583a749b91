"""Which run a training command means: a new one, or one that it resumes (`resume=`).

`resume=RUN` has completed the command line before (`vqr1.training.resumed_arguments`).
`resume=auto` composes as usual and resumes what `run_dir` holds; where the command does not give
`run_dir`, the newest unfinished run beside it that has the same configuration.

Not here: what a checkpoint holds (`vqr1.training.callbacks.checkpoints`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from vqr1.config import TrainConfig
from vqr1.data import image_record
from vqr1.distributed.collectives import get_rank
from vqr1.distributed.environment import RankInfo
from vqr1.errors import ConfigError, DataError, Interrupted, RunFaultError, UserError
from vqr1.outputs import TRAINING, check_folder
from vqr1.program import setting
from vqr1.training.run_lookup import (
    AUTO,
    find_run,
    finished_metric,
    gives,
    kept_overrides,
    key_of,
    resume_command,
)
from vqr1.training.run_record import (
    RECORD,
    RunLock,
    RunRecord,
    changed_keys,
    read_record,
    remove_record,
    write_record,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The run that a command works on.

    Attributes:
        run_dir: its folder.
        record: how it was started, and whether it has finished.
        resumed: it was started by an earlier command.
        checkpoint: verified state to continue from; None starts from the beginning. Found once
            all ranks have the run (`startup.py`).
        changes: changed keys that were forced.
    """

    run_dir: Path
    record: RunRecord
    resumed: bool = False
    checkpoint: Path | None = None
    changes: tuple[str, ...] = ()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Forget the run if it cannot start: its folder takes the corrected command.

        Raises:
            UserError: what it meets.
        """
        try:
            yield
        except UserError as error:
            if not self.resumed and error.exit_code == UserError.exit_code:
                remove_record(self.run_dir)
                (self.run_dir / image_record.FILE).unlink(missing_ok=True)
            raise

    def with_data(self, digests: dict[str, str], force: bool) -> Run:
        """Note what the data sets hold; where it was noted before, check that it is the same.

        Args:
            digests: each set's digest by name.
            force: continue with other data, as with changed keys.

        Raises:
            ConfigError: a set holds something else than when the run began.
        """
        saved = self.record.data
        if saved == digests:
            return self
        changes = [
            f"dataset: the content of {name}" for name in saved if saved[name] != digests.get(name)
        ]
        if changes and not force:
            raise ConfigError(
                [
                    f"resume: the data of {self.run_dir} have changed:",
                    *(f"  {change}: other images, MOS, splits or subsets" for change in changes),
                    "give the folder that holds the same, start a new run, or continue all the "
                    "same with resume_force=true",
                ]
            )
        record = replace(self.record, data=digests)
        write_record(self.run_dir, record)
        return replace(self, record=record, changes=(*self.changes, *changes))

    def finish(self) -> None:
        """Note that nothing is left to do."""
        write_record(self.run_dir, replace(self.record, finished=True))


@contextmanager
def claimed_run(
    config: TrainConfig, values: dict[str, Any], overrides: Sequence[str]
) -> Iterator[Run]:
    """Find or start the run of a command and hold its folder.

    Args:
        config: typed configuration.
        values: the same in plain containers.
        overrides: the command line's overrides, kept for a later `resume=`.

    Raises:
        ConfigError: no such run, another process works on it, the folder holds another run or
            something else, or keys changed that change what is computed. Where the data lie may
            change.
    """
    run_dir = Path(config.run_dir)
    if config.resume == AUTO and not gives(overrides, "run_dir"):
        run_dir = _newest_unfinished(run_dir, values) or run_dir
    elif config.resume not in (None, AUTO):
        run_dir = find_run(config.resume, config.logger.tracking_uri)
    if read_record(run_dir) is None:
        check_folder(run_dir, TRAINING, "run_dir")
    with RunLock(run_dir):
        # Read under the lock: another process may just have finished it.
        record = read_record(run_dir)
        if record is None or config.resume is None:
            _check_unused(run_dir, record)
            yield _start(run_dir, values, overrides)
            return
        changes = changed_keys(record.config, values, moved=True)
        if record.finished:
            _check_unchanged(config.resume, run_dir, changes, overrides)
        if changes and not config.resume_force and not record.finished:
            raise ConfigError(
                [
                    f"resume={config.resume}: the configuration of {run_dir} has changed:",
                    *(f"  {change}" for change in changes),
                    "restore these, start a new run, or continue all the same with "
                    "resume_force=true",
                ]
            )
        if changes and not record.finished:
            # The next resume continues with what was forced, not with what the run began with.
            record = replace(record, config=values, overrides=kept_overrides(overrides))
            write_record(run_dir, record)
        yield Run(run_dir, record, True, changes=tuple(changes))


def _start(run_dir: Path, values: dict[str, Any], overrides: Sequence[str]) -> Run:
    record = RunRecord(
        started=datetime.now().astimezone().isoformat(timespec="milliseconds"),
        working_directory=str(Path.cwd()),
        overrides=kept_overrides(overrides),
        config=values,
    )
    write_record(run_dir, record)
    return Run(run_dir, record)


def _newest_unfinished(run_dir: Path, values: dict[str, Any]) -> Path | None:
    """`run_dir` if it holds a run, else the newest unfinished run beside it that fits."""
    if read_record(run_dir) is not None:
        return run_dir
    found = []
    for path in run_dir.resolve().parent.glob(f"*/{RECORD}"):
        try:
            record = read_record(path.parent)
            if record is None or record.finished or changed_keys(record.config, values):
                continue
            lock = RunLock(path.parent)
            if not lock.acquire():
                continue
        except (DataError, OSError) as error:  # damaged, or another user's
            logger.warning("left aside: %s", error)
            continue
        lock.release()
        found.append((datetime.fromisoformat(record.started), path.parent))
    return max(found)[1] if found else None


def _check_unchanged(
    resume: str, run_dir: Path, changes: Sequence[str], overrides: Sequence[str]
) -> None:
    """Check that a command asks nothing else of a finished run.

    Raises:
        ConfigError: it gives keys whose values the run did not have.
    """
    given = {key_of(override) for override in overrides}
    asked = [
        change
        for change in changes
        if any(f"{change.partition(':')[0]}.".startswith(f"{key}.") for key in given)
    ]
    if asked:
        raise ConfigError(
            [
                f"resume={resume}: this run has finished; it cannot resume with other values:",
                *(f"  {change}" for change in asked),
                f"start a new run; {setting('init_from', run_dir)} begins with its weights",
            ]
        )


def _check_unused(run_dir: Path, record: RunRecord | None) -> None:
    if record is not None and not record.finished:
        raise ConfigError(
            [
                f"run_dir={run_dir}: this folder holds an unfinished run; continue with it with "
                f"{setting('resume', run_dir)}, or choose another folder"
            ]
        )
    if record is not None:
        raise ConfigError([f"run_dir={run_dir}: this folder holds a finished run; choose another"])


def finished(run: Run) -> float:
    """The metric of a run that has finished; rank 0 prints that nothing is left to do."""
    if get_rank() == 0:
        print(f"{run.run_dir}: this run has finished; there is nothing to resume")
    return finished_metric(run.run_dir)


def print_how_to_resume(
    run: Run, info: RankInfo, error: Interrupted | RunFaultError, in_sweep: bool
) -> None:
    """Print on rank 0 why a run stopped and how to resume it.

    Args:
        run: the run.
        info: this process among those of the run.
        error: what stopped it.
        in_sweep: its sweep prints how it resumes.
    """
    if get_rank():
        return
    if isinstance(error, Interrupted):
        if in_sweep:
            print(f"stopped by {error.signal_name}", file=sys.stderr)
            return
        print(f"stopped by {error.signal_name}; resume with:", file=sys.stderr)
    else:
        print("stopped; once the cause below is put right, resume with:", file=sys.stderr)
    print(f"  {resume_command(run.run_dir, info)}", file=sys.stderr)
