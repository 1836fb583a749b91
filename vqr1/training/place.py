"""Which process of a training this one is, and how it leaves.

A process learns its place from the variables that torchrun sets, or those of a SLURM step; the
training command's own launcher (`vqr1.cli.launch`) sets the same ones.

Not here: how the processes find each other (`processes.py`). A command reads its place before it
imports PyTorch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vqr1.errors import ConfigError

REPORT = "VQR1_LAUNCH_REPORT"
"""Variable of a process that this program's own launcher started: file for the one message."""
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """A process among those of its run.

    Attributes:
        rank: its number.
        world_size: how many there are.
        local_rank: its number on its node, and of its GPU.
        local_size: how many there are on its node.
        report: file for the message of the first that fails; None without our own launcher.
        launched: a launcher, ours or another, started it.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    report: Path | None = None
    launched: bool = False

    @property
    def nodes(self) -> int:
        """Nodes of the run."""
        return self.world_size // self.local_size


def find_place(environment: MutableMapping[str, str] = os.environ) -> Place:
    """This process's place; alone where no launcher has set anything.

    Args:
        environment: the variables; those of a SLURM step of several tasks are completed by the ones
            that torchrun would set.

    Raises:
        ConfigError: a launcher's variables are incomplete or no numbers.
    """
    if "RANK" not in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        environment.update(_of_slurm(environment))
    if not {"RANK", "WORLD_SIZE"} & environment.keys():
        return Place()
    missing = [name for name in _VARIABLES if name not in environment]
    if missing:
        raise ConfigError(
            [
                f"the launcher has set some of {', '.join(_VARIABLES)} but not "
                f"{', '.join(missing)}; start with torchrun, srun, or plainly with hardware.devices"
            ]
        )
    try:
        numbers = [int(environment[name]) for name in _VARIABLES if name != "MASTER_ADDR"]
    except ValueError as error:
        raise ConfigError([f"a launcher's variable is no number: {error}"]) from error
    rank, world_size, local_rank, local_size, _ = numbers
    report = environment.get(REPORT)
    return Place(
        rank, world_size, local_rank, local_size, None if report is None else Path(report), True
    )


def _of_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    # Lightning takes seconds to import, and a process outside of SLURM does not need it to start.
    from lightning.fabric.plugins.environments import SLURMEnvironment

    tasks = int(environment["SLURM_STEP_NUM_TASKS"])
    nodes = int(environment.get("SLURM_STEP_NUM_NODES", "1"))
    hosts = environment.get("SLURM_STEP_NODELIST", "127.0.0.1")
    # Two jobs that share a node must not meet at one port.
    port = 15000 + int(environment.get("SLURM_JOB_ID", "0")[-4:])
    found = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(tasks // nodes),
        "MASTER_ADDR": SLURMEnvironment.resolve_root_node_address(hosts),
        "MASTER_PORT": str(port),
    }
    return {name: environment.get(name, value) for name, value in found.items()}


def leave(code: int) -> NoReturn:
    """End one of several processes, once everything is written and said.

    Threads that still hold connections when Python tidies up may abort the process, which would
    look as if it had died.

    Args:
        code: exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
