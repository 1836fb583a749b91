"""Cores of this machine, and how many processes may share them.

Not here: GPUs, and the rest of a machine profile (`hardware.py`, which imports PyTorch).
"""

from __future__ import annotations

import os

from vqr1.config import HardwareConfig
from vqr1.counted import counted

PROCESSES_PER_CORE = 4
"""More take turns on the cores so often that nothing comes of it, and memory for each."""


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def crowding_problems(hardware: HardwareConfig, cores: int) -> list[str]:
    """Why so many processes cannot be started on a CPU, in at most one line."""
    most = PROCESSES_PER_CORE * cores
    if hardware.accelerator != "cpu" or hardware.devices <= most:
        return []
    return [
        f"hardware.devices={hardware.devices}: on the CPU each is a process with a model of its "
        f"own, and this machine has {counted(cores, 'core')}; use at most {most}"
    ]
