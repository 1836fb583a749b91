"""Child runs read from an MLflow database file, by its own tables.

MLflow's client makes an object of every parameter of every run, and asks for each history alone:
ten thousand runs take minutes. The tables are MLflow's own, which its next version may change: they
are read where they are those of `REVISION`, and without a lock that others would wait for.

Not here: stores of a server and those with other tables, which only the client can read
(`vqr1.sweeps.parent`).
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REVISION = "dc11669786a5"
"""The schema of MLflow 3.17, by the name that its migrations write into `alembic_version`."""

_COLUMNS = {
    "runs": {"run_uuid", "status", "start_time", "lifecycle_stage"},
    "tags": {"run_uuid", "key", "value"},
    "params": {"run_uuid", "key", "value"},
    "latest_metrics": {"run_uuid", "key", "value", "is_nan"},
    "metrics": {"run_uuid", "key", "value", "is_nan", "step", "timestamp"},
}
"""What is read, by table."""

_CHILDREN = """\
    SELECT runs.run_uuid FROM tags AS parents JOIN runs ON runs.run_uuid = parents.run_uuid
    WHERE parents.key = 'mlflow.parentRunId' AND parents.value = ?
    AND runs.lifecycle_stage = 'active'"""

# Statements are made of constants of this file; every value is a parameter of theirs.
_RUNS = f"""\
    SELECT run_uuid, status FROM runs WHERE run_uuid IN ({_CHILDREN})
    ORDER BY start_time, run_uuid"""  # nosec B608


@dataclass(frozen=True)
class ChildRun:
    """What a summary reads of a run.

    Attributes:
        run_id: MLflow's.
        status: MLflow's.
        tags: by key.
        params: those that were asked for, by key.
        metrics: last value of each; NaN where that was undefined.
        history: (step, value) of one metric, as often as it was logged.
    """

    run_id: str
    status: str
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[tuple[int, float]] = field(default_factory=list)


def has_run(database: Path, run_id: str) -> bool:
    """Whether a file is an MLflow database that holds a run.

    Args:
        database: the file, which need not be there.
        run_id: MLflow's.
    """
    if not database.is_file():
        return False
    try:
        with closing(_opened(database)) as file:
            found = file.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
    except sqlite3.DatabaseError:  # no database, or none of MLflow's
        return False
    return found is not None


def has_known_tables(database: Path) -> bool:
    """Whether a database has the tables that `read_runs` reads, in the version that it knows.

    Args:
        database: the file.

    Raises:
        sqlite3.OperationalError: the file is locked, or cannot be opened.
    """
    with closing(_opened(database)) as file:

        def columns(table: str) -> set[str]:
            return {
                name for (name,) in file.execute("SELECT name FROM pragma_table_info(?)", (table,))
            }

        if any(not wanted <= columns(table) for table, wanted in _COLUMNS.items()):
            return False
        if "version_num" not in columns("alembic_version"):
            return False
        return file.execute("SELECT version_num FROM alembic_version").fetchall() == [(REVISION,)]


def read_runs(
    database: Path, parent: str, tags: Sequence[str], params: str, curve: str
) -> list[ChildRun]:
    """The runs of a parent that are not deleted, the oldest first.

    Args:
        database: the file, one that `has_known_tables`.
        parent: id of the parent run.
        tags: keys of the tags that are read.
        params: beginning of the keys of the parameters that are read.
        curve: metric whose history is read.

    Raises:
        sqlite3.OperationalError: the file is locked, or no database of MLflow.
    """
    with closing(_opened(database)) as file:
        rows = file.execute(_RUNS, (parent,))
        runs = {run: ChildRun(run, status) for run, status in rows}

        def read(
            table: str, columns: str, where: str, *values: str
        ) -> Iterator[tuple[ChildRun, list[Any]]]:
            query = f"SELECT run_uuid, {columns} FROM {table} WHERE run_uuid IN ({_CHILDREN})"  # nosec B608
            for run, *found in file.execute(f"{query} AND {where}", (parent, *values)):
                if run in runs:  # not one that began after the first query
                    yield runs[run], found

        places = ", ".join("?" * len(tags))
        for run, (key, value) in read("tags", "key, value", f"key IN ({places})", *tags):
            run.tags[key] = value
        beyond = params[:-1] + chr(ord(params[-1]) + 1)
        for run, (key, value) in read(
            "params", "key, value", "key >= ? AND key < ?", params, beyond
        ):
            run.params[key] = value
        for run, (key, value, undefined) in read("latest_metrics", "key, value, is_nan", "1"):
            run.metrics[key] = math.nan if undefined else value
        for run, (step, value, undefined) in read(
            "metrics", "step, value, is_nan", "key = ? ORDER BY timestamp, step, value", curve
        ):
            run.history.append((step, math.nan if undefined else value))
    return list(runs.values())


def _opened(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode=ro", timeout=10, uri=True)
