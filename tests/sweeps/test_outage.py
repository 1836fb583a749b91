"""A sweep whose MLflow server is killed at its start, between its jobs, and at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.mlflow_server import MlflowServer
from vqr1.cli.sync import main as sync
from vqr1.config import LoggerConfig
from vqr1.sweeps.child import child_tags, run_swept
from vqr1.sweeps.folder import Attempt, SweepFolder
from vqr1.sweeps.jobs import SweepJob
from vqr1.sweeps.results import read_children, read_folder, read_sweep
from vqr1.sweeps.session import Sweep, SweepPlan
from vqr1.tracking import open_run_log

JOBS = 12


def plan(uri: str) -> SweepPlan:
    jobs = tuple(SweepJob(f"job{n}", (f"seed={n}",), {"seed": str(n)}) for n in range(JOBS))
    logger = LoggerConfig(name="mlflow", tracking_uri=uri, wait_seconds=1.0)
    return SweepPlan(
        "key", "train.py -m seed=range(12)", {}, {"seed": "range(12)"}, jobs, logger, "a: 1\n",
        None, None, "val/srcc",
    )  # fmt: skip


def train(folder: Path, logger: LoggerConfig) -> None:
    """What a job does to its log: three steps, a table of its own, and one that fails."""
    attempt = Attempt.read(folder)
    assert attempt is not None
    number = int(attempt.job.swept["seed"])

    def task() -> float:
        with open_run_log(logger, folder, f"run{number}", child_tags(folder)) as log:
            for step in range(3):
                log.metrics({"val/srcc": number / 100 + step / 10}, step)
            if number == 7 and attempt.number < JOBS:
                raise RuntimeError("by 7")
            log.text("note.txt", f"{number}\n")
        return number / 100

    try:
        run_swept(folder, task)
    except RuntimeError:
        assert number == 7


@pytest.mark.slow
def test_a_server_killed_three_times_loses_and_doubles_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = MlflowServer(tmp_path / "server")
    sweep_dir, wanted = tmp_path / "sweep", plan(server.uri)

    def run() -> None:
        # The server is away when the sweep begins: 1.
        with Sweep(SweepFolder(sweep_dir), wanted, print) as sweep:
            assert sweep.log is not None

            def launch(overrides: object, first: int) -> None:
                for place in range(len(pending)):
                    if first + place == 2:
                        server.start()
                    if first + place == 6:
                        server.kill()  # between two jobs: 2
                    if first + place == 8:
                        server.start()
                    train(sweep_dir / str(first + place), wanted.logger)

            pending = sweep.pending(wanted.jobs)
            sweep.launch(pending, launch)
            if server.running:
                server.kill()  # at its end: 3
            results = {result.name: result for result in sweep.results()}
            # While the server is away, results are those of the folders.
            assert results["job3"].metrics["val/srcc"] == pytest.approx(0.23)

    try:
        run()
        assert f"sync {sweep_dir}" in capsys.readouterr().out
        server.start()
        assert sync([str(sweep_dir)]) == 0
        check(server.uri, {"FINISHED": JOBS - 1, "FAILED": 1})
        # The same command again: only the job that failed, in a run of its own, below the same.
        wanted = replace(wanted, logger=replace(wanted.logger, wait_seconds=600.0))
        with Sweep(SweepFolder(sweep_dir), wanted, print) as sweep:
            (left,) = sweep.pending(wanted.jobs)
            sweep.launch([left], lambda _, first: train(sweep_dir / str(first), wanted.logger))
        assert sync([str(sweep_dir), "--restart"]) == 0
        check(server.uri, {"FINISHED": JOBS, "FAILED": 1})
        # The jobs' folders hold what the server does: a summary asks it for nothing.
        assert sweep.log is not None
        asked = (SweepFolder(sweep_dir), sweep.log.parent(), ["seed"], "val/srcc")
        kept = {job.name: job for job in read_folder(asked[0], asked[3])}
        logged = {job.name: job for job in read_children(*asked[1:])}
        assert kept == logged
        server.kill()
        assert read_sweep(asked[0], lambda: asked[1], *asked[2:]) == list(kept.values())
    finally:
        if server.running:
            server.kill()


def check(uri: str, expected: dict[str, int]) -> None:
    """One parent, and each job once, with all that it logged."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("vqr1")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("vqr1.kind") == "sweep"]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"seed": "range(12)"}
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"config.yaml", "command.txt"} <= files
    assert Counter(child.info.status for child in children) == expected
    finished = [child for child in children if child.info.status == "FINISHED"]
    assert len({child.data.tags["seed"] for child in finished}) == expected["FINISHED"]
    for child in children:
        number = int(child.data.tags["seed"])
        history = client.get_metric_history(child.info.run_id, "val/srcc")
        assert sorted((m.step, round(m.value, 6)) for m in history) == [
            (step, round(number / 100 + step / 10, 6)) for step in range(3)
        ]
        names = [file.path for file in client.list_artifacts(child.info.run_id)]
        assert ("note.txt" in names) == (child.info.status == "FINISHED")
        if child.info.status == "FAILED":
            assert child.data.tags["vqr1.error"] == "RuntimeError: by 7"
