"""Searches with Optuna: the study's own rules, and a real search that is killed and continues."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from tools.faults.forked import run_program
from tools.faults.killed_sweep import ROOT, TINY_RUN, kill_launcher_at
from tools.faults.mlflow_database import new_database
from tools.faults.small_set import write_kadid
from vqr1.cli import summarize
from vqr1.sweeps import search
from vqr1.sweeps.folder import Attempt, SweepFolder, SweepRecord
from vqr1.sweeps.jobs import SweepJob
from vqr1.sweeps.results import JobResult

SETTINGS = search.SearchSettings(4, 0, "maximize", True, 1, 0)
SPACE = {"optimizer.lr": FloatDistribution(1e-5, 1e-3, log=True)}


def open_study(folder: Path) -> optuna.Study:
    return search.open_study(search.storage_address(folder), "key", SETTINGS)


def result(value: float, status: str = "FINISHED") -> JobResult:
    return JobResult("job", 0, {}, status, {"val/srcc": value})


def test_a_total_of_trials_and_a_seed_that_moves_on(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    first, _ = search.trial_overrides(study, SPACE)
    search.tell(study, first, result(0.5), None)
    stale, _ = search.trial_overrides(study, SPACE)
    again = open_study(tmp_path)
    assert search.reconcile_open_trials(again, {}, None) == 1
    assert again.trials[stale.number].state is TrialState.FAIL
    assert search.trials_left(again, 4) == 3
    # A sampler with the same seed would propose the first point once more.
    third, _ = search.trial_overrides(again, SPACE)
    assert third.params["optimizer.lr"] != first.params["optimizer.lr"]
    search.tell(again, third, result(0.1, "PRUNED"), None)
    assert search.trials_left(again, 4) == 2
    best = search.best_trial(again)
    assert best is not None
    assert best.number == first.number


def test_a_trial_that_ended_without_its_launcher_counts(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    ended, _ = search.trial_overrides(study, SPACE)
    killed, _ = search.trial_overrides(study, SPACE)
    again = open_study(tmp_path)
    assert search.reconcile_open_trials(again, {ended.number: result(0.7)}, None) == 1
    states = {trial.number: trial.state for trial in again.trials}
    assert states == {ended.number: TrialState.COMPLETE, killed.number: TrialState.FAIL}
    assert again.best_value == 0.7


@pytest.mark.parametrize("value", [float("nan"), None])
def test_a_trial_without_a_metric_failed_and_is_made_again(
    tmp_path: Path, value: float | None
) -> None:
    study = open_study(tmp_path)
    trial, _ = search.trial_overrides(study, SPACE)
    metrics = {} if value is None else {"val/srcc": value}
    search.tell(study, trial, JobResult("job", 0, {}, "FINISHED", metrics), None)
    assert study.trials[trial.number].state is TrialState.FAIL
    assert search.trials_left(study, 4) == 4


def test_a_trial_below_the_median_is_given_up(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    for value in (0.6, 0.7, 0.8):
        trial, _ = search.trial_overrides(study, SPACE)
        trial.report(value, 1)
        search.tell(study, trial, result(value), None)
    # The median of the others at step 1 is .7.
    worse, _ = search.trial_overrides(study, SPACE)
    worse.report(0.69, 1)
    assert worse.should_prune()
    better, _ = search.trial_overrides(study, SPACE)
    better.report(0.71, 1)
    assert not better.should_prune()


def test_a_job_finds_its_trial_whichever_command_continues_the_search(tmp_path: Path) -> None:
    trial, _ = search.trial_overrides(open_study(tmp_path), SPACE)
    record = SweepRecord("another key", "train.py -m", {}, {}, {}, search=asdict(SETTINGS))
    SweepFolder(tmp_path).write(record)
    job = SweepJob("job", (), {}, trial=trial.number)
    callback = search.pruning_callback(Attempt(0, tmp_path / "0", job), "val/srcc")
    assert callback.trial.number == trial.number


@pytest.mark.slow
def test_a_killed_search_makes_the_missing_trials(tmp_path: Path) -> None:
    write_kadid(tmp_path / "kadid")
    store = new_database(tmp_path / "mlflow.db")
    excluded = ("reward=", "rollout.sampling", "validation.samples")
    argv = [
        sys.executable, str(ROOT / "train.py"), "-m", "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2", "hydra.sweeper.prune=false",
        "optimizer.lr=tag(log,interval(1e-5,1e-3))",
        *(text for text in TINY_RUN if not text.startswith(excluded)),
        "rollout.sampling.max_new_tokens=64", "validation.samples=2",
    ]  # fmt: skip
    kill_launcher_at(tmp_path, argv, ended=1)
    again = run_program(argv, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    (folder,) = (tmp_path / "multirun" / "train").iterdir()
    key = json.loads((folder / "sweep.json").read_text())["key"]
    study = optuna.load_study(storage=search.storage_address(folder), study_name=key)
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 2
    assert set(states) <= {TrialState.COMPLETE, TrialState.FAIL}
    # The folder's summary reads what was logged to MLflow.
    assert summarize.main([f"folder={folder}", "metric=val/srcc"]) == 0
    client = MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("vqr1").experiment_id])
    assert "RUNNING" not in {run.info.status for run in runs}
