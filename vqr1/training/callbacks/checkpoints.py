"""Best and last checkpoint.

Two callbacks, because one with both a monitor and `save_last` leaves the last checkpoint frozen at
the best epoch.
"""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint

from vqr1.config import CheckpointConfig

BEST = "best"
LAST = "last"


def checkpoint_callbacks(config: CheckpointConfig, folder: Path) -> list[ModelCheckpoint]:
    """The pair of callbacks for one run.

    Args:
        config: monitored metric and interval.
        folder: receives `best.ckpt` and `last.ckpt`.
    """
    best = ModelCheckpoint(
        dirpath=folder,
        filename=BEST,
        monitor=config.monitor,
        mode="max",
        save_top_k=1,
        save_weights_only=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(
        dirpath=folder,
        filename=LAST,
        monitor=None,
        save_top_k=1,
        every_n_train_steps=config.every_steps,
        enable_version_counter=False,
    )
    return [best, last]
