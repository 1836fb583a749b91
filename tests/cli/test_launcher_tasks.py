"""Commands that share out no work are refused under a launcher that starts several tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.cli.conftest import Command
from vqr1.cli import data, evaluate, export, score
from vqr1.distributed.launcher_tasks import is_first_task, refuse_tasks
from vqr1.errors import ConfigError


@pytest.mark.parametrize("main", [export.main, partial(data.prepare, [])])
@pytest.mark.parametrize(("task", "lines"), [("0", 1), ("1", 0)])
def test_one_of_several_tasks_is_refused(
    run: Command,
    monkeypatch: pytest.MonkeyPatch,
    main: Callable[[], Any],
    task: str,
    lines: int,
) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", task)
    found = run(main, "run_dir=shared", "predictions=x.csv")
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == lines
    if lines:
        assert found.err.startswith("error: SLURM_STEP_NUM_TASKS=4: srun has started 4 tasks")


@pytest.mark.parametrize("main", [evaluate.main, score.main])
def test_incomplete_tasks_that_would_share_are_refused_once(
    run: Command, monkeypatch: pytest.MonkeyPatch, main: Callable[[], Any]
) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    found = run(main, "predictions=x.csv")
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("error: the launcher has set some of SLURM_STEP_NUM_TASKS")
    assert "SLURM_LOCALID" in found.err
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert run(main, "predictions=x.csv").err == ""


def test_a_service_of_several_tasks_is_refused(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    found = run(score.main, "serve")
    assert found.code == 2
    assert "would do all the work of score.py serve; start it once" in found.err


def test_an_allocation_and_torchrun_are_no_tasks() -> None:
    # The shell of an allocation of four tasks, and a step of one in it.
    refuse_tasks("vqr1 eval", environment={"SLURM_NTASKS": "4", "SLURM_PROCID": "0"})
    refuse_tasks("vqr1 eval", environment={"SLURM_STEP_NUM_TASKS": "1"})
    # One task a node, each of which runs torchrun.
    torchrun = {"SLURM_STEP_NUM_TASKS": "2", "RANK": "3", "WORLD_SIZE": "8"}
    refuse_tasks("vqr1 eval", torchrun=True, environment=torchrun)
    with pytest.raises(ConfigError, match=r"^SLURM_STEP_NUM_TASKS=2: .* of vqr1 export; start"):
        refuse_tasks("vqr1 export", environment=torchrun)
    for name, launcher in (
        ("WORLD_SIZE", "torchrun"), ("OMPI_COMM_WORLD_SIZE", "mpirun"), ("PMI_SIZE", "mpiexec"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"^{name}=2: {launcher} has started 2 tasks"):
            refuse_tasks("vqr1 export", environment={name: "2"})


def test_one_task_reports() -> None:
    several = {"SLURM_STEP_NUM_TASKS": "4"}
    assert is_first_task({**several, "SLURM_PROCID": "0"})
    assert not is_first_task({**several, "SLURM_PROCID": "3"})
    assert is_first_task({"SLURM_PROCID": "3"})
