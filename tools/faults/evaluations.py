"""Kills of one process among those of an evaluation: a rank, or the command that started them.

After each one message at most is expected, no process of it is left, and the same command ends with
the predictions and metrics of the uninterrupted evaluation, byte for byte.

Not here: trainings (`ranks.py`).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tools.faults.ranks import END_SECONDS, ENDED, ROOT, TRIES
from tools.faults.report import FaultResult, last_line
from tools.faults.runs import TIMEOUT
from vqr1.durable import ASIDE
from vqr1.errors import RunFaultError

SMALL = (
    "dataset=demo", "dataset.max_images=16", "mode.samples=2", "mode.sampling.max_new_tokens=32",
    "loader.batch_size=1", "loader.workers=0", "hardware=cpu_2procs", "logger=none",
    "statistics.bootstrap_draws=20", "report.plots=false", "report.worst=0", "run_dir=run",
)  # fmt: skip
"""An evaluation by two ranks: 8 batches of one image each."""

RESULTS = ("predictions.csv", "metrics.json")


class EvaluationWorkshop:
    """Evaluations, and the uninterrupted one that all are compared with.

    Args:
        folder: everything happens in it; what an earlier start left of the uninterrupted evaluation
            is used again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        times = folder / "seconds.txt"
        if not times.exists():
            shutil.rmtree(folder, ignore_errors=True)
            begin = time.monotonic()
            whole = self.start("whole")
            if whole.wait(TIMEOUT) != 0:
                raise RuntimeError(f"the uninterrupted evaluation failed:\n{self.output('whole')}")
            times.write_text(str(time.monotonic() - begin))
        self.seconds = float(times.read_text())
        self.reference = self.results("whole")

    def start(self, name: str) -> psutil.Popen:
        """Start an evaluation, or continue one, in a folder of its own."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (folder / "output.txt").open("wb") as output:
            return psutil.Popen(
                [sys.executable, str(ROOT / "eval.py"), *SMALL],
                cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def output(self, name: str) -> str:
        """What the last command in a folder printed."""
        return (self.folder / name / "output.txt").read_text(errors="replace")

    def results(self, name: str) -> dict[str, bytes]:
        """The files that must not depend on interruptions."""
        return {file: (self.folder / name / "run" / file).read_bytes() for file in RESULTS}


def kill_at_random(workshop: EvaluationWorkshop, number: int, seed: int) -> FaultResult:
    """SIGKILL of a rank, or of the command, at a random moment after the ranks were started."""
    rng = random.Random(f"{seed}:evaluation:{number}")
    fault, name = "SIGKILL of a rank, evaluation", f"kill_{seed}_{number}"
    longest = workshop.seconds
    for _ in range(TRIES):
        shutil.rmtree(workshop.folder / name, ignore_errors=True)
        moment, victim = rng.random() * longest, rng.randrange(3)
        begin = time.monotonic()
        command = workshop.start(name)
        ranks = _ranks(command)
        time.sleep(max(0.0, begin + moment - time.monotonic()))
        killed = (command, *ranks)[min(victim, len(ranks))]
        with suppress(psutil.NoSuchProcess):
            killed.kill()
        code = command.wait(TIMEOUT)
        problem = _problem(code, workshop.output(name), ranks, command_killed=killed is command)
        if problem is not None:
            return FaultResult(fault, printed=f"{problem}: {last_line(workshop.output(name))}")
        if code != 0:
            return _continued(workshop, fault, name, last_line(workshop.output(name)))
        longest = min(longest, moment)
    return FaultResult(fault, skipped=ENDED)


def _ranks(command: psutil.Popen) -> list[psutil.Process]:
    """The two processes that an evaluation starts; fewer where it ended before."""
    end = time.monotonic() + TIMEOUT
    found: list[psutil.Process] = []
    while time.monotonic() < end and command.poll() is None and len(found) < 2:
        with suppress(psutil.NoSuchProcess):
            found = [one for one in command.children() if "spawn_main" in " ".join(one.cmdline())]
        time.sleep(0.01)
    return found


def _continued(workshop: EvaluationWorkshop, fault: str, name: str, printed: str) -> FaultResult:
    """Continue to the end, and compare."""
    code = workshop.start(name).wait(TIMEOUT)
    if code != 0:
        return FaultResult(fault, printed=f"exit code {code}: {workshop.output(name)[-800:]}")
    same = workshop.results(name) == workshop.reference
    run = workshop.folder / name / "run"
    left = sorted(file.name for end in ("*partial*", f"*{ASIDE}") for file in run.rglob(end))
    if same and not left:
        shutil.rmtree(workshop.folder / name)
    return FaultResult(fault, True, same and not left, printed=f"left: {left}" if left else printed)


def _problem(
    code: int, output: str, ranks: list[psutil.Process], *, command_killed: bool
) -> str | None:
    """What is wrong with how an evaluation ended; None where nothing is."""
    _, alive = psutil.wait_procs(ranks, timeout=END_SECONDS)
    for process in alive:
        process.kill()
    if alive:
        return f"still there: {[process.pid for process in alive]}"
    expected = -signal.SIGKILL if command_killed else RunFaultError.exit_code
    if code not in (0, expected):
        return f"exit code {code}"
    errors = output.count("error: ")
    if "Traceback" in output or (code == RunFaultError.exit_code and errors != 1):
        return f"{errors} messages, or a traceback"
    return None
