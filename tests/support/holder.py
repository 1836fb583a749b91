"""Processes that hold a lock until they are killed."""

from __future__ import annotations

import time
from pathlib import Path


def hold_run(run_dir: str) -> None:
    """Hold a run directory; `held.log` in it shows that the lock is taken."""
    from vqr1.training.run_record import RunLock

    with RunLock(Path(run_dir)):
        (Path(run_dir) / "held.log").touch()
        time.sleep(600)


def hold_output(path: str) -> None:
    """Hold a file of results; `held.log` beside it shows that the lock is taken."""
    from vqr1.inference.result_file import held

    with held(Path(path)):
        Path(path).with_name("held.log").touch()
        time.sleep(600)
