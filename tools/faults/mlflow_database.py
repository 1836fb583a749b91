"""An empty MLflow database, made once for all tests of a process.

MLflow brings a new sqlite file up through all its schema versions, which takes longer than most
tests; what a run writes is the same in a copy.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from mlflow import MlflowClient


def new_database(path: Path) -> str:
    """Write an empty database.

    Returns:
        Its address.
    """
    path.write_bytes(_empty())
    return f"sqlite:///{path}"


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        MlflowClient(f"sqlite:///{path}").search_experiments()
        return path.read_bytes()
