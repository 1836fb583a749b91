"""Real evaluations whose terminal is closed, and whose output nobody takes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tools.faults import lost_output
from tools.faults.mlflow_database import new_database

pytestmark = pytest.mark.slow

EVALUATION = (
    "dataset=demo", "dataset.max_images=40", "split=all", "mode.samples=2",
    "loader.batch_size=1", "loader.workers=0", "statistics.bootstrap_draws=20",
    "hardware.threads=1", "run_dir=out", "report.worst=0",
)  # fmt: skip
MODULE = "vqr1.cli.evaluate"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("whole")
    new_database(folder / "mlflow.db")
    process = lost_output.start(MODULE, str(folder), None, *EVALUATION)
    process.join(300)
    assert process.exitcode == 0, (folder / "output.txt").read_text()
    return pd.read_csv(folder / "out/predictions.csv")


@pytest.mark.parametrize(
    "change", [lost_output.closed_pipe, lost_output.closed_terminal, lost_output.full_disk]
)
def test_output_that_nobody_takes_stops_no_evaluation(
    tmp_path: Path, whole: pd.DataFrame, change: Callable[[], None]
) -> None:
    new_database(tmp_path / "mlflow.db")
    process = lost_output.start(MODULE, str(tmp_path), change, *EVALUATION)
    process.join(300)
    assert process.exitcode == 0
    assert pd.read_csv(tmp_path / "out/predictions.csv").equals(whole)
    assert (tmp_path / "out/report.md").is_file()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_keeps_what_is_scored(
    tmp_path: Path, whole: pd.DataFrame, number: signal.Signals
) -> None:
    new_database(tmp_path / "mlflow.db")
    process = lost_output.start(MODULE, str(tmp_path), None, *EVALUATION)
    partial = tmp_path / "out/predictions.partial-0.csv"
    deadline = time.monotonic() + 120
    while not partial.exists() or partial.read_bytes().count(b"\n") < 8:
        assert time.monotonic() < deadline
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    printed = (tmp_path / "output.txt").read_text()
    assert process.exitcode == 75, printed
    last = printed.splitlines()[-1]
    assert last.startswith(f"stopped by {number.name}; what was evaluated is kept, and continues")
    assert last.endswith(" run_dir=out")
    again = lost_output.start(MODULE, str(tmp_path), None, *EVALUATION)
    again.join(300)
    printed = (tmp_path / "output.txt").read_text()
    assert again.exitcode == 0, printed
    assert "continuing: " in printed
    assert pd.read_csv(tmp_path / "out/predictions.csv").equals(whole)


def test_nohup_keeps_an_evaluation_from_stopping_by_sighup(
    tmp_path: Path, whole: pd.DataFrame
) -> None:
    new_database(tmp_path / "mlflow.db")
    process = lost_output.start(MODULE, str(tmp_path), lost_output.nohup, *EVALUATION)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out/predictions.partial-0.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGHUP)
    process.join(300)
    assert process.exitcode == 0
    assert pd.read_csv(tmp_path / "out/predictions.csv").equals(whole)
