"""The plan beside a real training: a few steps of training in a process of its own.

Not here: what is planned (`memory.py`).
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vqr1.config import TrainConfig
from vqr1.errors import ConfigError, RunFaultError
from vqr1.program import name_of

STEPS = 3
"""The heap's holes appear with the second step."""

TRAIN = (sys.executable, "-P", "-m", "vqr1.cli.train")


def measured_peak(config: TrainConfig, overrides: Sequence[str]) -> float:
    """The most memory, in MiB, that a training's process has held when its steps ended.

    Args:
        config: the training's configuration.
        overrides: the arguments that it was composed from.

    Raises:
        ConfigError: the configuration is not one of a single process on a CPU.
        RunFaultError: the training failed.
    """
    if config.hardware.accelerator != "cpu" or config.hardware.devices > 1:
        raise ConfigError(
            [
                f"hardware.accelerator={config.hardware.accelerator}, hardware.devices="
                f"{config.hardware.devices}: --check measures one process on a CPU; use "
                "hardware=cpu"
            ]
        )
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [
            *TRAIN, *overrides, f"run_dir={run_dir}", f"max_steps={STEPS}",
            "max_epochs=null", "logger=csv", "validation.test=false",
            # Validation is not part of the plan.
            f"validation.every_steps={STEPS}", "validation.max_images=2", "validation.samples=2",
            "callbacks.progress=false",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            printed = done.stderr.strip().splitlines()
            raise RunFaultError(
                f"{name_of('train')}: {printed[-1] if printed else f'code {done.returncode}'}"
            )
        with (run_dir / "metrics.csv").open(encoding="utf-8", newline="") as lines:
            peaks = [row["train/memory_mib"] for row in csv.DictReader(lines)]
    return max(float(peak) for peak in peaks if peak)
