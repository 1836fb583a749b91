"""Sweeps of real trainings in real processes, with real signals."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tools.faults.forked import run_program
from tools.faults.killed_sweep import command, kill_launcher_at, prepare, state

pytestmark = pytest.mark.slow


def test_everything_is_there_once_after_the_same_command(tmp_path: Path) -> None:
    jobs = 5
    prepare(tmp_path, {0: "raise", 1: "kill"})
    argv = command(jobs, "hydra/launcher=processes", "hydra.launcher.n_jobs=2")
    # Jobs 0 (raises) and 2 end by themselves, job 1 dies; the launcher is killed in its middle.
    kill_launcher_at(tmp_path, argv, ended=2)
    before = state(tmp_path)
    assert before.parent.info.status == "RUNNING"

    again = run_program(argv, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    after = state(tmp_path)
    assert after.finished() == {str(job): 1 for job in range(jobs)}
    assert after.of_job(0) == ["FAILED", "FINISHED"]
    assert after.of_job(1) == ["KILLED", "FINISHED"]
    assert {run.info.status for run in [after.parent, *after.children]} == {
        "FINISHED", "FAILED", "KILLED",
    }  # fmt: skip
    assert after.parent.info.status == "FINISHED"
    failed = next(run for run in after.children if run.info.status == "FAILED")
    assert failed.data.tags["vqr1.error"] == "RuntimeError: by 0"
    for run in after.children:
        if run.info.status == "FINISHED":
            assert "val/srcc" in run.data.metrics or "val/invalid_rate" in run.data.metrics
            assert run.data.params["reward.terms.fault.job"] in "01234"
            assert run.data.params["reward"] == "format"

    folder = next((tmp_path / "multirun" / "train").iterdir())
    table = pd.read_csv(folder / "sweep_summary.csv")
    assert sorted(table["reward.terms.fault.job"]) == list(range(jobs))
    assert set(table["status"]) == {"FINISHED"}
    summary = json.loads((folder / "sweep_summary.json").read_text())
    assert summary["counts"] == {"FINISHED": jobs}
    # No folder was used twice: every attempt that began has its own.
    begun = list(folder.glob("*/started"))
    assert len(begun) == len(after.children)

    third = run_program(argv, cwd=tmp_path)
    assert third.returncode == 0
    assert "5 done before, 0 to run" in third.stdout
    assert len(state(tmp_path).children) == len(after.children)
