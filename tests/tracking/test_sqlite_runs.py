"""Child runs read by the database's tables are those that MLflow's client reads."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from vqr1.sweeps.parent import ParentRun
from vqr1.tracking.sqlite_runs import ChildRun, read_runs

pytestmark = pytest.mark.medium

TAGS = ("vqr1.job", "seed")


def test_as_the_client_reads_them(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.create_experiment("any", artifact_location=tmp_path.as_uri())
    parent = client.create_run(experiment).info.run_id
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


def _values(run: ChildRun) -> tuple[dict[str, str], list[tuple[int, str]]]:
    """Metrics and history; NaN equals itself as text."""
    return (
        {key: repr(value) for key, value in run.metrics.items()},
        [(step, repr(value)) for step, value in run.history],
    )
