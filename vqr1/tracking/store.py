"""The MLflow store: its default place, and opening it safely.

MLflow's own patience is cut down here: its HTTP client would try one request for minutes, and its
database layer an unusable file for an hour. The journal keeps everything, so a call may fail fast.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from vqr1.errors import ConfigError, first_line
from vqr1.tracking.secrets import masked_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.exceptions import MlflowException

SQLITE = "sqlite:///"
REQUEST_SECONDS = 10
"""Time-out of one HTTP request to a tracking server, and wait for another process's lock."""

_REFUSED = re.compile(r"[^A-Za-z0-9_\-. :/]")
_UNUSABLE = frozenset(
    ("INVALID_PARAMETER_VALUE", "ENDPOINT_NOT_FOUND", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED",
     "UNAUTHENTICATED")
)  # fmt: skip

_NO_SUCH_RUN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes for an id that there is not, and for one that is none."""


def default_tracking_uri() -> str:
    """`mlflow.db` in the working directory, as an absolute sqlite address."""
    return f"{SQLITE}{Path.cwd() / 'mlflow.db'}"


def whole_address(tracking_uri: str) -> str:
    """An address that means the same store in every working directory."""
    database = database_file(tracking_uri)
    return tracking_uri if database is None else f"{SQLITE}{database}"


def slug(name: str) -> str:
    """`name` with the characters that MLflow refuses in names (`+`, `@`, ...) turned into `-`."""
    return _REFUSED.sub("-", name)


def quick_client(tracking_uri: str) -> MlflowClient:
    """A client whose calls give up after seconds.

    Raises:
        ConfigError: MLflow cannot use the address.
        MlflowException, OSError, sqlite3.OperationalError: the store cannot be reached now.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    database = database_file(tracking_uri)
    if database is not None:
        _check_database(database)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    # The schema migration reports every table it makes, and a locked database its whole stack;
    # nobody can act on that, and the journal states what is not delivered.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    try:
        return MlflowClient(tracking_uri)
    except ImportError as error:
        raise ConfigError(
            [
                f"logger.tracking_uri={masked_uri(tracking_uri)}: {one_line(error)}; install the "
                "package that this kind of database needs"
            ]
        ) from error
    except MlflowException as error:
        _raise_unusable(tracking_uri, error)
        raise


def reading_client(tracking_uri: str, key: str = "logger.tracking_uri") -> MlflowClient:
    """As `quick_client`, of a store that is there: reading makes no database.

    Args:
        tracking_uri: the store.
        key: what asked for it, for the message.

    Raises:
        ConfigError: as `quick_client`, or there is no such database file.
        Exception: as `quick_client`.
    """
    database = database_file(tracking_uri)
    if database is not None and not database.exists():
        raise ConfigError(
            [f"{key}: no MLflow database {SQLITE}{database}; name the store that has the run"]
        )
    return quick_client(tracking_uri)


def logged_run(client: MlflowClient, run_id: str, tracking_uri: str, key: str) -> Run:
    """A run of a store.

    Args:
        client: of the store.
        run_id: the run's id.
        tracking_uri: the store's address, for the message.
        key: what asked for it, such as `resume=ID`.

    Raises:
        ConfigError: the store has no such run.
        MlflowException, OSError, sqlite3.OperationalError: the store cannot be reached now.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in _NO_SUCH_RUN:
            raise
        raise ConfigError(
            [
                f"{key}: no such run in {masked_uri(tracking_uri)}; give a run's folder, or the id "
                "that a training printed and the right logger.tracking_uri"
            ]
        ) from error


def prepare_experiment(tracking_uri: str, experiment: str) -> str:
    """Create database and experiment where they do not exist yet.

    Processes that open one new sqlite file together crash in its schema migration, so creation
    happens under a file lock.

    Returns:
        The experiment's id.

    Raises:
        ConfigError: MLflow cannot use the address.
        MlflowException, OSError, sqlite3.OperationalError: the store cannot be reached now.
    """
    database = database_file(tracking_uri)
    if database is None:
        return _experiment_id(tracking_uri, experiment, None)
    database.parent.mkdir(parents=True, exist_ok=True)
    # A file that is no database gets no lock file beside it.
    with suppress(sqlite3.OperationalError):
        _check_database(database)
    with FileLock(f"{database}.lock", timeout=REQUEST_SECONDS):
        return _experiment_id(tracking_uri, experiment, database.parent / "mlruns")


def one_line(error: BaseException) -> str:
    """First line of a store's error, short enough for a warning, without passwords."""
    # SQLAlchemy puts where it met an error before what it met.
    lines = str(error).replace("(raised as a result of Query-invoked autoflush", "\n(").split("\n")
    found = "\n".join(line for line in lines if not line.startswith("(;"))
    # MLflow puts the whole of a nested exception at the address that did not answer.
    return masked_uri(first_line(error, 200, found.split(" with exception ")[0]))


def database_file(tracking_uri: str) -> Path | None:
    """The file of an sqlite address; None of another one."""
    if not tracking_uri.startswith(SQLITE):
        return None
    return Path(tracking_uri.removeprefix(SQLITE)).resolve()


def _check_database(database: Path) -> None:
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", timeout=1, uri=True)) as file:
            file.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            [
                f"logger.tracking_uri={SQLITE}{database}: {error}; name an MLflow database or a "
                "file that does not exist yet"
            ]
        ) from error


def _experiment_id(tracking_uri: str, experiment: str, artifacts: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    client = quick_client(tracking_uri)
    try:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            location = None if artifacts is None else (artifacts / slug(experiment)).as_uri()
            return str(client.create_experiment(experiment, artifact_location=location))
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    except MlflowException as error:
        _raise_unusable(tracking_uri, error)
        raise


def _raise_unusable(tracking_uri: str, error: MlflowException) -> None:
    """Raise where the address itself is wrong; return where only the moment is."""
    if error.error_code in _UNUSABLE:
        raise ConfigError(
            [
                f"logger.tracking_uri={masked_uri(tracking_uri)}: {one_line(error)}; give "
                "sqlite:///FILE or the address of an MLflow server"
            ]
        ) from error
