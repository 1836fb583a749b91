"""The reference follows the policy every so many optimiser steps.

reference = (1 - mixup) reference + mixup policy, as in TR-DPO (arXiv 2404.09656), there at mixup 1
the "hard" and below it the "soft" update. What the reference is by then is part of a checkpoint.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from vqr1.policy.reference import FrozenCopy
from vqr1.training.checkpoint_shards import tensor_of
from vqr1.training.stages.module import StageModule


class ReferenceSync(L.Callback):
    """Moves the reference, which has to be a second set of weights.

    Args:
        every: optimiser steps between two moves.
        mixup: how far it moves, 1 all the way.
    """

    def __init__(self, every: int, mixup: float) -> None:
        self.every = every
        self.mixup = mixup
        self._moves = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from the step that the run begins or continues with."""
        self._moves = trainer.global_step // self.every

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Move if a move is due; in all processes after the same step."""
        due = trainer.global_step // self.every
        if due == self._moves:
            return
        self._moves = due
        assert isinstance(pl_module, StageModule)
        reference = _copy_of(pl_module)
        with torch.no_grad():
            reference.follow(pl_module.sharding.full_weights(pl_module.model), self.mixup)
        if pl_module.vision_cache is not None and not reference.shares_vision:
            pl_module.vision_cache.forget()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the reference with the policy; the strategy gathers it, or writes its shards."""
        checkpoint["reference"] = _copy_of(pl_module).state()

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the kept reference; a run that did not move it until now keeps the start's."""
        if "reference" in checkpoint:
            kept = ((name, tensor_of(value)) for name, value in checkpoint["reference"].items())
            _copy_of(pl_module).follow(kept, 1.0)


def _copy_of(module: L.LightningModule) -> FrozenCopy:
    assert isinstance(module, StageModule)
    reference = module.reference
    assert isinstance(reference, FrozenCopy), "ranking_checks.py refuses every other"
    return reference
