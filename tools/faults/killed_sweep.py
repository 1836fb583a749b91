"""A real sweep under faults: one job raises, one dies by SIGKILL, and so does the launcher.

Used by the test with a few jobs, and by `scripts/sweep_faults.py` with twelve.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from tools.faults.forked import ForkedProgram
from tools.faults.mlflow_database import new_database
from tools.faults.small_set import write_kadid

ROOT = Path(__file__).resolve().parents[2]
TINY_RUN = (
    "dataset=kadid", "dataset.root=kadid", "dataset.split.by=reference",
    "dataset.split.fractions=[0.5,0.25,0.25]", "max_steps=1", "loader.batch_size=4",
    "loader.workers=0", "validation.every_steps=1", "validation.samples=0",
    "validation.max_images=4", "validation.test=false", "grpo.group_size=2",
    "rollout.sampling.max_new_tokens=4", "callbacks.checkpoint=null", "callbacks.progress=false",
    "logger.sample_answers=0", "reward=format",
)  # fmt: skip
FAULTY = (
    "+reward.terms.fault._target_=tests.support.faulty_reward.FaultyReward",
    "+reward.terms.fault.folder=orders",
)


@dataclass(frozen=True)
class SweepState:
    """What MLflow holds: the only parent, and its children by their job's value."""

    parent: Run
    children: list[Run]

    def of_job(self, job: int) -> list[str]:
        """Statuses of every child of one job, the oldest first."""
        key = "reward.terms.fault.job"
        return [c.info.status for c in self.children if c.data.tags[key] == str(job)]

    def finished(self) -> Counter[str]:
        """How often each job is there as finished."""
        done = [c for c in self.children if c.info.status == "FINISHED"]
        return Counter(c.data.tags["reward.terms.fault.job"] for c in done)


def command(jobs: int, *more: str) -> list[str]:
    """The sweep's command line: `jobs` jobs, two at once."""
    numbers = ",".join(str(job) for job in range(jobs))
    return [
        sys.executable, str(ROOT / "train.py"), "-m", f"+reward.terms.fault.job={numbers}",
        *FAULTY, *TINY_RUN, *more,
    ]  # fmt: skip


def prepare(folder: Path, orders: dict[int, str]) -> None:
    """The small set, an empty database, and what the jobs are given to do once."""
    new_database(folder / "mlflow.db")
    write_kadid(folder / "kadid")
    (folder / "orders").mkdir()
    for job, order in orders.items():
        (folder / "orders" / str(job)).write_text(order)


def outcomes(folder: Path) -> int:
    """Jobs of the folder's sweep that have ended by themselves."""
    return len(list(folder.glob("multirun/train/*/*/outcome.json")))


def kill_launcher_at(folder: Path, argv: list[str], ended: int, timeout: float = 600.0) -> None:
    """Start the sweep, and kill its launcher by SIGKILL once so many jobs have ended."""
    with (folder / "first.txt").open("wb") as output:
        launcher = ForkedProgram(argv, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + timeout
    while outcomes(folder) < ended and launcher.poll() is None:
        assert time.monotonic() < deadline, (folder / "first.txt").read_text()
        time.sleep(0.05)
    launcher.kill()
    assert launcher.wait() == -signal.SIGKILL, (folder / "first.txt").read_text()


def state(folder: Path, experiment: str = "vqr1") -> SweepState:
    """Read the sweep from MLflow."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"])
    parents = [run for run in runs if run.data.tags.get("vqr1.kind") == "sweep"]
    assert len(parents) == 1
    parent = parents[0]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1
    return SweepState(parent, children)
