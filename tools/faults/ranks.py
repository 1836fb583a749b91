"""Faults of one process among several of a run, in trainings of two: kills, stops, a full disk.

Each training is one command whose launcher starts the ranks (`vqr1.distributed.launch`). After each
fault one message is expected, no process of it, and the same command resumes it to the bits of the
uninterrupted run.

Not here: runs of one process (`kills.py`, `storage.py`, `surroundings.py`).
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from tools.faults.forked import ForkedProgram, process_of_rank
from tools.faults.mlflow_database import new_database
from tools.faults.report import FaultResult, last_line
from tools.faults.runs import TIMEOUT, compare, read_result
from tools.faults.vllm_transport import RunningServer, vllm_server
from vqr1.errors import EXIT_INTERRUPTED, RunFaultError

ROOT = Path(__file__).resolve().parents[2]

SMALL = (
    "dataset=demo", "dataset.max_images=8", "max_steps=4", "loader.workers=0",
    "validation.every_steps=2", "validation.max_images=4", "validation.samples=2",
    "validation.batch_size=2", "validation.bootstrap_draws=20", "grpo.group_size=3",
    "rollout.sampling.max_new_tokens=24", "callbacks.checkpoint.every_steps=1",
    "hardware.threads=1", "hardware=cpu_2procs", "loader.batch_size=2", "seed=3", "run_dir=run",
)  # fmt: skip
"""A training of two ranks: 4 steps, each saved."""

KINDS = {
    "replicated": (),
    "fsdp2": ("hardware.strategy=fsdp2", "hardware.reference=sharded"),
    "server": ("rollout=vllm_server", "rollout.sampling.stop=answer",
               "rollout.server.patience_s=180"),
}  # fmt: skip
"""What each kind of run adds."""

TRIES = 5
"""Trainings of which one at least has to be hurt before its end."""
ENDED = "the training ended before"
END_SECONDS = 120.0
"""The longest time in which all processes of a training have to be gone after a fault."""
LIMIT = 2**22
"""Bytes of a file that a full disk takes: the database, and neither a state nor a shard of one."""
_TRAIN = {"server": ROOT / "tests" / "support" / "served_train.py"}


class Ranks:
    """One command that trains in two processes, in a folder.

    Args:
        folder: its working directory.
        script: the command.
        arguments: its overrides.
        forked: from a process that has imported everything, whose children the ranks are then too;
            otherwise the launcher is their parent, as it is a user's.
    """

    def __init__(
        self, folder: Path, script: Path, arguments: Sequence[str], *, forked: bool = True
    ) -> None:
        self.folder = folder
        self._output = folder / f"output_{len(list(folder.glob('output_*')))}.txt"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        for file in folder.glob(".process_of_rank_*"):
            file.unlink()
        with self._output.open("wb") as output:
            start: Callable[..., Any] = ForkedProgram if forked else subprocess.Popen
            self.process = start(
                [sys.executable, str(script), *arguments],
                cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def output(self) -> str:
        """What it printed."""
        return self._output.read_text(errors="replace")

    def rank(self, number: int) -> psutil.Process | None:
        """The process of a rank; None where the training ended before there was one."""
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
                return psutil.Process(process_of_rank(self.folder, number))
            time.sleep(0.01)
        return None

    def wait_for_step(self, step: int) -> None:
        """Return once a step is saved, or the training has ended."""
        file = self.folder / "run" / "checkpoints" / f"step_{step:08d}.ckpt"
        while not file.exists() and self.process.poll() is None:
            time.sleep(0.01)

    def wait(self) -> int:
        """The launcher's exit code."""
        return int(self.process.wait(TIMEOUT))

    @property
    def finished(self) -> bool:
        """Whether the training has come to its end."""
        return (self.folder / "run" / "summary.json").exists()


class RankWorkshop:
    """Trainings of one kind, and the uninterrupted one that all are compared with.

    Args:
        folder: everything happens in it; what an earlier start left of the uninterrupted run is
            used again.
        kind: one of `KINDS`.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self._stack = ExitStack()
        self._server: RunningServer | None = None
        self._address: tuple[str, ...] = ()
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "server":
            self._server = self._stack.enter_context(vllm_server())
            with socket.socket() as found:
                found.bind(("127.0.0.1", 0))
                port = found.getsockname()[1]
            url = f"rollout.server.url={self._server.url}"
            self._address = (url, f"rollout.server.group_port={port}")
        self._database = folder / "empty.db"
        times = folder / "seconds.txt"
        if not times.exists():
            shutil.rmtree(folder / "whole", ignore_errors=True)
            self._database.unlink(missing_ok=True)
            new_database(self._database)
            begin = time.monotonic()
            whole = self.start("whole")
            if whole.wait() != 0:
                raise RuntimeError(f"the uninterrupted run failed:\n{whole.output}")
            times.write_text(str(time.monotonic() - begin))
        self.seconds = float(times.read_text())
        self.reference = read_result(folder / "whole")

    def close(self) -> None:
        """End the server, where there is one."""
        self._stack.close()

    def start(self, name: str, *more: str, forked: bool = True) -> Ranks:
        """Start a training in a folder of its own; see `Ranks`."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if not (folder / "mlflow.db").exists():
            shutil.copyfile(self._database, folder / "mlflow.db")
        script = _TRAIN.get(self.kind, ROOT / "train.py")
        overrides = (*SMALL, *KINDS[self.kind], *self._address, *more)
        return Ranks(folder, script, overrides, forked=forked)

    def resumed(self, fault: str, name: str, printed: str) -> FaultResult:
        """Resume to the end, and compare."""
        if self._server is not None:
            # One that a killed rank had joined waits for it.
            self._server.kill()
            self._server.start()
        training = self.start(name, "resume=auto")
        code = training.wait()
        done = compare(read_result(training.folder), self.reference) if code == 0 else None
        result = FaultResult.of(fault, code, done, printed if code == 0 else training.output[-800:])
        if result.recovered and result.identical:
            shutil.rmtree(training.folder)
        return result


def kill_at_random(workshop: RankWorkshop, number: int, seed: int) -> FaultResult:
    """SIGKILL of a random rank at a random moment; of another training where that one had ended."""
    rng = random.Random(f"{seed}:{workshop.kind}:{number}")
    fault = f"SIGKILL of a rank, {workshop.kind}"
    name, longest = f"kill_{seed}_{number}", workshop.seconds
    for _ in range(TRIES):
        shutil.rmtree(workshop.folder / name, ignore_errors=True)
        moment, victim = rng.random() * longest, rng.randrange(2)
        begin = time.monotonic()
        training = workshop.start(name)
        found = training.rank(victim)
        time.sleep(max(0.0, begin + moment - time.monotonic()))
        result = _after(workshop, fault, name, training, found.kill if found else None)
        if not result.skipped:
            return result
        longest = min(longest, moment)
    return result


def launcher_killed(workshop: RankWorkshop) -> FaultResult:
    """SIGKILL of the launcher: its ranks notice, save the step, and end."""
    fault, name = "launcher killed", "launcher"
    training = workshop.start(name, forked=False)
    training.wait_for_step(1)
    ranks = psutil.Process(training.process.pid).children()
    training.process.kill()
    training.wait()
    left = _left(ranks)
    if left:
        return FaultResult(fault, printed=f"still there: {left}")
    if training.finished:
        return FaultResult(fault, skipped=ENDED)
    return workshop.resumed(fault, name, last_line(training.output))


def rank_stopped(workshop: RankWorkshop) -> FaultResult:
    """SIGSTOP of a rank for longer than the others wait for it."""
    fault, name = "rank stopped", "stopped"
    training = workshop.start(name, "hardware.process_group_timeout_minutes=0.2")
    training.wait_for_step(1)
    found = training.rank(1)
    return _after(workshop, fault, name, training, found.suspend if found else None)


def disk_full(workshop: RankWorkshop) -> FaultResult:
    """The rank that saves can write no file as large as a checkpoint."""
    fault, name = "disk of a rank full", "full"
    training = workshop.start(name, "callbacks.checkpoint.on_failed_write=stop")
    training.wait_for_step(1)
    found = training.rank(0)

    def fill() -> None:
        assert found is not None
        resource.prlimit(found.pid, resource.RLIMIT_FSIZE, (LIMIT, LIMIT))

    return _after(workshop, fault, name, training, fill)


def rank_slow(workshop: RankWorkshop) -> FaultResult:
    """A rank that is stopped for some seconds again and again: the others wait."""
    fault, name = "slow rank", "slow"
    training = workshop.start(name)
    found = training.rank(1)
    while found is not None and training.process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            found.suspend()
            time.sleep(1.5)
            found.resume()
        time.sleep(1.5)
    code = training.wait()
    done = compare(read_result(training.folder), workshop.reference) if code == 0 else None
    return FaultResult.of(fault, code, done, "" if code == 0 else last_line(training.output))


OTHERS: tuple[Callable[[RankWorkshop], FaultResult], ...] = (
    launcher_killed, rank_stopped, disk_full, rank_slow,
)  # fmt: skip


def _after(
    workshop: RankWorkshop,
    fault: str,
    name: str,
    training: Ranks,
    hurt: Callable[[], None] | None,
) -> FaultResult:
    """Hurt a training, look at what is left of it, resume it.

    Args:
        workshop: that started it.
        fault: name of what is done.
        name: of its folder.
        training: the training.
        hurt: None where it ended before it had such a rank.

    Returns:
        How it took it; skipped where it ended before.
    """
    ranks = [training.rank(number) for number in (0, 1)]
    if hurt is not None:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            hurt()
    code = training.wait()
    problem = _problem(training, code, ranks)
    if problem is not None:
        return FaultResult(fault, printed=f"{problem}: {last_line(training.output)}")
    if code == 0:
        return FaultResult(fault, skipped=ENDED)
    return workshop.resumed(fault, name, last_line(training.output))


def _problem(training: Ranks, code: int, ranks: Sequence[psutil.Process | None]) -> str | None:
    left = _left(ranks)
    if left:
        return f"still there: {left}"
    if code not in (0, RunFaultError.exit_code, EXIT_INTERRUPTED):
        return f"exit code {code}"
    errors = training.output.count("error: ")
    if "Traceback" in training.output or (code == RunFaultError.exit_code and errors != 1):
        return f"{errors} messages, or a traceback"
    return None


def _left(ranks: Sequence[psutil.Process | None]) -> list[int]:
    """Ranks that are not gone in time, which are ended then; a port or a lock would be theirs."""
    known = [process for process in ranks if process is not None]
    _, alive = psutil.wait_procs(known, timeout=END_SECONDS)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    return [process.pid for process in alive]
