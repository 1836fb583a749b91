"""Progress that a person can follow: a bar in a terminal, lines in a log file."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import TextColumn

from vqr1.evaluation.metrics import HEADLINE, headline
from vqr1.progress import new_progress

SHOWN = {
    "train/reward/total": "reward",
    "train/cross_entropy": "cross-entropy",
    "train/kl": "KL",
    "train/score_std": "score std",
    f"val/{HEADLINE}": f"val {headline().label}",
}
"""Metrics shown, by the names they are shown under."""


class TrainingBar(L.Callback):
    """One bar over all optimiser steps, with reward, KL, std of scores and validation SRCC.

    Lightning's own bars count batches of an epoch, and a run that is given in steps has no epochs
    that would mean anything to its reader.
    """

    def __init__(self, console: Console) -> None:
        self._progress = new_progress(console, more=(TextColumn("{task.fields[metrics]}"),))
        self._task = self._progress.add_task("training", total=None, metrics="")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar."""
        self._progress.update(self._task, total=trainer.max_steps)
        self._progress.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *unused: Any
    ) -> None:
        """Move on."""
        self._show(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """State why the bar stands still."""
        self._progress.update(self._task, description="validating")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the new validation metrics."""
        self._progress.update(self._task, description="training")
        self._show(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back before the error is printed."""
        self._progress.stop()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the last state on the screen."""
        if stage == "fit":
            self._progress.stop()

    def _show(self, trainer: L.Trainer) -> None:
        self._progress.update(
            self._task, completed=trainer.global_step, metrics=shown_metrics(trainer)
        )


class LineProgress(L.Callback):
    """One line every so many seconds, and one after each validation.

    Args:
        every_seconds: shortest time between two lines.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        self.every_seconds = every_seconds
        self._last = 0.0
        self._started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *unused: Any
    ) -> None:
        """Print when the last line is old enough."""
        if time.monotonic() - self._last >= self.every_seconds:
            self._print(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the new validation metrics."""
        if trainer.state.fn == "fit":
            self._print(trainer)

    def _print(self, trainer: L.Trainer) -> None:
        self._last = time.monotonic()
        elapsed = self._last - self._started
        print(
            f"step {trainer.global_step}/{trainer.max_steps}  {elapsed:.0f} s  "
            f"{shown_metrics(trainer)}",
            flush=True,
        )


def progress_callback(console: Console) -> L.Callback:
    """The bar in a terminal, lines elsewhere."""
    return TrainingBar(console) if console.is_terminal else LineProgress()


def shown_metrics(trainer: L.Trainer) -> str:
    """The shown metrics that exist so far, formatted."""
    metrics = trainer.callback_metrics
    shown = [f"{name} {float(metrics[key]):.3f}" for key, name in SHOWN.items() if key in metrics]
    unscored = float(metrics.get("val/unscored_images", 0.0))
    if unscored:
        images = float(metrics["val/images"])
        shown.append(f"({unscored:.0f} of {images:.0f} val images without a score)")
    return "  ".join(shown)
