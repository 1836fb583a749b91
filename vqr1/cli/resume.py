"""Which run a training command means: a new one, or one that goes on (`resume=`).

`python train.py resume=RUN` takes a run directory or an MLflow run id, composes the configuration
from the overrides that the run was started with, and lets the command's own override them.
`resume=auto` composes as usual and goes on with the newest unfinished run beside `run_dir` that has
the same configuration.

What it leaves out: what a checkpoint holds (`vqr1.training.callbacks.checkpoints`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from vqr1.config import TrainConfig
from vqr1.errors import ConfigError, DataError, UserError
from vqr1.training.checkpoint_files import newest_intact
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

AUTO = "auto"
RUN_DIR_TAG = "vqr1.run_dir"
"""Tag of an MLflow run: where its run directory is."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Run:
    """The run that a command works on.

    Attributes:
        run_dir: its folder.
        record: how it was started, and whether it has finished.
        resumed: it was started by an earlier command.
        checkpoint: verified state to go on from; None starts from the beginning.
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
            raise

    def finish(self) -> None:
        """Note that nothing is left to do."""
        write_record(self.run_dir, replace(self.record, finished=True))


def with_saved_overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments of `resume=RUN`, completed by those that the run was started with.

    Args:
        arguments: the command line without the program. Without `resume=`, with `resume=auto`, and
            in a multirun they are returned as they are.

    Raises:
        ConfigError: there is no such run, or `run_dir` is given too.
    """
    own = {_key(argument): argument.partition("=")[2] for argument in arguments if "=" in argument}
    wanted = own.get("resume", "null").strip("'\"")
    if wanted in ("null", "", AUTO) or {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    if "run_dir" in own:
        raise ConfigError(
            [f"run_dir={own['run_dir']}: resume={wanted} goes on in its own folder; leave it out"]
        )
    run_dir = find_run(wanted, own.get("logger.tracking_uri"))
    record = _record_of(run_dir)
    saved = [o for o in record.overrides if _key(o) not in own and _key(o) not in _PLACES]
    rest = [argument for argument in arguments if _key(argument) != "resume"]
    place = quoted(run_dir)
    return [*saved, *rest, f"resume={place}", f"run_dir={place}", f"hydra.run.dir={place}"]


def find_run(name: str, tracking_uri: str | None = None) -> Path:
    """The directory of a run.

    Args:
        name: a run directory or an MLflow run id.
        tracking_uri: where MLflow looks the id up; None is `mlflow.db` in the working directory.

    Raises:
        ConfigError: there is no such run.
    """
    folder = Path(name)
    if (folder / RECORD).is_file():
        return folder.resolve()
    if _RUN_ID.fullmatch(name) is None:
        raise ConfigError(
            [f"resume={name}: no run directory ({RECORD} is missing) and no MLflow run id"]
        )
    from vqr1.tracking.delivery import outage_errors
    from vqr1.tracking.store import default_tracking_uri, one_line, quick_client

    uri = tracking_uri or default_tracking_uri()
    try:
        tags = quick_client(uri).get_run(name).data.tags
    except outage_errors() as error:
        raise ConfigError([f"resume={name}: {one_line(error)}; give the run's folder"]) from error
    if RUN_DIR_TAG not in tags or not (Path(tags[RUN_DIR_TAG]) / RECORD).is_file():
        raise ConfigError(
            [f"resume={name}: its folder {tags.get(RUN_DIR_TAG)} is not here; give the folder"]
        )
    return Path(tags[RUN_DIR_TAG])


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
        ConfigError: no such run, another process works on it, the folder holds another run, or
            keys changed that change what is computed.
    """
    run_dir = Path(config.run_dir)
    if config.resume == AUTO:
        run_dir = _newest_unfinished(run_dir, values) or run_dir
    elif config.resume is not None:
        run_dir = find_run(config.resume, config.logger.tracking_uri)
    with RunLock(run_dir):
        # Read under the lock: another process may just have finished it.
        record = read_record(run_dir)
        if record is None or config.resume is None:
            _check_unused(run_dir, record)
            yield _start(run_dir, values, overrides)
            return
        changes = changed_keys(record.config, values)
        if changes and not config.resume_force and not record.finished:
            raise ConfigError(
                [
                    f"resume={config.resume}: the configuration of {run_dir} has changed:",
                    *(f"  {change}" for change in changes),
                    "restore these, start a new run, or go on all the same with resume_force=true",
                ]
            )
        if changes and not record.finished:
            # The next resume goes on with what was forced, not with what the run began with.
            record = replace(record, config=values, overrides=_kept(overrides))
            write_record(run_dir, record)
        checkpoint = newest_intact(run_dir / "checkpoints", "step")
        yield Run(run_dir, record, True, checkpoint, tuple(changes))


def _start(run_dir: Path, values: dict[str, Any], overrides: Sequence[str]) -> Run:
    record = RunRecord(
        started=datetime.now().astimezone().isoformat(timespec="milliseconds"),
        working_directory=str(Path.cwd()),
        overrides=_kept(overrides),
        config=values,
    )
    write_record(run_dir, record)
    return Run(run_dir, record)


def _kept(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(override for override in overrides if _key(override) not in _PLACES)


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


def _check_unused(run_dir: Path, record: RunRecord | None) -> None:
    if record is not None and not record.finished:
        raise ConfigError(
            [
                f"run_dir={run_dir}: this folder holds an unfinished run; go on with it with "
                f"resume={run_dir}, or choose another folder"
            ]
        )
    if record is not None or (run_dir / "summary.json").exists():
        raise ConfigError([f"run_dir={run_dir}: this folder holds a finished run; choose another"])


def _record_of(run_dir: Path) -> RunRecord:
    record = read_record(run_dir)
    if record is None:
        raise ConfigError([f"resume={run_dir}: no run directory ({RECORD} is missing)"])
    return record


_PLACES = ("resume", "resume_force", "run_dir", "hydra.run.dir")
"""Keys that say where a run is and not what it is."""


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def quoted(path: Path) -> str:
    """A path as Hydra's override grammar takes any."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
