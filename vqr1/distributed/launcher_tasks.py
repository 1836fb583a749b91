"""Refusing a command that several processes of a launcher run at once, where it does not share out.

`vqr1 train`, `vqr1 eval` and `vqr1 score` share their work among the processes of torchrun or srun.
Everything else would be done once by every task, into the same files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from vqr1.errors import ConfigError
from vqr1.program import under_torchrun

_LAUNCHERS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun"),
    ("PMI_SIZE", "PMI_RANK", "mpiexec"),
)
"""Variables of a launcher with the number of its tasks and this task's own, and what it is called.
An allocation's own (`SLURM_NTASKS`) are set where only one of its tasks has been started too."""
_TORCHRUN = ("WORLD_SIZE", "RANK", "torchrun")


def refuse_tasks(
    command: str, *, torchrun: bool = False, environment: Mapping[str, str] = os.environ
) -> None:
    """Refuse to run as one of several tasks.

    Args:
        command: what the user calls it (`vqr1.program.name_of`), such as `vqr1 export`.
        torchrun: the command shares its work among the processes of torchrun.
        environment: the variables.

    Raises:
        ConfigError: a launcher has started several tasks.
    """
    if torchrun and "RANK" in environment:
        return
    fix = (
        "start one task (--ntasks=1), in it `torchrun --nproc-per-node=N "
        f"{under_torchrun(command)} ...` where N processes should share the work"
        if torchrun
        else "start it once, or one command for each share of the images with an output of its own"
    )
    for size, _, launcher in (*_LAUNCHERS, _TORCHRUN):
        tasks = _number(environment, size)
        if tasks > 1:
            raise ConfigError(
                [
                    f"{size}={tasks}: {launcher} has started {tasks} tasks, and each would do all "
                    f"the work of {command}; {fix}"
                ]
            )


def is_first_task(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this task reports for the others: one message is enough."""
    return not any(
        _number(environment, size) > 1 and _number(environment, rank)
        for size, rank, _ in (*_LAUNCHERS, _TORCHRUN)
    )


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else 0
