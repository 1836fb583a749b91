"""An MLflow store that does not answer: which errors show it, and the one line for it.

Not here: a training's own log, which is kept and sent later (`vqr1.tracking.delivery`).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from vqr1.errors import ConfigError
from vqr1.storage_faults import storage_line
from vqr1.tracking.secrets import masked_uri
from vqr1.tracking.store import one_line

_OTHER_SCHEMA = re.compile(r"found version (\w+), but expected (\w+)")
"""In MLflow's refusal of a database of another version of itself."""


def outage_errors() -> tuple[type[Exception], ...]:
    """What calls raise while the store is away, slow, locked or full."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, sqlite3.OperationalError, OSError)


@contextmanager
def store_reached(tracking_uri: str, key: str | None = None, fix: str = "") -> Iterator[None]:
    """Turn what calls to a store raise while it is away into one line.

    Args:
        tracking_uri: the store.
        key: what asked for it, such as `model.run=best`; None is `logger.tracking_uri`.
        fix: what may be done in place of starting the store.

    Raises:
        ConfigError: the store did not answer.
    """
    try:
        yield
    except outage_errors() as error:
        if storage_line(error) is not None:
            raise  # a disk, of files that have nothing to do with the store
        shown = masked_uri(tracking_uri)
        asked = f"logger.tracking_uri={shown}: the MLflow store"
        asked = asked if key is None else f"{key}: the MLflow store {shown}"
        if schema := _OTHER_SCHEMA.search(str(error)):
            raise ConfigError(
                [
                    f"{asked} has tables of another version of MLflow (schema {schema[1]}, not "
                    f"{schema[2]}); back it up and run `mlflow db upgrade {shown}`, or install the "
                    "version that wrote it"
                ]
            ) from error
        raise ConfigError(
            [f"{asked} does not answer ({one_line(error)}); start it{fix and f', {fix}'}"]
        ) from error
