"""How a job ended, where its folder and MLflow differ, or it ends at this moment."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tools.faults.mlflow_database import new_database
from vqr1.sweeps import folder as sweep_folder
from vqr1.sweeps.folder import OUTCOME_FILE, Attempt, SweepFolder, write_json
from vqr1.sweeps.jobs import SweepJob
from vqr1.sweeps.parent import ParentRun
from vqr1.sweeps.results import JobResult, _joined


def ends(attempt: Attempt, status: str) -> None:
    write_json(attempt.folder / OUTCOME_FILE, {"status": status, "error": None})


def prepared(folder: Path, number: int) -> Attempt:
    job = SweepJob(f"n{number}", (), {})
    attempt = Attempt(number, folder / str(number), job, "parent")
    SweepFolder(folder).prepare(attempt)
    attempt.started_file.touch()
    return attempt


def test_a_job_that_ends_between_two_looks_was_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(new_database(tmp_path / "runs.db"))
    parent = client.create_run("0")
    runs = []
    for number in range(4):
        tags = {"mlflow.parentRunId": parent.info.run_id, "vqr1.job_number": str(number)}
        runs.append(client.create_run("0", tags=tags).info.run_id)
    ending, marked, pruned, killed = (prepared(tmp_path, number) for number in range(4))
    # An earlier look took it for killed.
    client.set_terminated(runs[1], "KILLED")
    ends(marked, "FINISHED")
    client.set_terminated(runs[2], "KILLED")
    ends(pruned, "PRUNED")

    def looked(attempt: Attempt) -> bool:
        if attempt == ending:
            ends(ending, "FINISHED")
        return False

    monkeypatch.setattr(sweep_folder, "is_running", looked)
    ParentRun(client, parent.info.run_id, "").reconcile_children(SweepFolder(tmp_path))
    status = [client.get_run(run).info.status for run in runs]
    assert status == ["FINISHED", "FINISHED", "KILLED", "KILLED"]
    (ending.folder / OUTCOME_FILE).unlink()
    assert (ending.status, killed.status) == ("FINISHED", "KILLED")


def test_a_log_that_is_not_delivered_hides_nothing_of_the_folder() -> None:
    kept = JobResult("a", 1, {}, "FAILED", {"x": 2.0}, ((1, 0.5), (2, 0.75)), "ValueError: y")
    logged = JobResult("a", 1, {}, "RUNNING", {"x": 1.0, "z": 3.0}, ((1, 0.5),), None, "run")
    assert _joined(logged, kept) == JobResult(
        "a", 1, {}, "FAILED", {"x": 2.0, "z": 3.0}, kept.curve, "ValueError: y", "run"
    )
    # Of an earlier attempt, and of a job without a folder here.
    assert _joined(JobResult("a", 0, {}, "FAILED", {"x": 9.0}), kept) == kept
    assert _joined(logged, JobResult("a", -1, {}, "WAITING")) == logged
