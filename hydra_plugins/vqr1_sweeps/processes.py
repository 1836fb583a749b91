"""A launcher that gives every job a process of its own.

A job's process runs the command as if it had been typed for that job alone. So it may start further
processes itself (Lightning's own, or torchrun's), its memory goes back with its end, and its death,
however sudden, is its own.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from vqr1.program import STARTED_AS, override, own_command, started_as

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2


class ProcessLauncher(Launcher):
    """Starts jobs as processes.

    Args:
        n_jobs: at once.
    """

    def __init__(self, n_jobs: int = 1) -> None:
        if n_jobs < 1:
            raise ValueError(f"hydra.launcher.n_jobs={n_jobs}: must be 1 or more")
        self.n_jobs = n_jobs
        self.config: DictConfig | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra."""
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs; returns when the last has ended. An interrupt ends the running ones."""
        assert self.config is not None
        waiting = list(enumerate(job_overrides, initial_job_idx))
        running: dict[int, subprocess.Popen[bytes]] = {}
        returns: dict[int, JobReturn] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.n_jobs:
                    number, overrides = waiting.pop(0)
                    running[number] = self._start(number, overrides)
                time.sleep(POLL_SECONDS)
                for number in [n for n, process in running.items() if process.poll() is not None]:
                    returns[number] = _ended(number, running.pop(number).returncode)
        finally:
            for process in running.values():
                process.send_signal(signal.SIGINT)
            for process in running.values():
                process.wait()
        return [returns[number] for number in sorted(returns)]

    def _start(self, number: int, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
        assert self.config is not None
        folder = Path(str(self.config.hydra.sweep.dir)) / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"job {number}: {' '.join(filter_overrides(overrides))}", flush=True)
        with (folder / "output.txt").open("wb") as output:
            return subprocess.Popen(
                [*own_command(), *self._hydra_arguments(), *overrides,
                 override("hydra.run.dir", folder)],
                env={**os.environ, STARTED_AS: started_as()},
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True,  # one interrupt each, from here, not two
            )  # fmt: skip

    def _hydra_arguments(self) -> list[str]:
        """Hydra's own options and overrides of this command that a single run needs too."""
        assert self.config is not None
        given = get_args_parser().parse_args(sys.argv[1:])
        options = {"--config-dir": given.config_dir, "--config-name": given.config_name,
                   "--config-path": given.config_path}  # fmt: skip
        flags = [f"{name}={value}" for name, value in options.items() if value is not None]
        of_sweep = ("hydra.sweep.", "hydra.sweeper", "hydra/sweeper", "hydra.launcher",
                    "hydra/launcher", "hydra.mode", "hydra.run.")  # fmt: skip
        kept = [
            o for o in self.config.hydra.overrides.hydra if not o.lstrip("+~").startswith(of_sweep)
        ]
        return [*flags, *kept]


def _ended(number: int, code: int) -> JobReturn:
    print(f"job {number} ended with code {code}", flush=True)
    result = JobReturn()
    result.status = JobStatus.COMPLETED if code == 0 else JobStatus.FAILED
    result.return_value = None if code == 0 else RuntimeError(f"job {number}: exit code {code}")
    return result
