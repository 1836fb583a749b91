"""One run's log: files in the run directory always, MLflow when configured.

Every table, figure and text is first a file in the run directory, so that a run without MLflow
loses nothing; with MLflow the same file becomes an artifact. Nothing here talks to the server:
what it shall know goes to the run's journal (`vqr1.tracking.journal`), and a thread sends it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import yaml

from vqr1.config import LoggerConfig
from vqr1.config.plain import flatten
from vqr1.durable import make_folder, replacing, write_file
from vqr1.errors import ConfigError, PrunedError
from vqr1.program import command_line
from vqr1.tracking.environment import FILE as ENVIRONMENT
from vqr1.tracking.environment import environment
from vqr1.tracking.journal import FOLDER, Journal
from vqr1.tracking.other_loggers import (
    Ending,
    EndingLogger,
    logger_problems,
    open_tensorboard,
    open_wandb,
)
from vqr1.tracking.secrets import MASK, masked, masked_uri
from vqr1.tracking.store import database_file, default_tracking_uri, slug, whole_address

if TYPE_CHECKING:
    # Lightning takes seconds to import; a command that keeps no metrics does without it.
    import pandas as pd
    from lightning.pytorch.loggers import Logger
    from matplotlib.figure import Figure

    from vqr1.tracking.journal_metrics import JournalMetrics
    from vqr1.tracking.sender import Sender

log = logging.getLogger(__name__)

INTERRUPTED_SECONDS = 5.0
"""Longest wait for the server at the end of a run that was interrupted: who interrupts, or a
cluster's scheduler, is about to kill the process."""

_TABLES_TAG = "mlflow.loggedArtifacts"
_TAG_LENGTH = 5000


class Tracking:
    """A run's journal and the thread that sends it.

    Args:
        journal: takes the events.
        sender: carries them to MLflow.
        tracking_uri: the MLflow store.
        wait_seconds: longest wait for the server at the run's end.
    """

    def __init__(
        self, journal: Journal, sender: Sender, tracking_uri: str, wait_seconds: float
    ) -> None:
        self.journal = journal
        self.sender = sender
        self.tracking_uri = tracking_uri
        self.wait_seconds = wait_seconds
        self._tables: list[str] = []

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the MLflow run."""
        self.journal.tags(masked(dict(values)))
        self.sender.notify()

    def file(self, name: str) -> None:
        """Make a file of the run directory an artifact of the same path."""
        parent = Path(name).parent.as_posix()
        self.journal.file(name, None if parent == "." else parent)
        self.sender.notify()

    def image(self, name: str, key: str, step: int) -> None:
        """Make an image of the run directory a step of the series `key`."""
        self.journal.image(name, key, step)
        self.sender.notify()

    def table(self, name: str, table: pd.DataFrame) -> None:
        """Keep a table in the form that MLflow's page shows."""
        path = self.journal.run_dir / FOLDER / "tables" / f"{name}.json"
        make_folder(path.parent)
        whole = table.astype(object).where(table.notna(), None)
        write_file(path, whole.to_json(orient="split", index=False, date_format="iso"))
        parent = Path(name).parent.as_posix()
        self.journal.file(
            path.relative_to(self.journal.run_dir).as_posix(), None if parent == "." else parent
        )
        self._tables.append(f"{name}.json")
        shown = [{"path": path, "type": "table"} for path in dict.fromkeys(self._tables)]
        while len(json.dumps(shown)) > _TAG_LENGTH:
            shown.pop(0)
        self.tags({_TABLES_TAG: json.dumps(shown)})

    def finish(self, status: Ending) -> None:
        """End the run, deliver the rest for a bounded time, state what is left."""
        self.journal.status(status)
        self.journal.flush()
        wait = min(self.wait_seconds, INTERRUPTED_SECONDS)
        left = self.sender.close(self.wait_seconds if status != "KILLED" else wait)
        lost = self.journal.waiting()
        self.journal.close()
        if lost:
            log.warning(
                "%s: the disk took no more, %d events for MLflow are lost", self.journal.path, lost
            )
        if left.events:
            log.warning(
                "MLflow: %d events of this run are not delivered (%s); they are kept, send them "
                "with: %s",
                left.events,
                left.reason,
                sending(self.journal.run_dir),
            )


def sending(run_dir: Path) -> str:
    """The command that sends what of a run is not delivered."""
    return command_line("sync", str(run_dir))


class RunLog:
    """Writes what a run produces.

    Args:
        run_dir: folder for files.
        loggers: take the metrics; Lightning's where it trains.
        tracking: the run's way to MLflow; None without MLflow.
    """

    def __init__(
        self,
        run_dir: Path,
        loggers: Sequence[Logger | JournalMetrics] = (),
        tracking: Tracking | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.loggers = tuple(loggers)
        self._tracking = tracking
        self._open = True
        make_folder(run_dir, above=True)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the run with a true status, however it ended."""
        if kind is None:
            self.finish("FINISHED")
        else:
            # Lightning turns an interrupt into SystemExit.
            killed = issubclass(kind, KeyboardInterrupt | SystemExit | PrunedError)
            self.finish("KILLED" if killed else "FAILED")

    @property
    def mlflow_run_id(self) -> str | None:
        """The MLflow run's id; None without MLflow, and while its server was never reached."""
        return None if self._tracking is None else self._tracking.sender.run_id

    @property
    def tracking_uri(self) -> str | None:
        """Address of the MLflow store, without passwords; None without MLflow."""
        return None if self._tracking is None else masked_uri(self._tracking.tracking_uri)

    def config(self, config_yaml: str, values: Mapping[str, Any]) -> None:
        """Keep the configuration as `config.yaml` and, under dotted keys, as parameters.

        What the run runs with is kept beside it, as `environment.json`.

        Secrets are masked in both. Parameters are cut after 250 characters; the file holds them
        whole.
        """
        plain = yaml.safe_load(config_yaml)
        hidden = masked(plain)
        if hidden != plain:
            config_yaml = yaml.safe_dump(hidden, sort_keys=False, allow_unicode=True)
        self.text("config.yaml", config_yaml)
        self.text(ENVIRONMENT, json.dumps(environment(), indent=1) + "\n")
        flat = flatten(masked(dict(values)), keep_empty=False)
        parameters = {slug(key): str(value) for key, value in flat.items()}
        for logger in self.loggers:
            logger.log_hyperparams(dict(parameters))

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at a step."""
        for logger in self.loggers:
            logger.log_metrics({slug(key): value for key, value in values.items()}, step=step)
            logger.save()

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the MLflow run."""
        if self._tracking is not None:
            self._tracking.tags(values)

    def text(self, name: str, content: str) -> Path:
        """Write a text file `name` (a relative path)."""
        path = self._path(name)
        # Whole or not at all: whether a run has a summary states whether it has finished.
        write_file(path, content)
        return self._artifact(path, name)

    def table(self, name: str, table: pd.DataFrame) -> Path:
        """Write `name`.csv; in MLflow also as a table that its page shows."""
        path = self._path(f"{name}.csv")
        write_file(path, table.to_csv(index=False))
        if self._tracking is not None:
            self._tracking.table(name, table)
        return self._artifact(path, f"{name}.csv")

    def plot(self, name: str, figure: Figure) -> Path:
        """Write `name`.png."""
        path = self._path(f"{name}.png")
        with replacing(path) as aside:
            figure.savefig(aside, format="png", dpi=120, bbox_inches="tight")
        return self._artifact(path, f"{name}.png")

    def plot_of_step(self, key: str, figure: Figure, step: int) -> Path:
        """Write `key`_step_`step`.png; in MLflow also a step of the series of images `key`."""
        name = f"{key}_step_{step:06d}"
        path = self.plot(name, figure)
        if self._tracking is not None:
            self._tracking.image(f"{name}.png", key, step)
        return path

    def summary(self, values: Mapping[str, Any]) -> Path:
        """Write `summary.json`: what a script that started this run wants to read."""
        return self.text("summary.json", json.dumps(values, indent=2, allow_nan=False) + "\n")

    def keep(self, name: str) -> Path:
        """Put a file that lies in the run directory to the run's artifacts.

        Args:
            name: its path, relative to the run directory.
        """
        return self._artifact(self.run_dir / name, name)

    def finish(self, status: Ending) -> None:
        """Close the run with an MLflow status; once is enough."""
        if not self._open:
            return
        self._open = False
        for logger in self.loggers:
            logger.save()
            if isinstance(logger, EndingLogger):
                logger.end(status)
        if self._tracking is not None:
            self._tracking.finish(status)

    def _path(self, name: str) -> Path:
        path = self.run_dir / name
        make_folder(path.parent)
        return path

    def _artifact(self, path: Path, name: str) -> Path:
        if self._tracking is not None:
            self._tracking.file(name)
        return path


class NoRunLog(RunLog):
    """The log of a process that only helps another, which writes everything."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)

    def text(self, name: str, content: str) -> Path:
        """Write nothing."""
        return self.run_dir / name

    def table(self, name: str, table: pd.DataFrame) -> Path:
        """Write nothing."""
        return self.run_dir / f"{name}.csv"

    def plot(self, name: str, figure: Figure) -> Path:
        """Write nothing."""
        return self.run_dir / f"{name}.png"

    def plot_of_step(self, key: str, figure: Figure, step: int) -> Path:
        """Write nothing."""
        return self.run_dir / f"{key}_step_{step:06d}.png"


def open_run_log(
    config: LoggerConfig,
    run_dir: Path,
    default_name: str,
    tags: Mapping[str, str] | None = None,
    resume: bool = False,
    *,
    trains: bool = False,
) -> RunLog:
    """Start logging a run.

    Args:
        config: which logger.
        run_dir: the run's folder.
        default_name: name of the run where the configuration gives none.
        tags: tags beside those of the configuration; the MLflow run has them from its creation on.
        resume: continue with the MLflow run that the folder's journal holds, if there is one: steps
            and parameters that it has are not logged again.
        trains: its loggers are for Lightning's trainer, all of them of Lightning's class.

    Raises:
        ConfigError: MLflow cannot use the address, or does not answer and `logger.require` is set;
            a logger's package is not installed; wandb cannot begin a run.
    """
    if config.name == "none":
        return RunLog(run_dir)
    if problems := logger_problems(config):
        raise ConfigError(problems)
    name = slug(config.run_name or default_name)
    every = masked({**(tags or {}), **config.tags})
    loggers: list[Logger] = []
    if "csv" in config.kinds:
        from vqr1.tracking.loggers import CsvMetricsLogger

        loggers.append(CsvMetricsLogger(run_dir, resume))
    if "tensorboard" in config.kinds:
        loggers.append(open_tensorboard(run_dir, resume))
    if "wandb" in config.kinds:
        loggers.append(open_wandb(config, run_dir, name, every, resume))
    if "mlflow" not in config.kinds:
        return RunLog(run_dir, loggers)
    try:
        tracking = open_tracking(config, run_dir, name, {**(tags or {}), **config.tags}, resume)
    except BaseException:
        RunLog(run_dir, loggers).finish("FAILED")
        raise
    return RunLog(run_dir, [_journal_logger(tracking, trains), *loggers], tracking)


def _journal_logger(tracking: Tracking, trains: bool) -> Logger | JournalMetrics:
    if trains:
        from vqr1.tracking.loggers import JournalLogger

        return JournalLogger(tracking.journal, tracking.sender)
    from vqr1.tracking.journal_metrics import JournalMetrics

    return JournalMetrics(tracking.journal, tracking.sender)


def open_tracking(
    config: LoggerConfig, run_dir: Path, name: str, tags: Mapping[str, str], resume: bool
) -> Tracking:
    """A journal and its sender.

    Args:
        config: where to, and how long to wait.
        run_dir: folder of the journal.
        name: of the MLflow run.
        tags: of the MLflow run.
        resume: continue with the run that the journal holds.

    Raises:
        ConfigError: MLflow cannot use the address, or does not answer and `logger.require` is set;
            the address of a run that is resumed had a password.
    """
    from mlflow.tracking.context.registry import resolve_tags

    from vqr1.tracking.sender import Sender

    uri = whole_address(config.tracking_uri or _kept_address(run_dir, resume))
    journal = Journal(run_dir)
    before = journal.size
    since = journal.resume() if resume else None
    if since is None:
        # MLflow's own: user, script, commit.
        found = resolve_tags({**tags, "mlflow.runName": name})
        since = journal.start(config.experiment, masked(found), uri)
    sender = Sender(run_dir, uri, since)
    address = masked_uri(uri)
    try:
        # A run that is resumed has its id already, whether or not the server answers today.
        problem = sender.wait_for_run(config.wait_seconds, journal.size if config.require else None)
        if problem is not None and config.require:
            raise ConfigError(
                [
                    f"logger.tracking_uri={address}: {problem}; start the server, or set "
                    "logger.require=false to train without it and send the log later"
                ]
            )
    except ConfigError:
        sender.close(0)
        journal.forget(before)
        raise
    if problem is not None:
        log.warning(
            "MLflow at %s cannot be reached (%s); the run continues and keeps its log in %s",
            address,
            problem,
            journal.path,
        )
    return Tracking(journal, sender, uri, config.wait_seconds)


def _kept_address(run_dir: Path, resume: bool) -> str:
    """The store of a run whose command names none: the one that has its log, else the default.

    Of two that have it, as where a run was copied with its database, it is the default.

    Raises:
        ConfigError: its address had a password, which is not kept.
    """
    from vqr1.tracking.delivery import delivered_run, store_of
    from vqr1.tracking.sqlite_runs import has_run

    kept, default = store_of(run_dir) if resume else None, default_tracking_uri()
    own, run_id = database_file(default), delivered_run(run_dir)
    if kept is None or (own is not None and run_id is not None and has_run(own, run_id)):
        return default
    if MASK in kept:
        raise ConfigError(
            [
                f"logger.tracking_uri: missing; the log of {run_dir} went to {kept}, whose "
                "password is not kept: give the address"
            ]
        )
    database = database_file(kept)
    # Where a run was moved with its database, the one that it names is not there.
    gone = database is not None and not database.exists()
    return default if gone else kept
