"""A step that hangs: two processes, of which one waits, holds Python's lock, or is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from vqr1.config import HungStepConfig
from vqr1.training.step_watch import StepWatch, place_in

LIMIT_S = 6.0

REPORT_S = 60.0
"""Longest wait for the line that states where all are: a busy machine is late with it."""

WORKER = """
import ctypes, sys, time
from pathlib import Path
from vqr1.config import HungStepConfig
from vqr1.training.step_watch import StepWatch

rank, folder, kind = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def waits_for_ever():
    time.sleep(600)

def holds_the_lock():
    ctypes.PyDLL(None).sleep(600)

def waits_for_the_others():
    time.sleep(600)

# The floor decides, whatever the three steps take.
watch = StepWatch(HungStepConfig(factor=1.5, floor_s=LIMIT_S), folder, rank, 2)
for step in range(3):
    watch.begin(step)
    watch.end()
print("hangs", flush=True)
if kind == "between" and rank == 1:
    waits_for_ever()
watch.begin(3)
if rank == 0:
    waits_for_the_others()
{"lock": holds_the_lock}.get(kind, waits_for_ever)()
""".replace("LIMIT_S", str(LIMIT_S))


def reports(logs: list[Path]) -> list[str]:
    """Whole lines that state where all are."""
    lines = [line for log in logs for line in log.read_text().splitlines(keepends=True)]
    return [line for line in lines if "hangs." in line and line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["waits", "between", "lock", "stopped"])
def test_the_stacks_of_all_ranks(tmp_path: Path, kind: str) -> None:
    logs = [tmp_path / f"log_{rank}" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path), kind],
            stdout=subprocess.PIPE, stderr=log.open("w"), text=True,
        )
        for rank, log in enumerate(logs)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "hangs\n"
        if kind == "stopped":
            os.kill(processes[1].pid, signal.SIGSTOP)
        began = time.monotonic()
        files = [tmp_path / "stacks" / f"rank_{rank}.txt" for rank in range(2)]
        wanted = files[:1] if kind == "stopped" else files
        while not all(file.is_file() and "in <module>" in file.read_text() for file in wanted):
            assert time.monotonic() - began < 2 * LIMIT_S + 1, kind
            time.sleep(0.05)
        while not (lines := reports(logs)):
            assert time.monotonic() - began < REPORT_S, kind
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    (line,) = lines
    assert "step_3 hangs" in line
    assert "rank 0: <string>:" in line
    assert "waits_for_the_others" in line.partition("rank 1")[0]
    where = {"lock": "holds_the_lock", "stopped": "no stacks, its process is stopped or gone"}
    assert where.get(kind, "waits_for_ever") in line.partition("rank 1")[2]
    if kind in ("waits", "between"):
        taken = "between two steps" if kind == "between" else "in step 3 for"
        assert f"step_3: rank 1, process {processes[1].pid}, {taken}" in files[1].read_text()


def test_the_place_is_that_of_the_main_thread() -> None:
    text = textwrap.dedent(
        """\
        step_9: rank 0, process 7, in step 9 for 12 s
        Current thread 0x01 (most recent call first):
          File "/a/vqr1/training/step_watch.py", line 5 in _write

        Thread 0x02 (most recent call first):
          File "/lib/torch/distributed/c10d.py", line 30 in all_reduce
          File "/a/vqr1/distributed/collectives.py", line 20 in all_reduce_sum
          File "/a/train.py", line 1 in <module>
        """
    )
    assert place_in(text) == "c10d.py:30 all_reduce, from collectives.py:20 all_reduce_sum"
    assert place_in("") == "no stacks, its process is stopped or gone"
    assert place_in("step_1: rank 0\n") == "no Python code"


def test_two_ranks_may_remove_the_empty_folder_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = StepWatch(HungStepConfig(), tmp_path)
    remove = Path.rmdir

    def removed_by_another(folder: Path) -> None:
        remove(folder)
        remove(folder)

    monkeypatch.setattr(Path, "rmdir", removed_by_another)
    watch.close()
    assert not list(tmp_path.iterdir())
