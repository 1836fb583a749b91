"""Child runs read by the database's tables are those that MLflow's client reads."""

from __future__ import annotations

import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from vqr1.errors import ConfigError
from vqr1.sweeps.parent import ParentRun
from vqr1.tracking import sqlite_runs
from vqr1.tracking.sqlite_runs import ChildRun, has_known_tables, read_runs

pytestmark = pytest.mark.medium

Store = tuple[Path, MlflowClient, str, str]
TAGS = ("vqr1.job", "seed")


def test_as_the_client_reads_them(store: Store) -> None:
    database, client, experiment, parent = store
    assert has_known_tables(database)
    ids = []
    for number, start in enumerate((30, 10, 20)):
        tags = {"mlflow.parentRunId": parent, "vqr1.job": f"job {number}", "seed": str(number)}
        run = client.create_run(experiment, start_time=start, tags={**tags, "other": "x"})
        ids.append(run.info.run_id)
        client.log_param(ids[-1], "metrics.own.higher_is_better", "False")
        client.log_param(ids[-1], "optimizer.lr", "1e-6")
        values = [math.nan, 0.5, 0.25 + number]
        points = [Metric("val/srcc", value, 100 + n, n) for n, value in enumerate(values)]
        client.log_batch(ids[-1], [*points, Metric("undefined", math.nan, 1, 0)])
    client.set_terminated(ids[0], "FAILED")
    gone = client.create_run(experiment, tags={"mlflow.parentRunId": parent})
    client.delete_run(gone.info.run_id)
    client.create_run(experiment, tags={"mlflow.parentRunId": ids[0], "vqr1.job": "of another"})

    found = read_runs(database, parent, TAGS, "metrics.", "val/srcc")
    assert [run.run_id for run in found] == [ids[1], ids[2], ids[0]]  # by their start
    assert [run.status for run in found] == ["RUNNING", "RUNNING", "FAILED"]
    opened = ParentRun.open(f"sqlite:///{database}", parent)
    theirs = [opened._values(run, "val/srcc") for run in opened.children()]
    for ours, other in zip(found, theirs, strict=True):
        assert ours.tags == {key: other.tags[key] for key in TAGS}
        assert ours.params == {"metrics.own.higher_is_better": "False"}
        assert _values(ours) == _values(other)


def test_tables_of_another_version_are_read_by_the_client(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, client, experiment, parent = store
    run = client.create_run(experiment, tags={"mlflow.parentRunId": parent, "seed": "1"}).info
    client.log_metric(run.run_id, "val/srcc", 0.5, timestamp=1, step=0)
    opened = ParentRun.open(f"sqlite:///{database}", parent)
    direct = opened.child_values(TAGS, "metrics.", "val/srcc")
    # A later MLflow is installed, and its client reads what its migration has made.
    monkeypatch.setattr(sqlite_runs, "REVISION", "an earlier one")
    assert not has_known_tables(database)
    monkeypatch.setattr("vqr1.sweeps.parent.read_runs", None)
    (found,) = opened.child_values(TAGS, "metrics.", "val/srcc")
    assert (found.run_id, found.tags["seed"], _values(found)) == (
        run.run_id, "1", _values(direct[0]),
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE latest_metrics RENAME TO last_metrics",
        "ALTER TABLE metrics RENAME COLUMN is_nan TO undefined",
        "DROP TABLE alembic_version",
    ],
)
def test_other_tables_or_columns_are_left_to_the_client(store: Store, change: str) -> None:
    database, client, experiment, parent = store
    client.create_run(experiment, tags={"mlflow.parentRunId": parent})
    opened = ParentRun.open(f"sqlite:///{database}", parent)
    _execute(database, change)
    assert not has_known_tables(database)
    if "alembic" in change:
        assert len(opened.child_values(TAGS, "metrics.", "val/srcc")) == 1
    else:  # which misses them as well
        with pytest.raises(ConfigError, match="the MLflow store does not answer") as error:
            opened.child_values(TAGS, "metrics.", "val/srcc")
        assert len(str(error.value).splitlines()) == 1


def test_a_database_of_another_mlflow_is_one_line(store: Store, tmp_path: Path) -> None:
    database, _, _, parent = store
    _execute(database, "UPDATE alembic_version SET version_num = '0123456789ab'")
    # The path by another name: MLflow checks a store's tables once a process.
    (tmp_path / "again.db").write_bytes(database.read_bytes())
    with pytest.raises(ConfigError, match="schema 0123456789ab, not dc11") as error:
        ParentRun.open(f"sqlite:///{tmp_path}/again.db", parent)
    assert "mlflow db upgrade" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}")
    return database


@pytest.fixture
def store(empty: Path, tmp_path: Path) -> Store:
    """A database, its client, and an experiment and a run in it."""
    database = Path(shutil.copy(empty, tmp_path))
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.create_experiment("any", artifact_location=tmp_path.as_uri())
    return database, client, experiment, client.create_run(experiment).info.run_id


def _execute(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as file:
        file.execute(statement)
        file.commit()


def _values(run: ChildRun) -> tuple[dict[str, str], list[tuple[int, str]]]:
    """Metrics and history; NaN equals itself as text."""
    return (
        {key: repr(value) for key, value in run.metrics.items()},
        [(step, repr(value)) for step, value in run.history],
    )
