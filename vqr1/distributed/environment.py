"""Rank, local rank and world size of this process, and how it exits.

They are read from the variables that torchrun sets, or those of a SLURM step; our own launcher
(`launch.py`) sets the same ones. This is the only module that reads them.

Not here: how the ranks find each other (`rendezvous.py`). A command reads its rank before it
imports PyTorch, and this module imports neither.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vqr1.errors import ConfigError

REPORT = "VQR1_LAUNCH_REPORT"
"""Variable of a process that this program's own launcher started: file for the one message."""
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Variable that only torchrun sets."""
RENDEZVOUS_PORT = 29400
"""torchrun's own for the rendezvous of several nodes."""
SLURM_TASKS = "SLURM_STEP_NUM_TASKS"
"""Variable that each process of `srun` has: how many there are."""
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_START = "start with torchrun, srun, or plainly with hardware.devices"


@dataclass(frozen=True)
class RankInfo:
    """Rank information of this process.

    Attributes:
        rank: global rank, 0 to `world_size` - 1.
        world_size: number of processes of the run.
        local_rank: rank on its node, and index of its GPU.
        local_size: number of processes on its node.
        report: file for the message of the first rank that fails; None without our own launcher.
        launched: a launcher, ours or another, started this process.
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


def find_rank_info(environment: MutableMapping[str, str] = os.environ) -> RankInfo:
    """Rank information of this process; a world of one where no launcher has set anything.

    Args:
        environment: the variables; those of a SLURM step of several tasks are completed by the ones
            that torchrun would set, and those of any launcher by how much PyTorch prints.

    Raises:
        ConfigError: a launcher's variables are incomplete, no numbers, or do not fit together.
    """
    in_step = "RANK" not in environment and _number(environment, SLURM_TASKS, 1) > 1
    if not in_step and not {"RANK", "WORLD_SIZE"} & environment.keys():
        return RankInfo()
    # PyTorch, which reads this when it is imported, prints stacks for connections that it tries.
    environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if in_step:
        environment.update(_of_slurm(environment))
    _require(environment, _VARIABLES)
    numbers = {name: _number(environment, name) for name in _VARIABLES if name != "MASTER_ADDR"}
    rank, world_size, local_rank, local_size, port = numbers.values()
    if not (
        0 <= rank < world_size
        and 0 <= local_rank < local_size <= world_size
        and world_size % local_size == 0
        and 0 < port < 2**16
    ):
        found = ", ".join(f"{name}={number}" for name, number in numbers.items())
        raise ConfigError(
            [
                f"the launcher's variables do not fit together: {found}; RANK counts from 0 to "
                "WORLD_SIZE - 1, LOCAL_RANK from 0 to LOCAL_WORLD_SIZE - 1, every node starts "
                f"LOCAL_WORLD_SIZE processes, and a port is below 65536; {_START}"
            ]
        )
    report = environment.get(REPORT)
    return RankInfo(
        rank, world_size, local_rank, local_size, None if report is None else Path(report), True
    )


def started_again(
    info: RankInfo,
    alone: str,
    by_torchrun: str,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """What a user types to start a command again as this process was started.

    Args:
        info: this process's rank information.
        alone: the command as it starts by itself.
        by_torchrun: the command as torchrun is given it.
        environment: the variables.
    """
    if not info.launched or info.report is not None:
        return alone
    sizes = f"--nproc-per-node {info.local_size}"
    if TORCHRUN in environment:
        if info.nodes == 1:
            return f"torchrun {sizes} {by_torchrun}"
        first = f"{environment.get('MASTER_ADDR', 'FIRST_NODE')}:{RENDEZVOUS_PORT}"
        return (
            f"torchrun --nnodes {info.nodes} {sizes} --rdzv-backend c10d --rdzv-endpoint {first} "
            f"{by_torchrun}   # on each of the {info.nodes} nodes"
        )
    if SLURM_TASKS in environment:
        return f"srun --nodes {info.nodes} --ntasks-per-node {info.local_size} {alone}"
    many = f"{info.nodes} x {info.local_size} processes"
    return f"{alone}   # by the same launcher, nodes and processes as before ({many})"


def get_local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Rank of this process on its node, of one that is connected already.

    Not by `find_rank_info`: vLLM in this process sets a rank and a world size of its own, which do
    not fit to the launcher's other variables.
    """
    return int(environment.get("LOCAL_RANK", "0"))


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher has started this process as one of several, given before any check."""
    return "RANK" in environment


def _require(environment: Mapping[str, str], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in environment]
    if missing:
        raise ConfigError(
            [
                f"the launcher has set some of {', '.join(names)} but not "
                f"{', '.join(missing)}; {_START}"
            ]
        )


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment[name] if default is None else environment.get(name, str(default))
    try:
        return int(value)
    except ValueError as error:
        raise ConfigError([f"a launcher's variable is no number: {name}={value!r}"]) from error


def _of_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    _require(environment, (SLURM_TASKS, "SLURM_PROCID", "SLURM_LOCALID"))
    tasks = _number(environment, SLURM_TASKS)
    local_size = _tasks_per_node(environment, tasks)
    # Lightning takes seconds to import, and a process outside of SLURM does not need it to start.
    from lightning.fabric.plugins.environments import SLURMEnvironment

    hosts = environment.get("SLURM_STEP_NODELIST", "127.0.0.1")
    # Two jobs that share a node must not meet at one port.
    port = 15000 + _number(environment, "SLURM_JOB_ID", 0) % 10000
    found = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(local_size),
        "MASTER_ADDR": SLURMEnvironment.resolve_root_node_address(hosts),
        "MASTER_PORT": str(port),
    }
    return {name: environment.get(name, value) for name, value in found.items()}


def _tasks_per_node(environment: Mapping[str, str], tasks: int) -> int:
    nodes = _number(environment, "SLURM_STEP_NUM_NODES", 1)
    # Such as 8, 8(x2) or 8(x2),4.
    listed = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts = {int(count) for count in re.findall(r"(?:^|,)(\d+)", listed)}
    counts = counts or {tasks // nodes if nodes > 0 else 0}
    if {count * nodes for count in counts} != {tasks}:
        raise ConfigError(
            [
                f"SLURM_STEP_NUM_TASKS={tasks}, SLURM_STEP_NUM_NODES={nodes}, "
                f"SLURM_STEP_TASKS_PER_NODE={listed or 'not set'}: every node must run as many "
                "tasks; start with srun --ntasks-per-node"
            ]
        )
    return tasks // nodes


def exit_process(code: int) -> NoReturn:
    """End one of several processes after everything is written.

    Threads that still hold connections when Python tidies up may abort the process, which would
    look as if it had died.

    Args:
        code: exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
