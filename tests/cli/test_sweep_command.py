"""Multiruns within one process: what they keep, and what they state at the end."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.cli.conftest import Command
from tools.faults.killed_sweep import TINY_RUN
from tools.faults.mlflow_database import new_database
from tools.faults.small_set import write_kadid
from vqr1.cli.train import main

pytestmark = pytest.mark.medium

SECRET = "hunter2hunter2"


@pytest.mark.slow
def test_a_search_over_few_values_ends_and_reports_it_again(run: Command, tmp_path: Path) -> None:
    write_kadid(tmp_path / "kadid")
    argv = [
        "-m", *TINY_RUN, "grpo.group_size=choice(2)", "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2", "hydra.sweeper.prune=false", "logger=csv",
        "sweep.metric=val/invalid_rate",
    ]  # fmt: skip
    # Both trials have the same values, and so share one job.
    first = run(main, *argv)
    assert first.code == 0, first.err
    assert "1 jobs: 1 finished" in first.out
    again = run(main, *argv)
    assert again.code == 0
    assert "2 trials, 0 to make" in again.out
    # Another objective is another search.
    other = run(main, *argv, "hydra.sweeper.direction=minimize", "sweep.metric=val/score_std")
    assert "2 trials, 2 to make" in other.out


def test_no_secret_of_a_sweep_is_written_where_others_read(run: Command, tmp_path: Path) -> None:
    write_kadid(tmp_path / "kadid")
    store = new_database(tmp_path / "mlflow.db")
    outcome = run(
        main, "-m", *TINY_RUN, "seed=1", f"+logger.tags.api_key={SECRET}",
        f"logger.tags.place=https://me:{SECRET}@host/x",
    )  # fmt: skip
    assert outcome.code == 2  # the second tag is a mistake: `+` is missing
    outcome = run(
        main, "-m", *TINY_RUN, "seed=1", f"+logger.tags.api_key={SECRET}",
        f"+logger.tags.place='https://me:{SECRET}@host/x'",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("vqr1")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    for found in runs:
        kept = {**found.data.tags, **found.data.params}
        assert [key for key, value in kept.items() if SECRET in value] == []
        folder = Path(found.info.artifact_uri.removeprefix("file://"))
        texts = [p.read_text(errors="replace") for p in folder.rglob("*") if p.is_file()]
        assert texts
        assert not any(SECRET in text for text in texts)
    artifacts = [file.path for run_ in runs for file in client.list_artifacts(run_.info.run_id)]
    assert "report.html" in artifacts
    assert "Sweep over" in next(tmp_path.glob("multirun/train/*/report.html")).read_text()
    (record,) = tmp_path.glob("multirun/train/*/sweep.json")
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
