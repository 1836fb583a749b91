"""Starts the processes of one run on this machine, and supervises them.

`python train.py hardware=cpu_2procs` composes and checks its configuration once and then runs its
own command line `hardware.devices` times, each with the variables that torchrun would set. The
launching process trains nothing: it forwards signals, ends the rest when one process has died, and
prints the one message that there is to print. It keeps the rendezvous store, so that no port is
guessed.

Why not `torch.distributed.launcher.elastic_launch` (read in PyTorch 2.14): it counts any exit code
but 0 as a failure, so that a run which was saved after a signal (75), a mistake of the user (2) and
a pruned trial look alike; it forwards no SIGUSR1, SLURM's warning before a time limit; its handler
ends the processes after 30 seconds, which a large checkpoint takes longer than. `@record` hands
over what a process raised, but the exit codes are needed all the same.

Not here: several nodes, which torchrun or srun start (docs/launching.md), and how the processes
find each other (`rendezvous.py`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist

from vqr1.config import HardwareConfig
from vqr1.distributed.environment import RENDEZVOUS_PORT, REPORT
from vqr1.distributed.parents import how_it_ended
from vqr1.distributed.stop_requests import SIGNALS
from vqr1.distributed.stop_signals import takes
from vqr1.errors import (
    EXIT_INTERRUPTED,
    ConfigError,
    Interrupted,
    PrunedError,
    RunFaultError,
    UserError,
)
from vqr1.program import STARTED_AS, in_shell, name_of, started_as, under_torchrun

GRACE_SECONDS = 40.0
"""How long the others may continue once one has failed: they notice at their next exchange, and the
first may have to deliver the end of its log. Processes that wait in an exchange are then ended."""
_POLL_SECONDS = 0.1
_ROOT = Path(__file__).resolve().parents[2]
"""Folder that holds this package, installed or not."""
_REPORTED = (UserError.exit_code, RunFaultError.exit_code, EXIT_INTERRUPTED)


def launch(command: Sequence[str], processes: int, resume_with: str) -> None:
    """Run a command in several processes; return when all have done their work.

    Args:
        command: the program and its arguments, the same in every process.
        processes: how many.
        resume_with: the command that resumes the run, for the message when a process has died.

    Raises:
        UserError: the error that one of them has reported.
        RunFaultError: one of them died.
        Interrupted: a signal stopped them; what was saved until then counts.
        PrunedError: a search gave the run up.
    """
    with tempfile.TemporaryDirectory(prefix="vqr1_launch_") as scratch:
        report = Path(scratch) / "report.json"
        store = dist.TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30)
        )
        started: list[subprocess.Popen[bytes]] = []
        with passing_signals_on(started) as passed:
            for rank in range(processes):
                variables = _variables(rank, processes, store.port, report)
                # A session of its own: Ctrl-C in a terminal reaches the launcher, which passes it
                # on, and not every process twice.
                started.append(
                    subprocess.Popen(
                        command, env={**os.environ, **variables}, start_new_session=True
                    )
                )
                for number in passed:
                    started[-1].send_signal(number)
            first = _wait(started)
        _raise_outcome([p.wait() for p in started], first, passed, report, resume_with)


def check_one_machine(hardware: HardwareConfig) -> None:
    """Refuse what one command, or one job of a sweep, cannot start.

    Raises:
        ConfigError: several nodes.
    """
    if hardware.nodes == 1:
        return
    raise ConfigError(
        [
            f"hardware.nodes={hardware.nodes}: one command, or a job of a sweep, starts the "
            "processes of one machine; let srun start those of all nodes, or run this on every "
            f"node, of which this machine is the first: {on_every_node(hardware)}"
        ]
    )


def on_every_node(hardware: HardwareConfig) -> str:
    """This process's own command as torchrun starts it on each of several nodes."""
    arguments = [one for one in sys.argv[1:] if one not in ("-m", "--multirun")]
    return " ".join(
        [
            f"torchrun --nnodes {hardware.nodes} --nproc-per-node {hardware.devices}",
            f"--rdzv-backend c10d --rdzv-endpoint {socket.gethostname()}:{RENDEZVOUS_PORT}",
            under_torchrun(name_of("train")),
            *map(in_shell, arguments),
        ]
    )


def _variables(rank: int, count: int, port: int, report: Path) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        # The launcher keeps the store; otherwise rank 0 would try to.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        REPORT: str(report),
        STARTED_AS: started_as(),
    }


@contextmanager
def passing_signals_on(processes: list[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Hand every stop signal to all processes, those started later included.

    Yields:
        The numbers of the signals that came.
    """
    passed: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        passed.append(number)
        for process in processes:
            process.send_signal(number)

    before: dict[int, Any] = {n: signal.signal(n, hand_on) for n in SIGNALS if takes(n)}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all; once one has failed, end what does not end by itself.

    Returns:
        The rank that failed first; None if none did. One that died counts before one that noticed.
    """
    first: int | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in processes):
        codes = [process.returncode for process in processes]
        failed = [r for r, code in enumerate(codes) if code not in (None, 0, EXIT_INTERRUPTED)]
        if failed and first is None:
            first = _cause(failed, codes)
            deadline = time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
            break
        time.sleep(_POLL_SECONDS)
    if first is None:
        codes = [process.wait() for process in processes]
        failed = [r for r, code in enumerate(codes) if code not in (0, EXIT_INTERRUPTED)]
        first = _cause(failed, codes) if failed else None
    return first


def _cause(failed: Sequence[int], codes: Sequence[int | None]) -> int:
    return next((rank for rank in failed if codes[rank] not in _REPORTED), failed[0])


def _raise_outcome(
    codes: Sequence[int], first: int | None, passed: Sequence[int], report: Path, resume_with: str
) -> None:
    printed = json.loads(report.read_text(encoding="utf-8")) if report.exists() else None
    if first is not None and codes[first] not in _REPORTED:
        if printed is not None and printed["pruned"]:
            raise PrunedError(printed["message"])
        if -codes[first] in passed:
            # Before it took signals, or by a second one: it has printed nothing.
            name = signal.Signals(-codes[first]).name
            sys.stderr.write(f"stopped by {name}\n")
            raise Interrupted(name)
        raise RunFaultError(_died(first, codes, resume_with))
    if first is not None:
        message = printed["message"] if printed is not None else _died(first, codes, resume_with)
        kind = RunFaultError if codes[first] == RunFaultError.exit_code else UserError
        raise kind(message)
    if EXIT_INTERRUPTED in codes:
        raise Interrupted(signal.Signals(passed[0]).name if passed else "a signal")


def _died(rank: int, codes: Sequence[int], resume_with: str) -> str:
    code = codes[rank]
    above = "; what it printed is above" if code >= 0 else ""
    return (
        f"process {rank} of {len(codes)} {how_it_ended(code)}{above}; the others were stopped. "
        f"Resume with: {resume_with}"
    )
