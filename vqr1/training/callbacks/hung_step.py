"""Reports to the watch over hung steps when a step begins and ends (`vqr1.training.step_watch`).

Validations, checkpoints and the loading of a batch lie between two steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from vqr1.config import HungStepConfig
from vqr1.distributed.collectives import get_rank, get_world_size
from vqr1.training.step_watch import StepWatch


class HungStep(L.Callback):
    """Writes the stacks of all ranks where a step takes many times its usual time.

    Args:
        config: the limit.
        run_dir: the run's folder.
    """

    def __init__(self, config: HungStepConfig, run_dir: Path) -> None:
        self._config = config
        self._run_dir = run_dir
        self._watch: StepWatch | None = None

    def on_train_start(self, *unused: Any) -> None:
        """Begin to watch."""
        self._watch = StepWatch(self._config, self._run_dir, get_rank(), get_world_size())

    def on_train_batch_start(self, trainer: L.Trainer, *unused: Any) -> None:
        """A step begins."""
        if self._watch is not None:
            self._watch.begin(trainer.global_step + 1)

    def on_train_batch_end(self, *unused: Any) -> None:
        """A step has ended."""
        if self._watch is not None:
            self._watch.end()

    def on_exception(self, *unused: Any) -> None:
        """Stop watching: Lightning tears nothing down then."""
        self.teardown()

    def teardown(self, *unused: Any, **named: Any) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
