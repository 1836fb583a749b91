"""The MLflow store: its default place, and creating it safely."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from filelock import FileLock

from vqr1.errors import ConfigError

SQLITE = "sqlite:///"
_REFUSED = re.compile(r"[^A-Za-z0-9_\-. :/]")


def default_tracking_uri() -> str:
    """`mlflow.db` in the working directory, as an absolute sqlite address."""
    return f"{SQLITE}{Path.cwd() / 'mlflow.db'}"


def slug(name: str) -> str:
    """`name` with the characters that MLflow refuses in names (`+`, `@`, ...) turned into `-`."""
    return _REFUSED.sub("-", name)


def prepare_experiment(tracking_uri: str, experiment: str) -> str:
    """Create database and experiment where they do not exist yet.

    Processes that open one new sqlite file together crash in its schema migration, so creation
    happens under a file lock.

    Returns:
        The experiment's id.

    Raises:
        ConfigError: MLflow cannot use the address.
    """
    if not tracking_uri.startswith(SQLITE):
        return _experiment_id(tracking_uri, experiment, None)
    database = Path(tracking_uri.removeprefix(SQLITE)).resolve()
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        return _experiment_id(tracking_uri, experiment, database.parent / "mlruns")


def _experiment_id(tracking_uri: str, experiment: str, artifacts: Path | None) -> str:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    # The schema migration reports every table it makes; nobody can act on that.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        client = MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(experiment)
    except MlflowException as error:
        raise ConfigError(
            [
                f"logger.tracking_uri={tracking_uri}: {str(error).splitlines()[0]}; give "
                "sqlite:///FILE or the address of an MLflow server"
            ]
        ) from error
    if found is not None:
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    location = None if artifacts is None else (artifacts / slug(experiment)).as_uri()
    return str(client.create_experiment(experiment, artifact_location=location))
