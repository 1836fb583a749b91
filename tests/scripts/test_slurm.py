"""The SLURM scripts, with stand-ins for `srun`, `scontrol` and the training: who is requeued."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts/slurm"
STAND_INS = {
    "python": """
        trap 'echo USR1 >> signals' USR1
        trap 'echo TERM >> signals' TERM
        echo "$@" > arguments
        touch signals
        # The step in progress takes until all signals are there.
        until [ $(wc -l < signals) -ge $SIGNALS ]; do sleep 0.02; done
        exit $CODE
    """,
    "srun": 'shift; exec "$@"',
    "scontrol": 'case $1 in show) echo node0 ;; *) echo "$@" >> requeued ;; esac',
}


def job(folder: Path, script: str, code: int, *signals: signal.Signals) -> tuple[int, bool]:
    """Exit code of a job that gets these signals, and whether it was requeued."""
    for name, text in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}", "CODE": str(code), "RUNS": "runs",
        "SIGNALS": str(len(signals)), "SLURM_JOB_ID": "71", "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "8", "SLURM_JOB_NODELIST": "node[0-1]",
    }  # fmt: skip
    shell = subprocess.Popen(
        ["bash", SCRIPTS / script, "seed=1"], cwd=folder, env=environment, start_new_session=True
    )
    try:
        for count, number in enumerate(signals, 1):
            ready = folder / ("signals" if count > 1 else "arguments")
            end = time.monotonic() + 30
            while not ready.exists() or not ready.read_text():
                assert shell.poll() is None
                assert time.monotonic() < end
                time.sleep(0.01)
            shell.send_signal(number)
        ended = shell.wait(60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    printed = folder / "requeued"
    assert not printed.exists() or printed.read_text() == "requeue 71\n"
    return ended, printed.exists()


@pytest.mark.parametrize("script", ["train.sbatch", "train_nodes.sbatch"])
@pytest.mark.parametrize(
    ("code", "signals", "requeued"),
    [
        (75, (signal.SIGUSR1,), True),
        (75, (signal.SIGTERM,), False),
        (75, (signal.SIGUSR1, signal.SIGTERM), False),
        (75, (), False),
        (74, (signal.SIGUSR1,), False),
        (0, (), False),
    ],
)
def test_only_the_time_limit_requeues(
    tmp_path: Path, script: str, code: int, signals: tuple[signal.Signals, ...], requeued: bool
) -> None:
    assert job(tmp_path, script, code, *signals) == (code, requeued)
    given = (tmp_path / "arguments").read_text().split()
    assert given[:2] == ["train.py", "seed=1"]
    assert given[-2:] == ["run_dir=runs/71", "resume=auto"]
    if signals:
        names = [number.name.removeprefix("SIG") for number in signals]
        assert (tmp_path / "signals").read_text().split() == names
